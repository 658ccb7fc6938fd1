"""Comparing recovery policies and refusal styles at equal updates, on organisms.

Every variant starts from the same aligned organism and sees the same number of examples;
none is shown a harmful prefix beyond `longest` tokens, so that depths past it are new to
all. They meet the same attacks: depths trained on, depths never trained on, an attacker
who picks the depth prompt by prompt, harm drawn out over turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.errors import DataError
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.runs.files import read_json
from safedepth.studies import summary
from safedepth.studies.comparison import comparison_block
from safedepth.studies.deepening import BEFORE, Measured, deepening_block
from safedepth.studies.organism_training import Beside, organism_config, wait_for_all
from safedepth.studies.places import RECORD
from safedepth.studies.recovering import CONTROL_POLICY, train_recovery
from safedepth.studies.reproduce_deepening import organism_battery
from safedepth.studies.target import open_target
from safedepth.testbed import Testbed, build_testbed

__all__ = ["VARIANTS", "CompareConfig", "Variant", "compare"]

KNOWN_POINT = 10
TRAINED, DEEPER = (0, 1, 2, 3, 5, 7, 10, 15), (20, 25, 30, 40, 50)
"""Depths tested: those a variant may have met in training, and those none has."""


@dataclass(frozen=True)
class Variant:
    """One way to train: options of `RecoveryConfig`, what data, and what it is in words."""

    name: str
    definition: str
    recovery: str = "uniform"
    style: str = "given"
    turns: bool = False


VARIANTS = (
    Variant("uniform", "The paper's rule."),
    Variant("control", "Refusals without any harmful prefix.", recovery="none"),
    Variant("fixed", f"Turns back after exactly {KNOWN_POINT} tokens, or at once.", recovery="fixed"),
    Variant("dynamic", "Several fresh recovery points an answer.", recovery="dynamic"),
    Variant("adaptive", "Recovery points where the model is least likely to turn back.", recovery="adaptive"),
    Variant("escalating", "The paper's rule; a refusal says more the later it comes.", style="escalating"),
    Variant("full", "The paper's rule; every refusal says all it has.", style="full"),
    Variant("turns", "The paper's rule, also on harm drawn out over turns.", turns=True),
)


@dataclass(frozen=True)
class CompareConfig:
    """Everything a comparison depends on; stored whole as `config.json`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: int = 48
    steps: int = 30
    longest: int = 15
    tokenizer: str = "word"
    judges: tuple[str, ...] = ("oracle", "rules")

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise DataError(f"Expected at least one seed, none negative; found {list(self.seeds)}.")
        if self.prompts < 2 or self.steps < 1 or self.longest < 1:
            raise DataError("Expected at least two prompts, one step and one token of harmful prefix.")


def compare(config: CompareConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume the comparison in `out`; returns the run directory."""
    with RunDirectory.open(out, asdict(config) | {"kind": "compare"}) as run:
        measured = [_measure(config, run, seed, progress) for seed in config.seeds]
        replies = run.measurement(
            "replies",
            lambda: pd.concat(
                [table.assign(seed=seed) for (table, _), seed in zip(measured, config.seeds, strict=True)],
                ignore_index=True,
            ),
        )
        run.write_summary(_summary(config, run.begun["created"], replies, measured[0][1]))
        run.finish()
    return out


def _measure(
    config: CompareConfig, run: RunDirectory, seed: int, progress: Progress | None
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """One seed: train every variant, two at a time, and put each through the same tests."""
    testbed = build_testbed(
        run.path / "testbed" / f"seed-{seed}", organisms=("base", BEFORE), seed=seed,
        tokenizer=config.tokenizer, progress=progress,
    )  # fmt: skip
    missing = [v for v in VARIANTS if not (testbed.organism(v.name) / RECORD).is_file()]
    with ExitStack() as stack:
        sides = [
            Beside([train_variants], [(testbed.folder, seed, config.steps, config.longest, half)])
            for half in (missing[::2], missing[1::2])
            if half
        ]
        for side in sides:
            stack.callback(side.close)
        wait_for_all(sides, progress)
    battery = organism_battery(
        testbed, depths=(*TRAINED, *DEEPER), limit=config.prompts, seed=seed, judges=config.judges,
        turn_depths=(0, 5, 20),
    )  # fmt: skip
    tables = []
    for name in (BEFORE, *(variant.name for variant in VARIANTS)):
        with closing(open_target(str(testbed.organism(name)), device="cpu")) as target:
            tables.append(battery.replies(run, name, target, name=f"{name}-{seed}", progress=progress))
    records = [read_json(testbed.organism(variant.name) / RECORD) for variant in VARIANTS]
    return pd.concat(tables, ignore_index=True), records


def train_variants(
    folder: Path,
    seed: int,
    steps: int,
    longest: int,
    variants: Sequence[Variant],
    *,
    progress: Progress | None = None,
) -> None:
    """Train `variants` in a testbed's folder; what is there already is kept."""
    import torch

    from safedepth.data import read_anchors, read_triplets

    torch.set_num_threads(1)
    testbed = Testbed(folder)
    anchors = read_anchors(testbed.file("anchors.jsonl"))
    single = read_triplets(testbed.file("triplets.jsonl"))
    drawn_out = read_triplets(testbed.file("trajectories.jsonl"))
    for variant in variants:
        named = variant.recovery not in ("none", "fixed")
        config = organism_config(
            testbed.organism(variant.name), seed=seed, max_steps=steps, longest_prefix=longest,
            recovery=variant.recovery if named else "uniform", refusal_style=variant.style, estimate_every=10,
        )  # fmt: skip
        rule: Mapping[str, Any] = {"none": CONTROL_POLICY, "fixed": _FIXED}.get(variant.recovery, {})
        train_recovery(
            str(testbed.organism(BEFORE)),
            config,
            [*single, *drawn_out] if variant.turns else single,
            anchors,
            name=variant.name,
            progress=progress,
            **rule,
        )


def _fixed(rng: Any, length: int) -> int:
    """Recovery at a place that everybody knows, as often as the paper's rule has a prefix."""
    return min(KNOWN_POINT, length) if rng.random() < 0.5 else 0


_FIXED: Mapping[str, Any] = {"policy": _fixed, "rule": f"k = {KNOWN_POINT} with probability 0.5, else 0"}


def _described(variant: Variant) -> dict[str, Any]:
    turns = "one and several" if variant.turns else "one"
    return asdict(variant) | {"turns": turns}


def _summary(
    config: CompareConfig, created: str, replies: pd.DataFrame, training: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    names = [BEFORE, *(variant.name for variant in VARIANTS)]
    tables = Measured(
        replies, {}, judge=config.judges[0], benign=("benign", "lookalikes"), seed=config.seeds[0]
    )
    before = {"name": BEFORE, "recovery": "–", "style": "–", "turns": "–", "definition": "The model before."}
    return {
        "kind": "compare",
        "created": created,
        "seeds": list(config.seeds),
        "models": {},
        "judge": config.judges[0],
        "kl": None,
        "depth": {},
        "rates": summary.rates_of(replies),
        "deepening": deepening_block(tables, roles=names, training=training),
        "comparison": comparison_block(
            tables, [before, *map(_described, VARIANTS)], trained=TRAINED, deeper=DEEPER, against="uniform"
        ),
        "not_measured": [],
        "warnings": [
            f"All variants had {config.steps} updates and prefixes of at most {config.longest} tokens, far "
            "fewer than recovery training needs: with more, all that see prefixes reach 0 % and cannot be "
            "told apart."
        ],
    }
