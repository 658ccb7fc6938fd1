"""Before and after on the same prompts: how much a rate changed, how surely, and whether it held.

Pairs say more than two rates do: prompts differ far more from one another than a
model differs from itself. This file refuses to know which prompts were dropped: a
prompt unscored on either side must be gone already, and `n` says how many are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from safedepth.measure.statistics import TAIL

__all__ = ["PairedDifference", "paired_difference"]

Floats = NDArray[np.float64]

RESAMPLES = 9999
"""Sign flips drawn where all of them would be more than that: the smallest p is then 2 / 10 000."""


@dataclass(frozen=True)
class PairedDifference:
    """The means `before` and `after` over `n` prompts, and their `difference`, after - before.

    `low` and `high` bound the difference (95 %); `p` is two-sided, of no difference. All
    three are None where `n` is below 2, and the means too where it is 0.
    """

    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int

    def non_inferior(self, margin: float) -> bool | None:
        """Whether a loss of `margin` or more is ruled out: the interval's low end is above -`margin`.

        For what should stay high, such as the share of right answers. None without an interval.
        """
        if margin < 0:
            raise ValueError(f"expected a margin of 0 or more, found {margin}")
        return None if self.low is None else self.low > -margin


def paired_difference(before: Floats, after: Floats, *, seed: int) -> PairedDifference:
    """The difference of two means over the same prompts, with an interval and a test.

    The interval is Bonett and Price's (2012, J. Educ. Behav. Stat. 37(4), 479-488), an
    adjusted Wald interval for paired proportions. With n10 prompts that went from 0 to 1
    and n01 from 1 to 0, its a = (n10 + 1) / (n + 2) and b = (n01 + 1) / (n + 2) give

        a - b ± z sqrt((a + b - (a - b)²) / (n + 2)).

    This is the Wald interval for the mean of the differences d = after - before once two
    pseudo-pairs are added, d = 1 and d = -1, and so it is taken here for every d in
    [-1, 1]: with m = Σ d / (n + 2) and v = (Σ d² + 2) / (n + 2) - m²,

        m ± z sqrt(v / (n + 2)), cut off at -1 and 1.

    It has a width even where nothing changed, and is wider than it need be where the
    differences are small. It leans towards 0, and `difference` itself does not.

    The test is McNemar's exact one where every value is 0 or 1: binomial, on the prompts
    that changed. Otherwise it flips the signs of the differences: all 2^n ways where
    these are few, else `RESAMPLES` drawn with `seed`.

    Args:
        before: [N], one value a prompt in [0, 1]: an outcome, or the mean of several.
        after: [N], the same prompts in the same order.
        seed: of the sign flips.

    Raises:
        ValueError: the shapes differ, or a value is missing or outside [0, 1].
    """
    _check(before, after)
    n = len(before)
    if n == 0:
        return PairedDifference(None, None, None, None, None, None, 0)
    differences = after - before
    means = float(before.mean()), float(after.mean()), float(differences.mean())
    if n < 2:
        return PairedDifference(*means, None, None, None, n)
    low, high = _interval(differences)
    whole = bool(np.isin(np.concatenate([before, after]), (0.0, 1.0)).all())
    p = _mcnemar(differences) if whole else _sign_flips(differences, seed)
    return PairedDifference(*means, low, high, p, n)


def _interval(differences: Floats) -> tuple[float, float]:
    padded = np.append(differences, [1.0, -1.0])
    half = float(stats.norm.isf(TAIL)) * float(padded.std()) / len(padded) ** 0.5
    centre = float(padded.mean())
    return max(-1.0, centre - half), min(1.0, centre + half)


def _mcnemar(differences: Floats) -> float:
    risen, changed = int((differences > 0).sum()), int((differences != 0).sum())
    return float(stats.binomtest(risen, changed).pvalue) if changed else 1.0


def _sign_flips(differences: Floats, seed: int) -> float:
    if not differences.any():
        return 1.0
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES,
        batch=1000, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def _check(before: Floats, after: Floats) -> None:
    if before.ndim != 1 or before.shape != after.shape:
        raise ValueError(
            f"expected before and after of one shape [N], found {before.shape} and {after.shape}; keep "
            "the prompts that were scored on both sides"
        )
    for name, values in (("before", before), ("after", after)):
        outside = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(outside):
            raise ValueError(
                f"expected values in [0, 1], found {values[outside[0]]} at {name}[{outside[0]}]; a prompt "
                "without a value is to be dropped on both sides"
            )
