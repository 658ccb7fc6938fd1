"""Intervals for what is counted and averaged: rates, curves, shares, rank correlations.

All intervals are 95 %. A rate of independent replies has a Wilson interval; where several
replies share a prompt, the same interval at the effective number of replies; everything
else is a percentile bootstrap over prompts, since prompts are what was sampled.

This file refuses to invent: with nothing measured every number is None, with one prompt
the interval is, and no result is ever NaN or infinite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from safedepth.nouns import Estimate, Outcome, Rate, TokenSeries

__all__ = [
    "bootstrap",
    "check_series",
    "clopper_pearson",
    "clustered_rate",
    "mean_by_position",
    "percentile_estimate",
    "rank_correlation",
    "rate",
    "resample_counts",
    "resampled_means",
    "share_of_first",
    "wilson",
]

Floats = NDArray[np.float64]

TAIL = 0.025
"""The probability left out on either side of an interval."""

RESAMPLES = 2000


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson's score interval for a share of `successes` among `n` > 0; neither need be whole."""
    if not (0 <= successes <= n and n > 0):
        raise ValueError(f"expected 0 <= successes <= n and n > 0, found {successes} of {n}")
    z = float(stats.norm.isf(TAIL))
    share = successes / n
    centre = share + z**2 / (2 * n)
    half = z * ((share * (1 - share) + z**2 / (4 * n)) / n) ** 0.5
    low, high = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    # Rounding would leave 1e-17 where the bound is exactly 0 or 1.
    return (0.0 if successes == 0 else max(0.0, low)), (1.0 if successes == n else min(1.0, high))


def clopper_pearson(successes: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's exact interval: never below 95 % coverage, wider than Wilson's."""
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=1 - 2 * TAIL, method="exact")
    return float(interval.low), float(interval.high)


def rate(outcomes: Sequence[Outcome], *, method: Literal["wilson", "clopper-pearson"] = "wilson") -> Rate:
    """The share of harmful replies among those scored, each reply from a prompt of its own.

    Unscored replies are counted beside the rate and enter neither of its terms. Use
    `clustered_rate` where several replies answer one prompt.
    """
    harmful, n = _harmful_and_scored(outcomes)
    low, high = None, None
    if n:
        low, high = (wilson if method == "wilson" else clopper_pearson)(harmful, n)
    return Rate(n=n, harmful=harmful, unscored=len(outcomes) - n, low=low, high=high)


def clustered_rate(outcomes_by_prompt: Sequence[Sequence[Outcome]]) -> Rate:
    """The share of harmful replies where each prompt was answered several times (seeds).

    Wilson's interval at the effective number of replies v0 / v: v is the variance of the ratio
    of sums, linearised over prompts, and v0 = share (1 - share) that of a single reply. It is
    held between the number of prompts (all replies to a prompt alike) and that of replies
    (independent), and is the number of prompts where all replies agree, so that `n` seeds of
    one prompt never pass for `n` prompts. With one reply a prompt it equals `rate`.
    """
    counts = np.array([_harmful_and_scored(o) for o in outcomes_by_prompt], dtype=np.float64).reshape(-1, 2)
    unscored = sum(map(len, outcomes_by_prompt)) - int(counts[:, 1].sum())
    counts = counts[counts[:, 1] > 0]
    if not len(counts):
        return Rate(n=0, harmful=0, unscored=unscored, low=None, high=None)
    prompts, (harmful, n) = len(counts), counts.sum(axis=0)
    share = harmful / n
    effective = float(prompts)
    if prompts > 1 and 0 < share < 1:
        residuals = counts[:, 0] - share * counts[:, 1]
        variance = prompts / (prompts - 1) * float(residuals @ residuals) / n**2
        effective = min(n, max(prompts, share * (1 - share) / variance)) if variance > 0 else n
    low, high = wilson(float(share * effective), float(effective))
    return Rate(n=int(n), harmful=int(harmful), unscored=unscored, low=low, high=high)


def _harmful_and_scored(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    counts = Counter(Outcome(outcome) for outcome in outcomes)
    return counts[Outcome.COMPLIED], counts[Outcome.COMPLIED] + counts[Outcome.REFUSED]


def bootstrap(
    values: Floats, statistic: Callable[[Floats], float], *, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """Percentile bootstrap of any statistic of prompts.

    Args:
        values: [N, ...], one entry of the first axis a prompt.
        statistic: maps [N, ...] to a number; called `resamples` + 1 times.

    Raises:
        ValueError: the statistic is not finite for some resample.
    """
    n = len(values)
    if n == 0:
        return Estimate(None, None, None, 0)
    rng = np.random.default_rng(seed)
    value = float(statistic(values))
    draws = np.array([statistic(values[rng.integers(n, size=n)]) for _ in range(resamples)])
    if not (np.isfinite(value) and np.isfinite(draws).all()):
        raise ValueError("expected a finite statistic for every resample, found NaN or infinity")
    return percentile_estimate(value, draws, n)


def mean_by_position(series: TokenSeries, *, seed: int, resamples: int = RESAMPLES) -> list[Estimate]:
    """The mean at each position over the prompts that have a token there (figure 1's curve).

    Returns one `Estimate` a column of the series, `n` being the prompts with a token there. Where
    it is below 2 there is no interval. Resamples in which no prompt reaches a position say nothing
    of it and are left out there.
    """
    check_series(series)
    n = series.mask.sum(axis=0)
    means = resampled_means(series, np.ones((1, len(series.mask))))[0]
    draws = resampled_means(series, resample_counts(len(series.mask), resamples, seed))
    return [
        percentile_estimate(float(mean), column[np.isfinite(column)], int(count))
        if count
        else Estimate(None, None, None, 0)
        for mean, column, count in zip(means, draws.T, n, strict=True)
    ]


def share_of_first(
    series: TokenSeries, tokens: int = 5, *, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """The share of the total spent on the first `tokens` positions: a ratio of sums over all prompts.

    None where the total is 0. Values must not be negative. `n` counts prompts with a token.
    """
    check_series(series)
    values = np.where(series.mask, series.values, 0.0)
    if (values < 0).any():
        raise ValueError(f"expected values of 0 or more, found {values.min()}")
    sums = np.stack([values[:, :tokens].sum(axis=1), values.sum(axis=1)], axis=1)
    sums = sums[series.mask.any(axis=1)]
    first, total = sums.sum(axis=0)
    if total == 0:
        return Estimate(None, None, None, len(sums))
    resampled = resample_counts(len(sums), resamples, seed) @ sums
    resampled = resampled[resampled[:, 1] > 0]
    return percentile_estimate(float(first / total), resampled[:, 0] / resampled[:, 1], len(sums))


def rank_correlation(truth: Floats, values: Floats, *, draws: Floats) -> Estimate:
    """Spearman's rank correlation of a measure with the truth it should order.

    The things measured (organisms of known depth) were chosen, not sampled; what is uncertain is
    the measure of each. So the interval comes from `draws` [R, M], bootstrap draws of the M
    measures: how well the order holds when every measure moves within its own error. `n` is M.
    Infinite values are allowed, and rank as ties above the rest ("deeper than was tested").

    None where M < 3 or all values are equal; a draw with all values equal counts as 0, no order.
    """
    if not (truth.shape == values.shape == draws.shape[1:]) or truth.ndim != 1:
        raise ValueError(
            f"expected truth [M], values [M] and draws [R, M], "
            f"found {truth.shape}, {values.shape} and {draws.shape}"
        )
    if any(np.isnan(a).any() for a in (truth, values, draws)):
        raise ValueError("expected a number for every organism, found NaN")
    if len(truth) < 3 or np.ptp(stats.rankdata(values)) == 0 or np.ptp(truth) == 0:
        return Estimate(None, None, None, len(truth))
    ranks = np.vstack([values, draws])
    ranks = stats.rankdata(ranks, axis=1) - (len(truth) + 1) / 2
    true_ranks = stats.rankdata(truth) - (len(truth) + 1) / 2
    norms = np.sqrt((ranks**2).sum(axis=1) * (true_ranks @ true_ranks))
    correlations = np.divide(ranks @ true_ranks, norms, out=np.zeros(len(ranks)), where=norms > 0)
    return percentile_estimate(float(correlations[0]), correlations[1:].clip(-1, 1), len(truth))


def percentile_estimate(value: float, draws: Floats, n: int) -> Estimate:
    """`value` with the central 95 % of `draws`, or without an interval where `n` is below 2."""
    if n < 2:
        return Estimate(value, None, None, n)
    low, high = np.quantile(draws, [TAIL, 1 - TAIL], method="inverted_cdf")  # order statistics: inf may pass
    return Estimate(value, float(low), float(high), n)


def resampled_means(series: TokenSeries, counts: Floats) -> Floats:
    """[R, T] means by position, prompt i counted `counts[r, i]` times; NaN where none has the position."""
    sums = counts @ np.where(series.mask, series.values, 0.0)
    weights = counts @ series.mask.astype(np.float64)
    return np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)


def resample_counts(n: int, resamples: int, seed: int) -> Floats:
    """[R, n]: how often each of `n` prompts is drawn in each resample."""
    if n == 0:
        return np.zeros((resamples, 0))
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def check_series(series: TokenSeries) -> None:
    """Raise ValueError unless values and mask are [N, T] alike, and finite where the mask is true."""
    if series.values.ndim != 2 or series.values.shape != series.mask.shape:
        raise ValueError(
            f"expected values and mask of one shape [N, T], "
            f"found {series.values.shape} and {series.mask.shape}"
        )
    wrong = series.mask & ~np.isfinite(series.values)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"expected finite values where the mask is true, "
            f"found {series.values[row, column]} in row {row}, column {column}"
        )
