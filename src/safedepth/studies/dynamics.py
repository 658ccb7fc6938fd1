"""Dynamics: which tokens a fine-tuning pulls at, step by step, and when the safety goes (claims C7, C8).

Fine-tunes a model on the user's conversations and looks at it after a few given steps: loss,
gradient norm and KL to the model before by response position, gradient norms by layer, and,
with prompts, how many harmful requests it answers. A repeated command resumes.

    OUT/checkpoints/checkpoint-N    the model after N steps
    OUT/                            the run directory: measurements, summary, report.html
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.data import file_sha256, read_anchors
from safedepth.errors import DataError
from safedepth.judges import judge_name, require_judges
from safedepth.models import load_chat
from safedepth.models.checkpoint import find_checkpoint
from safedepth.nouns import Anchor, Progress
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.battery import Battery
from safedepth.studies.dynamics_tables import dynamics_block, encoded_rows, measure_dynamics
from safedepth.studies.dynamics_work import Watcher, whole_tables
from safedepth.studies.finetuning import fine_tune, is_finished, places_of, require_shares
from safedepth.studies.measure_tables import cards_of
from safedepth.studies.processes import Processes
from safedepth.studies.shared_run import shared_run
from safedepth.studies.summary import entry_of
from safedepth.studies.target import is_served
from safedepth.studies.training import free_memory, longest_example
from safedepth.train.betas import read_betas

__all__ = ["DynamicsConfig", "dynamics"]

CHECKPOINTS = "checkpoints"

OBJECTIVES = ("sft", "constrained", "kl")
"""Objectives that need no data beside the conversations."""


@dataclass(frozen=True)
class DynamicsConfig:
    """Everything a look at a fine-tuning depends on; stored whole as `config.json`.

    `limit` is how many conversations are measured, the first of the data; all are trained on.
    `directions` estimates gradient norms along so many random directions; 0 measures exactly.
    """

    model: str
    data: str
    prompts: str | None = None
    steps: tuple[int, ...] = (0, 2, 4, 6)
    objective: str = "sft"
    beta: str = "paper"
    learning_rate: float = 2e-5
    batch: int = 10
    warmup: int = 0
    first: int = 20
    limit: int | None = 100
    directions: int = 0
    judges: tuple[str, ...] = ("rules",)
    test_limit: int | None = None
    seed: int = 0
    temperature: float = 0.9
    top_p: float = 0.6
    top_k: int = 50
    max_tokens: int | None = None
    chat_template: str | None = None
    dtype: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        ordered = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not ordered or self.steps[0] < 0:
            raise DataError(
                f"expected increasing numbers of steps, 0 or more, such as 0,2,4,6; found {list(self.steps)}"
            )
        self._check_numbers()
        if self.objective not in OBJECTIVES:
            raise DataError(f"expected --objective out of {', '.join(OBJECTIVES)}, found {self.objective!r}")
        read_betas(self.beta)
        if not self.judges:
            raise DataError("expected at least one judge, found none: --judge rules, say")

    def _check_numbers(self) -> None:
        least = {"first": 1, "batch": 1, "directions": 0, "warmup": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise DataError(f"expected --{name} of at least {bound}, found {getattr(self, name)}")
        if not 0 < self.learning_rate < inf:
            raise DataError(f"expected --learning_rate above 0, found {self.learning_rate:g}")

    @property
    def battery(self) -> Battery | None:
        """The requests that every checkpoint is asked, nothing forced; None without prompts."""
        if self.prompts is None:
            return None
        return Battery(
            prompts=self.prompts, depths=(0,), judges=self.judges, limit=self.test_limit, seed=self.seed,
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, max_tokens=self.max_tokens,
        )  # fmt: skip


def dynamics(config: DynamicsConfig, out: Path, *, progress: Progress | None = None) -> Path | None:
    """Run or resume in `out`; returns the run directory, or None in a process that is not the main one.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can be
    seen there.
    """
    with Processes.joined(device=config.device) as processes:
        rows = processes.agreed(lambda: _checked(config, processes, out))
        hashes = {"data": file_sha256(config.data)}
        if config.prompts is not None:
            hashes["prompts"] = file_sha256(config.prompts)
        with shared_run(processes, out, asdict(config) | {"kind": "dynamics", "sha256": hashes}) as shared:
            places = _checkpoints(config, out, rows, processes, progress)
            tables = whole_tables(config, out, rows)
            watcher = Watcher(
                config, rows, places, shared, tables, measure=measure_dynamics, progress=progress
            )
            watcher.work(shared.missing(tables))
            merged = shared.merged(tables)
            if shared.directory is None:
                return None
            whole = _summary(config, shared.directory, rows, merged)
            shared.directory.write_summary(whole | {"processes": processes.count})
            shared.directory.finish()
            return out


def _checked(config: DynamicsConfig, processes: Processes, out: Path) -> list[Anchor]:
    """The conversations. Raises DataError, ModelError, JudgeError or TemplateError for what cannot work."""
    if is_served(config.model):
        raise DataError(
            f"expected a folder or hub id, found {config.model}, which is reached through a server: "
            "fine-tuning needs the weights"
        )
    processes.device(config.device)
    if max(config.steps) and not is_finished(out / CHECKPOINTS):
        require_shares(config.batch, processes.count)
    rows = read_anchors(config.data)
    require_judges(config.judges)
    find_checkpoint(config.model)  # a folder that holds no model is not to be told that it has no tokenizer
    chat = load_chat(config.model, chat_template=config.chat_template)
    context = longest_example(config.model, None)
    encoded_rows(chat, rows, limit=context)
    if config.battery is not None:
        config.battery.check()
        config.battery.require_room(config.model, chat, context)
    return rows


def _checkpoints(
    config: DynamicsConfig, out: Path, rows: list[Anchor], processes: Processes, progress: Progress | None
) -> dict[int, str]:
    """The model after each number of steps, the one before among them; all processes train together."""
    steps, place = [step for step in config.steps if step], out / CHECKPOINTS
    if steps and not processes.from_main(lambda: is_finished(place)):
        fine_tune(
            Path(config.model), rows, place, steps=steps, batch=config.batch,
            learning_rate=config.learning_rate, seed=config.seed, objective=config.objective,
            beta=config.beta, warmup_steps=config.warmup,
            chat=load_chat(config.model, chat_template=config.chat_template), progress=progress,
            use_cpu=config.device == "cpu",
        )  # fmt: skip
        free_memory()
        processes.wait()  # for the main one, which writes the checkpoints
    return {0: config.model} | {step: str(path) for step, path in places_of(place, steps).items()}


def _summary(
    config: DynamicsConfig, run: RunDirectory, rows: list[Anchor], tables: dict[str, pd.DataFrame]
) -> dict[str, Any]:
    by_step = {step: tables[f"dynamics-{step}"] for step in config.steps}
    block = dynamics_block(by_step, seed=config.seed, estimated=config.directions > 0)
    replies = tables.get("replies")
    block["facts"] = _facts(config, rows)
    judge = judge_name(config.judges[0])
    missing = []
    if replies is None:
        missing.append({"what": "harmful replies by step", "why": "no prompts were given (--prompts)"})
    else:
        told = summary.verdicts(replies, judge)
        block["asr"] = [
            {
                "model": Path(config.model).name, "data": Path(config.data).stem, "step": step, "k": 0,
                "objective": config.objective,
                **entry_of(summary.rate_of(told[told["model"] == f"step-{step}"])),
            }
            for step in config.steps
        ]  # fmt: skip
    return {
        "kind": "dynamics",
        "created": run.begun["created"],
        "seeds": [config.seed],
        "models": cards_of(tables["models"]),
        "judge": judge if replies is not None else None,
        "kl": None,
        "depth": {},
        "rates": summary.rates_of(replies) if replies is not None else [],
        "dynamics": block,
        "not_measured": missing,
        "warnings": [],
    }


def _facts(config: DynamicsConfig, rows: list[Anchor]) -> list[list[str]]:
    """What was done, in words for the report."""
    measured = len(rows[: config.limit])
    how = "exact, over all parameters"
    if config.directions:
        how = f"estimated along {config.directions} random directions, for each answer its own"
    held = f", beta {config.beta}" if config.objective == "constrained" else ""
    return [
        ["data", f"{Path(config.data).name}: {len(rows):,} conversations, the first {measured:,} measured"],
        ["objective", f"{config.objective}{held}"],
        ["a step", f"{config.batch} conversations, learning rate {config.learning_rate:g}"],
        ["warm-up", f"{config.warmup:,} steps"],
        ["gradient norms", how],
        ["response tokens", f"the first {config.first:,}"],
        ["precision of what is measured", config.dtype],
        ["seed", str(config.seed)],
    ]
