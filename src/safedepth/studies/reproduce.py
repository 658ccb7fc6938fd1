"""Reproducing the paper on organisms trained before one's eyes, offline.

Builds the testbed, measures aligned and base organisms as an audit would, calibrates
the depth measure on organisms of known depth, deepens the aligned organism and tests it
again (`reproduce_deepening`), and judges the paper's claims.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.data import read_prompts
from safedepth.errors import DataError
from safedepth.nouns import Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies.attack_plan import AttackOptions, Plan
from safedepth.studies.audit import AuditConfig
from safedepth.studies.audit_replies import audit_tasks, model_replies
from safedepth.studies.calibration import measure_known
from safedepth.studies.divergence import kl_table
from safedepth.studies.organism_finetuning import PROTECTED, FineTunings, fine_tune_and_ask
from safedepth.studies.organism_training import Beside, are_trained, train_organisms
from safedepth.studies.reproduce_attacks import attack_organism
from safedepth.studies.reproduce_deepening import (
    measure_deepening,
    organism_battery,
)
from safedepth.studies.reproduce_protection import (
    Protection,
    measure_protection,
)
from safedepth.studies.reproduce_summary import SeedTables, averaged, reproduction_summary, stacked
from safedepth.studies.target import Target, open_target
from safedepth.testbed import KNOWN_DEPTHS, Testbed, build_testbed

__all__ = ["QUICK", "ReproduceConfig", "reproduce"]

QUICK: Mapping[str, Any] = {
    "prompts": 24,
    "calibration_prompts": 8,
    "finetuning_prompts": 12,
    "suffix_prompts": 16,
    "known_depths": (0, 2, 10, 40),
}
"""Fields of a `ReproduceConfig` that is done sooner and decides less."""

PLAN = Plan(("prefill", "refusal_prefix"), ())
"""What the aligned organism is put through as a model that is audited would be."""


@dataclass(frozen=True)
class ReproduceConfig:
    """Everything a reproduction depends on; stored whole as `config.json`."""

    seeds: tuple[int, ...] = (0,)
    prompts: int = 48
    calibration_prompts: int = 16
    finetuning_prompts: int = 24
    suffix_prompts: int = 24
    known_depths: tuple[int, ...] = KNOWN_DEPTHS
    judges: tuple[str, ...] = ("oracle", "rules")
    tokenizer: str = "word"
    max_tokens: int = 160

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise DataError(f"Expected at least one seed, none negative; found {list(self.seeds)}.")
        if self.prompts < 2 or self.calibration_prompts < 2:
            raise DataError("A rate needs at least two prompts.")


def reproduce(config: ReproduceConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume the reproduction in `out`; returns the run directory."""
    with RunDirectory.open(out, asdict(config) | {"kind": "reproduce"}) as run:
        measured = [_measure(config, run, seed, progress) for seed in config.seeds]
        replies = run.measurement(
            "replies",
            lambda: stacked(
                [pd.concat([m.replies, m.deepening.replies], ignore_index=True) for m in measured],
                config.seeds,
            ),
        )
        kl = run.measurement("kl", lambda: averaged([m.kl for m in measured]))
        run.write_summary(reproduction_summary(config, run.begun["created"], measured, replies, kl))
        run.finish()
    return out


def _measure(config: ReproduceConfig, run: RunDirectory, seed: int, progress: Progress | None) -> SeedTables:
    """Build one seed's organisms and measure them; what the run holds already is not done again."""
    testbed = build_testbed(
        run.path / "testbed" / f"seed-{seed}",
        organisms=("base", "aligned", *(f"depth-{depth}" for depth in config.known_depths)),
        seed=seed,
        tokenizer=config.tokenizer,
        progress=progress,
    )
    finetunings = FineTunings(testbed.folder, seed, config.prompts, config.judges[0], config.max_tokens)
    work: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
    if not are_trained(testbed.folder):
        work.append((train_organisms, (testbed.folder, seed)))
    if not finetunings.are_measured(PROTECTED):
        work.append((fine_tune_and_ask, (finetunings, PROTECTED)))
    with closing(Beside([do for do, _ in work], [given for _, given in work])) as training:
        measured = _measured(config, run, testbed, seed, training, progress)
        training.wait(progress, until=lambda: finetunings.are_trained(PROTECTED))
        finetunings.ask(PROTECTED[::2], progress)
        training.wait(progress)
    return measured(measure_protection(run, finetunings))


def _measured(
    config: ReproduceConfig,
    run: RunDirectory,
    testbed: Testbed,
    seed: int,
    training: Beside,
    progress: Progress | None,
) -> Callable[[Protection], SeedTables]:
    """One seed's tables, but for those of fine-tuning under objectives, which go on beside."""
    audit = AuditConfig(
        model=str(testbed.organism("aligned")),
        base=str(testbed.organism("base")),
        prompts=str(testbed.prompts),
        judges=config.judges,
        limit=config.prompts,
        seed=seed,
        max_tokens=config.max_tokens,
        device="cpu",
        attack=AttackOptions(attacks=PLAN.attacks),
    )
    prompts = read_prompts(audit.prompts, limit=config.prompts)
    base = _organism(testbed, "base")
    aligned = _organism(testbed, "aligned")
    kl = run.measurement(f"kl-{seed}", lambda: _kl(aligned, base, prompts, progress))
    replies = [
        run.measurement(
            f"replies-{role}-{seed}",
            lambda target=target, role=role: model_replies(  # type: ignore[misc]
                audit,
                target,
                audit_tasks(audit, target, prompts, PLAN, role=role),
                role=role,
                logs=run.logs / f"seed-{seed}" / role,
                progress=progress,
            ),
        )
        for role, target in (("aligned", aligned), ("base", base))
    ]
    known_replies, known_kl = measure_known(
        run, audit, {d: _organism(testbed, f"depth-{d}") for d in config.known_depths}, base,
        prompts[: config.calibration_prompts], progress=progress,
    )  # fmt: skip
    training.wait(progress, until=lambda: are_trained(testbed.folder))
    battery = organism_battery(
        testbed, depths=audit.depths, limit=config.prompts, seed=seed, judges=config.judges,
        max_tokens=config.max_tokens,
    )  # fmt: skip
    deepening = measure_deepening(
        run, testbed, aligned, base, battery, finetuned_prompts=config.finetuning_prompts,
        attack=lambda target, role: attack_organism(
            run, target, role, testbed.prompts, seed=seed, searched=config.suffix_prompts,
            decoded=config.prompts, judges=config.judges, max_tokens=config.max_tokens, progress=progress,
        ),
        progress=progress,
    )  # fmt: skip
    cards = {"aligned": aligned.card, "base": base.card}
    together = pd.concat(replies, ignore_index=True)
    return lambda protection: SeedTables(together, kl, known_replies, known_kl, deepening, protection, cards)


def _organism(testbed: Testbed, name: str) -> Target:
    lender = str(testbed.organism("aligned")) if name == "base" else None
    return open_target(str(testbed.organism(name)), chat_template=lender, device="cpu")


def _kl(p: Target, q: Target, prompts: Sequence[Prompt], progress: Progress | None) -> pd.DataFrame:
    assert p.loaded is not None
    assert q.loaded is not None
    return kl_table(p.loaded, q.loaded, prompts, progress=progress)
