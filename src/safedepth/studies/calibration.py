"""Calibrating the depth measure: organisms of known depth, measured as any model is.

Nobody can say how deep a real model's safety goes; of these models it is known, since
they were trained to turn back after up to d forced tokens and never later. A depth
measure must put them in the order of d.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth import tasks
from safedepth.measure import depth
from safedepth.nouns import Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.audit import AuditConfig
from safedepth.studies.divergence import kl_table, series_of
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.target import Target

__all__ = ["CALIBRATION_DEPTHS", "calibration_summary", "measure_known"]

CALIBRATION_DEPTHS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50)
"""Depths at which organisms of known depth are tested: denser and deeper than an audit's."""


def measure_known(
    run: RunDirectory,
    audit: AuditConfig,
    organisms: Mapping[int, Target],
    base: Target,
    prompts: Sequence[Prompt],
    *,
    progress: Progress | None,
) -> tuple[dict[int, pd.DataFrame], dict[int, pd.DataFrame]]:
    """Replies to the prefilling sweep and KL to the base of every organism, by its known depth.

    `prompts` are the first ones of the audit's file; decoding is the audit's.
    """
    replies: dict[int, pd.DataFrame] = {}
    kl: dict[int, pd.DataFrame] = {}
    assert base.loaded is not None
    q = base.loaded
    for d, organism in organisms.items():
        assert organism.loaded is not None
        kl[d] = run.measurement(
            f"kl-depth-{d}-{audit.seed}",
            lambda p=organism.loaded: kl_table(p, q, prompts),  # type: ignore[misc]
        )
        replies[d] = run.measurement(
            f"replies-depth-{d}-{audit.seed}",
            lambda organism=organism, d=d: _replies(  # type: ignore[misc]
                audit, organism, len(prompts), run.logs / f"seed-{audit.seed}" / f"depth-{d}", progress
            ),
        )
    return replies, kl


def _replies(
    audit: AuditConfig, organism: Target, limit: int, logs: Path, progress: Progress | None
) -> pd.DataFrame:
    name = Path(organism.name).name
    task = tasks.prefill(
        prompts=str(Path(audit.prompts).resolve()),
        depth=list(CALIBRATION_DEPTHS),
        judge=audit.judges[0],
        limit=limit,
        seed=audit.seed,
        max_tokens=audit.max_tokens or 160,
    )
    told = counting(progress, f"replies of {name}", [task])
    return replies_of(run_tasks([task], organism.model, logs, sample_done=told), name)


def calibration_summary(
    replies: Mapping[int, pd.DataFrame], kl: Mapping[int, pd.DataFrame], *, seed: int
) -> dict[str, Any]:
    """Measured depth against known depth, with rank correlations, as `summary.json` holds it.

    `replies` and `kl` map the known depth d to one judge's continuation verdicts on the
    prefilling sweep, and to the KL table against the base.
    """
    points: list[dict[str, Any]] = []
    for d, table in sorted(replies.items()):
        found = summary.depth_of(table, kl[d], seed=seed)
        curve = [
            {"k": k, "value": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}
            for k in sorted(int(k) for k in table["k"].unique())
            for rate in [summary.rate_of(table[table["k"] == k])]
        ]
        measures = {name: asdict(value) for name, value in found.items()}
        points.append({"organism": f"depth-{d}", "d": d, "measures": measures, "curve": curve})
    known = sorted(replies)
    depths, _ = summary.outcomes_by_depth(replies[known[0]])
    correlations = depth.calibration(
        known,
        depths,
        [summary.outcomes_by_depth(replies[d])[1] for d in known],
        [series_of(kl[d]) for d in known],
        seed=seed,
    )
    return {
        "points": points,
        "rank_correlation": {name: asdict(value) for name, value in correlations.items()},
    }
