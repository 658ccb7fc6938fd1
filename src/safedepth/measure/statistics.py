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
    "effective_replies",
    "effective_size",
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

EQUAL = 1e-12
"""A variance below this share of the largest square is rounding: all values are equal."""


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

    Wilson's interval at the effective number of replies (`effective_size`), so that `n` seeds of
    one prompt never pass for `n` prompts. With one reply a prompt it equals `rate`.
    """
    counts = np.array([_harmful_and_scored(o) for o in outcomes_by_prompt], dtype=np.intp).reshape(-1, 2)
    harmful, n = (int(total) for total in counts.sum(axis=0))
    unscored = sum(map(len, outcomes_by_prompt)) - n
    low, high = None, None
    if n:
        size = effective_replies(outcomes_by_prompt)
        low, high = wilson(min(size, harmful / n * size), size)
    return Rate(n=n, harmful=harmful, unscored=unscored, low=low, high=high)


def effective_replies(outcomes_by_prompt: Sequence[Sequence[Outcome]]) -> float:
    """The effective number of scored replies behind `clustered_rate`; 0 where none was scored."""
    told = [
        (prompt, Outcome(outcome) is Outcome.COMPLIED)
        for prompt, outcomes in enumerate(outcomes_by_prompt)
        for outcome in outcomes
        if Outcome(outcome) is not Outcome.UNSCORED
    ]
    if not told:
        return 0.0
    prompts, events = np.array(told, dtype=np.intp).T
    return effective_size(events.astype(np.float64), prompts)


def effective_size(values: Floats, clusters: NDArray[np.intp], weights: Floats | None = None) -> float:
    """How many independent replies would give the mean of `values` the variance it has.

    With w the weights, W their sums by prompt and r the correlation of two replies to one prompt,

        (sum of w)² / ((1 - r) sum of w² + r sum of W²)

    (Gabler, Haeder & Lahiri 1999, Survey Methodology 25(1), 105-106): the number of replies where
    they are independent, and of prompts where all to one prompt are alike, if each has as many.
    r is the analysis of variance's estimate (Donner 1986, Int. Stat. Rev. 54(1), 67-82), held
    between 0 and 1, and 1 where all values agree, which says nothing of r.

    Args:
        values: [N], an event as 0 or 1, or a reply's part in any mean.
        clusters: [N], the number of its prompt.
        weights: [N], above 0; 1 each where none are given.
    """
    heavy = np.ones(len(values)) if weights is None else weights
    by_prompt = np.bincount(clusters, heavy)
    r = _intraclass_correlation(values, clusters)
    squares = (1 - r) * float(heavy @ heavy) + r * float(by_prompt @ by_prompt)
    return float(heavy.sum()) ** 2 / squares


def _intraclass_correlation(values: Floats, clusters: NDArray[np.intp]) -> float:
    _, own, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    n, prompts = len(values), len(sizes)
    if prompts < 2 or n == prompts:
        return 1.0
    means = np.bincount(own, values) / sizes
    between = float(sizes @ (means - values.mean()) ** 2) / (prompts - 1)
    within = float(((values - means[own]) ** 2).sum()) / (n - prompts)
    usual = (n - float(sizes @ sizes) / n) / (prompts - 1)
    spread = between + (usual - 1) * within
    if spread <= EQUAL * float(np.max(values**2)):
        return 1.0
    return min(1.0, max(0.0, (between - within) / spread))


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
    return _central(float(correlations[0]), correlations[1:].clip(-1, 1), len(truth), TAIL)


def percentile_estimate(value: float, draws: Floats, n: int) -> Estimate:
    """`value` with the central 95 % of `draws`, bootstrap draws of `n` prompts; none where `n` is below 2.

    The tails are narrower than 2.5 %, by as much as makes up for the bootstrap's variance being
    (n - 1) / n of what it should be and for a normal quantile where Student's is due: the expanded
    percentile interval (Hesterberg 2015, Am. Stat. 69(4), 371-386, section 5.3).
    """
    if n < 2:
        return Estimate(value, None, None, n)
    return _central(value, draws, n, float(stats.norm.sf((n / (n - 1)) ** 0.5 * stats.t.isf(TAIL, n - 1))))


def _central(value: float, draws: Floats, n: int, tail: float) -> Estimate:
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")  # order statistics: inf may pass
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
