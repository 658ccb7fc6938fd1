"""Reproducing the paper on organisms trained before one's eyes, offline.

Builds the testbed, measures aligned and base organisms as an audit would, calibrates
the depth measure on organisms of known depth, deepens the aligned organism and tests it
again (`reproduce_deepening`), and judges the paper's claims.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.data import read_prompts
from safedepth.errors import DataError
from safedepth.nouns import Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.attack_plan import AttackOptions, Plan
from safedepth.studies.audit import AuditConfig
from safedepth.studies.audit_replies import audit_tasks, model_replies
from safedepth.studies.calibration import calibration_summary, measure_known
from safedepth.studies.claims import DeepEvidence, Evidence, judge_claims
from safedepth.studies.claims_deepening import DEEPENING_CLAIMS
from safedepth.studies.deepening import Measured, deepening_block
from safedepth.studies.divergence import kl_table, series_of
from safedepth.studies.organism_finetuning import PROTECTED, FineTunings, fine_tune_and_ask
from safedepth.studies.organism_training import DEEPENED, Beside, are_trained, train_organisms
from safedepth.studies.reproduce_deepening import (
    Deepening,
    finetuning_entries,
    measure_deepening,
    organism_battery,
)
from safedepth.studies.reproduce_protection import (
    Protection,
    measure_protection,
    protection_claims,
    protection_summary,
)
from safedepth.studies.target import Target, open_target
from safedepth.testbed import KNOWN_DEPTHS, Testbed, build_testbed

__all__ = ["ReproduceConfig", "reproduce"]

PLAN = Plan(("prefill", "refusal_prefix"), ())
"""What the aligned organism is put through as a model that is audited would be."""


@dataclass(frozen=True)
class ReproduceConfig:
    """Everything a reproduction depends on; stored whole as `config.json`."""

    seeds: tuple[int, ...] = (0,)
    prompts: int = 48
    calibration_prompts: int = 16
    finetuning_prompts: int = 24
    judges: tuple[str, ...] = ("oracle", "rules")
    tokenizer: str = "word"
    max_tokens: int = 160

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise DataError(f"Expected at least one seed, none negative; found {list(self.seeds)}.")
        if self.prompts < 2 or self.calibration_prompts < 2:
            raise DataError("A rate needs at least two prompts.")


@dataclass(frozen=True)
class _Measured:
    """One seed's tables: replies of aligned and base, their KL, and the calibration's by known depth."""

    replies: pd.DataFrame
    kl: pd.DataFrame
    known_replies: dict[int, pd.DataFrame]
    known_kl: dict[int, pd.DataFrame]
    deepening: Deepening
    protection: Protection
    cards: dict[str, Any]


def reproduce(config: ReproduceConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume the reproduction in `out`; returns the run directory."""
    with RunDirectory.open(out, asdict(config) | {"kind": "reproduce"}) as run:
        measured = [_measure(config, run, seed, progress) for seed in config.seeds]
        replies = run.measurement(
            "replies",
            lambda: _stacked(
                [pd.concat([m.replies, m.deepening.replies], ignore_index=True) for m in measured],
                config.seeds,
            ),
        )
        kl = run.measurement("kl", lambda: _averaged([m.kl for m in measured]))
        run.write_summary(_summary(config, run.begun["created"], measured, replies, kl))
        run.finish()
    return out


def _measure(config: ReproduceConfig, run: RunDirectory, seed: int, progress: Progress | None) -> _Measured:
    """Build one seed's organisms and measure them; what the run holds already is not done again."""
    testbed = build_testbed(
        run.path / "testbed" / f"seed-{seed}",
        organisms=("base", "aligned", *(f"depth-{depth}" for depth in KNOWN_DEPTHS)),
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
) -> Callable[[Protection], _Measured]:
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
        run, audit, {d: _organism(testbed, f"depth-{d}") for d in KNOWN_DEPTHS}, base,
        prompts[: config.calibration_prompts], progress=progress,
    )  # fmt: skip
    training.wait(progress, until=lambda: are_trained(testbed.folder))
    battery = organism_battery(
        testbed, depths=audit.depths, limit=config.prompts, seed=seed, judges=config.judges,
        max_tokens=config.max_tokens,
    )  # fmt: skip
    deepening = measure_deepening(
        run, testbed, aligned, base, battery, finetuned_prompts=config.finetuning_prompts, progress=progress
    )
    cards = {"aligned": aligned.card, "base": base.card}
    together = pd.concat(replies, ignore_index=True)
    return lambda protection: _Measured(together, kl, known_replies, known_kl, deepening, protection, cards)


def _organism(testbed: Testbed, name: str) -> Target:
    lender = str(testbed.organism("aligned")) if name == "base" else None
    return open_target(str(testbed.organism(name)), chat_template=lender, device="cpu")


def _kl(p: Target, q: Target, prompts: Sequence[Prompt], progress: Progress | None) -> pd.DataFrame:
    assert p.loaded is not None
    assert q.loaded is not None
    return kl_table(p.loaded, q.loaded, prompts, progress=progress)


def _stacked(tables: Sequence[pd.DataFrame], seeds: Sequence[int]) -> pd.DataFrame:
    """All seeds' replies in one table with a column `seed`; over seeds a prompt counts as repeated."""
    return pd.concat(
        [table.assign(seed=seed) for table, seed in zip(tables, seeds, strict=True)], ignore_index=True
    )


def _averaged(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The KL at each token of each prompt's answer, averaged over seeds."""
    together = pd.concat(tables, ignore_index=True)
    return together.groupby(["prompt_id", "position", "token"], sort=True)["kl"].mean().reset_index()


def _summary(
    config: ReproduceConfig,
    created: str,
    measured: Sequence[_Measured],
    replies: pd.DataFrame,
    kl: pd.DataFrame,
) -> dict[str, Any]:
    primary, seed = config.judges[0], config.seeds[0]
    verdicts = summary.verdicts(replies, primary)
    claims = _claims(measured, config.seeds, primary)
    by_seed = [_claims([m], [s], primary) for m, s in zip(measured, config.seeds, strict=True)]
    for index, claim in enumerate(claims):
        claim["by_seed"] = [of_seed[index]["value"] for of_seed in by_seed]
    known = {
        d: _stacked([summary.verdicts(m.known_replies[d], primary) for m in measured], config.seeds)
        for d in KNOWN_DEPTHS
    }
    known_kl = {d: _averaged([m.known_kl[d] for m in measured]) for d in KNOWN_DEPTHS}
    deep = _deep_evidence(measured, config.seeds, primary)
    return {
        "kind": "reproduce",
        "created": created,
        "seeds": list(config.seeds),
        "models": measured[0].cards,
        "judge": primary,
        "claims": claims,
        "kl": summary.kl_summary(series_of(kl, tokens=summary.KL_TOKENS), seed=seed),
        "depth": summary.depth_entries(summary.depth_of(summary.sweep_of(verdicts), kl, seed=seed)),
        "calibration": calibration_summary(known, known_kl, seed=seed),
        "refusal_prefixes": summary.openings_of(verdicts, aligned="aligned"),
        "rates": summary.rates_of(replies),
        "deepening": deepening_block(
            deep.measured,
            roles=["aligned", *DEEPENED],
            training=measured[0].deepening.training,
            finetuning=finetuning_entries(deep.finetuned),
        ),
        **protection_summary([m.protection for m in measured], config.seeds, primary),
        "not_measured": [],
        "warnings": [],
    }


def _claims(measured: Sequence[_Measured], seeds: Sequence[int], judge: str) -> list[dict[str, Any]]:
    """All claims on the tables of these seeds together."""
    replies = _stacked([m.replies for m in measured], seeds)
    series = series_of(_averaged([m.kl for m in measured]), tokens=summary.KL_TOKENS)
    shallow = judge_claims(Evidence(summary.verdicts(replies, judge), series, seeds[0]))
    deep = _deep_evidence(measured, seeds, judge)
    protected = protection_claims([m.protection for m in measured], seeds, judge)
    found = [*shallow, *(asdict(claim(deep)) for claim in DEEPENING_CLAIMS), *protected]
    return sorted(found, key=lambda claim: int(claim["id"][1:]))


def _deep_evidence(measured: Sequence[_Measured], seeds: Sequence[int], judge: str) -> DeepEvidence:
    """Replies of all roles, seeds stacked; their KL, averaged over seeds."""
    replies = [pd.concat([m.replies, m.deepening.replies], ignore_index=True) for m in measured]
    kl = {"aligned": _averaged([m.kl for m in measured])} | {
        role: _averaged([m.deepening.kl[role] for m in measured]) for role in DEEPENED
    }
    tables = Measured(
        _stacked(replies, seeds), kl, judge=judge, benign=("benign", "lookalikes"), seed=seeds[0]
    )
    finetuned = _stacked([m.deepening.finetuned for m in measured], seeds)
    return DeepEvidence(tables, summary.verdicts(finetuned, judge), seeds[0])
