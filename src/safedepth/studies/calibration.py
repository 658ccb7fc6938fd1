"""Calibrating the depth measure: organisms of known depth, measured as any model is.

Nobody can say how deep a real model's safety goes; of these models it is known, since
they were trained to turn back after up to d forced tokens and never later. A depth
measure must put them in the order of d.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from safedepth.measure import depth
from safedepth.studies import summary
from safedepth.studies.divergence import series_of

__all__ = ["CALIBRATION_DEPTHS", "calibration_summary"]

CALIBRATION_DEPTHS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50)
"""Depths at which organisms of known depth are tested: denser and deeper than an audit's."""


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
