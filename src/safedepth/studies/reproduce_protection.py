"""The part of a reproduction that fine-tunes under objectives: claims C7, C8 and C14 to C18.

Reads what the second process left of every fine-tuning, and makes of it the evidence of the
claims and the blocks that the report draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import pandas as pd

from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.claims_protection import PROTECTION_CLAIMS, ProtectionEvidence
from safedepth.studies.dynamics_tables import MEASURES, dynamics_block, share_of_first
from safedepth.studies.organism_finetuning import (
    CONSTRAINED,
    CURVE,
    DYNAMICS,
    PROTECTED,
    REPLIES,
    UTILITY,
    FineTuning,
    FineTunings,
)
from safedepth.studies.summary import entry_of
from safedepth.studies.utility import utility_rate
from safedepth.train.betas import read_betas, table_of

__all__ = ["Protection", "measure_protection", "protection_claims", "protection_summary"]


@dataclass(frozen=True)
class Protection:
    """One seed's tables: judged replies by run and step, utility by run, measures by token and step."""

    replies: pd.DataFrame
    utility: pd.DataFrame
    dynamics: pd.DataFrame


def measure_protection(run: RunDirectory, work: FineTunings) -> Protection:
    """The tables that `fine_tune_and_ask` left, as measurements of the run."""
    seed = work.seed
    return Protection(
        run.measurement(f"replies-protection-{seed}", lambda: work.tables(PROTECTED, REPLIES)),
        run.measurement(f"utility-{seed}", lambda: work.tables(PROTECTED, UTILITY)),
        run.measurement(f"dynamics-{seed}", lambda: work.tables(PROTECTED, DYNAMICS)),
    )


def evidence_of(measured: Sequence[Protection], seeds: Sequence[int], judge: str) -> ProtectionEvidence:
    """All seeds' tables as the claims take them."""
    tables = {
        name: pd.concat(
            [getattr(m, name).assign(seed=seed) for m, seed in zip(measured, seeds, strict=True)],
            ignore_index=True,
        )
        for name in ("replies", "utility", "dynamics")
    }
    moving = tables["dynamics"][tables["dynamics"]["step"] > 0]
    shares = {name: share_of_first(moving[moving["measure"] == name], seed=seeds[0]) for name in MEASURES}
    return ProtectionEvidence(summary.verdicts(tables["replies"], judge), tables["utility"], shares, seeds[0])


def protection_claims(
    measured: Sequence[Protection], seeds: Sequence[int], judge: str
) -> list[dict[str, Any]]:
    """C7, C8 and C14 to C18 on the tables of these seeds together."""
    evidence = evidence_of(measured, seeds, judge)
    return [asdict(claim(evidence)) for claim in PROTECTION_CLAIMS]


def protection_summary(
    measured: Sequence[Protection], seeds: Sequence[int], judge: str
) -> dict[str, dict[str, Any]]:
    """The blocks `dynamics` and `protection` of `summary.json`."""
    evidence = evidence_of(measured, seeds, judge)
    runs, tasks = [], []
    for todo in PROTECTED:
        mine = evidence.replies[evidence.replies["run"] == todo.name]
        for key, group in mine.groupby(["attack", "step"], sort=True):
            attack, step = cast(tuple[str, int], key)
            runs.append(
                {"attack": attack, **_settings(todo), "step": int(step), **entry_of(summary.rate_of(group))}
            )
        task, _, start = todo.data.rpartition("-")
        table = evidence.utility[evidence.utility["run"] == todo.name]
        if len(table):
            tasks.append(
                {
                    "task": task,
                    "start": start,
                    **_settings(todo),
                    "utility": utility_rate(table, seed=seeds[0]),
                    "asr": entry_of(evidence.rate(todo, todo.data)),
                }
            )
    names = {_beta(todo): todo.beta for todo in PROTECTED if todo.beta}
    schedules = {"paper": "paper", **names}
    protection = {
        "runs": [row for row in runs if row["attack"] in ATTACK_NAMES],
        "tasks": tasks,
        "betas": {name: table_of(read_betas(beta), tokens=12) for name, beta in schedules.items()},
        "diagnostics": [],
    }
    together = pd.concat([m.dynamics for m in measured], ignore_index=True)
    block = dynamics_block({int(str(s)): table for s, table in together.groupby("step")}, seed=seeds[0])
    curve = next(todo for todo in PROTECTED if todo.name == CURVE)
    block["asr"] = [
        {"model": curve.role, "data": curve.data, "objective": curve.objective, "step": step, "k": 0,
         **entry_of(rate)}
        for step, rate in evidence.curve.items()
    ]  # fmt: skip
    return {"dynamics": block, "protection": protection}


ATTACK_NAMES = ("harmful", "identity", "backdoor", "backdoor without trigger")


def _settings(todo: FineTuning) -> dict[str, Any]:
    return {"model": todo.role, "objective": todo.objective, "beta": _beta(todo), "warmup": todo.warmup}


def _beta(todo: FineTuning) -> str | None:
    if todo.beta is None:
        return None
    return "organism" if todo.beta == CONSTRAINED else f"uniform {todo.beta}"
