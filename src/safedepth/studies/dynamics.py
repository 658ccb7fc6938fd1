"""Dynamics: which tokens a fine-tuning pulls at, step by step, and when the safety goes (claims C7, C8).

Fine-tunes a model on the user's conversations and looks at it after a few given steps: loss,
gradient norm and KL to the model before by response position, gradient norms by layer, and,
with prompts, how many harmful requests it answers. A repeated command resumes.

    OUT/checkpoints/checkpoint-N    the model after N steps
    OUT/                            the run directory: measurements, summary, report.html
"""

from __future__ import annotations

from contextlib import ExitStack, closing
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
from safedepth.studies.finetuning import fine_tune
from safedepth.studies.summary import entry_of
from safedepth.studies.target import Target, is_served, open_target
from safedepth.studies.training import longest_example
from safedepth.train.betas import read_betas

__all__ = ["DynamicsConfig", "dynamics"]

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


def dynamics(config: DynamicsConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume in `out`; returns the run directory.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can be
    seen there.
    """
    rows = _checked(config)
    hashes = {"data": file_sha256(config.data)}
    if config.prompts is not None:
        hashes["prompts"] = file_sha256(config.prompts)
    with RunDirectory.open(out, asdict(config) | {"kind": "dynamics", "sha256": hashes}) as run:
        tables, replies, cards = _measured(config, run, rows, progress)
        together = None
        if replies:
            together = run.measurement("replies", lambda: pd.concat(replies, ignore_index=True))
        run.write_summary(_summary(config, run, rows, tables, together, cards))
        run.finish()
    return out


def _checked(config: DynamicsConfig) -> list[Anchor]:
    """The conversations. Raises DataError, ModelError, JudgeError or TemplateError for what cannot work."""
    if is_served(config.model):
        raise DataError(
            f"expected a folder or hub id, found {config.model}, which is reached through a server: "
            "fine-tuning needs the weights"
        )
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


def _measured(
    config: DynamicsConfig, run: RunDirectory, rows: list[Anchor], progress: Progress | None
) -> tuple[dict[int, pd.DataFrame], list[pd.DataFrame], dict[str, Any]]:
    """By step the tables of `measure_dynamics`, and replies; cards of the models before and after."""
    places = _checkpoints(config, run, rows, progress)
    tables, replies = {}, []
    with ExitStack() as stack:
        before = stack.enter_context(closing(_opened(config, config.model)))
        cards = {"before": before.card}
        for step in config.steps:
            with ExitStack() as own:
                target = before if step == 0 else own.enter_context(closing(_opened(config, places[step])))
                cards["after"] = target.card
                tables[step] = run.measurement(
                    f"dynamics-{step}",
                    lambda target=target, step=step: _tokens(  # type: ignore[misc]
                        config, target, before, rows[: config.limit], f"tokens after step {step}", progress
                    ),
                )
                if config.battery is not None:
                    replies.append(config.battery.replies(run, f"step-{step}", target, progress=progress))
    return tables, replies, cards


def _checkpoints(
    config: DynamicsConfig, run: RunDirectory, rows: list[Anchor], progress: Progress | None
) -> dict[int, str]:
    """The model after each number of steps above 0."""
    steps = [step for step in config.steps if step]
    if not steps:
        return {}
    found = fine_tune(
        Path(config.model), rows, run.path / "checkpoints", steps=steps, batch=config.batch,
        learning_rate=config.learning_rate, seed=config.seed, objective=config.objective,
        beta=config.beta, warmup_steps=config.warmup,
        chat=load_chat(config.model, chat_template=config.chat_template), progress=progress,
        use_cpu=config.device == "cpu",
    )  # fmt: skip
    return {step: str(found[step]) for step in steps}


def _opened(config: DynamicsConfig, name: str) -> Target:
    template = config.chat_template if name == config.model else None
    return open_target(name, chat_template=template, dtype=config.dtype, device=config.device)


def _tokens(
    config: DynamicsConfig, target: Target, before: Target, rows: list[Anchor], what: str,
    progress: Progress | None,
) -> pd.DataFrame:  # fmt: skip
    assert target.loaded is not None
    assert before.loaded is not None
    return measure_dynamics(
        target.loaded, before.loaded, rows, first=config.first, directions=config.directions,
        seed=config.seed, what=what, progress=progress,
    )  # fmt: skip


def _summary(
    config: DynamicsConfig, run: RunDirectory, rows: list[Anchor], tables: dict[int, pd.DataFrame],
    replies: pd.DataFrame | None, cards: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    block = dynamics_block(tables, seed=config.seed, estimated=config.directions > 0)
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
        "models": cards,
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
