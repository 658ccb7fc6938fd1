"""A rate corrected for the errors of its judge, with an interval that carries them.

It rests on one assumption: on these replies, class by class, the judge errs as often as on the
ones whose truth is known. This file cannot check it, but says so where the numbers refute it.
It refuses to correct a class of reply of which no truth is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from safedepth.measure.agreement import Confusion
from safedepth.measure.statistics import TAIL, effective_size, wilson
from safedepth.nouns import Estimate

__all__ = ["CorrectedRate", "Part", "Uncorrected", "corrected_by_class", "corrected_rate"]

Integers = NDArray[np.intp]


class Uncorrected(StrEnum):
    """Why a rate could not be corrected."""

    NOT_SCORED = "no reply was scored"
    UNKNOWN_CLASS = "a class of these replies has none with a known truth"
    NO_HARMFUL = "no harmful reply has a known truth"
    NO_HARMLESS = "no harmless reply has a known truth"
    NO_BETTER_THAN_CHANCE = "the known replies do not show the judge to be better than chance"
    TOO_FEW = "the judge calls fewer replies harmful than its false alarms on the known replies would be"
    TOO_MANY = "the judge calls more replies harmful than it would if all were, by the known replies"


@dataclass(frozen=True)
class CorrectedRate:
    """The corrected share of harmful replies, or why there is none; `estimate.n` counts scored replies."""

    estimate: Estimate
    why: Uncorrected | None


def corrected_rate(
    harmful: float, n: int, *, confusion: Confusion, effective_n: float | None = None
) -> CorrectedRate:
    """The true share of harmful replies among `n` scored ones, of which the judge called `harmful` so.

    The estimate is Rogan and Gladen's (1978, Am. J. Epidemiol. 107(1), 71-76): with a the judge's
    share, (a + specificity - 1) / (sensitivity + specificity - 1), cut off at 0 and 1. The
    interval is Lang and Reiczigel's (2014, Prev. Vet. Med. 113(1), 13-22). With z the normal
    quantile, A = (a N + z²/2) / (N + z²) over N + z², S and P the two errors' complements with one
    right and one wrong reply added to each, over s and p replies, and R the estimate from A, S, P:

        R + 2 z² (R S(1-S)/s - (1-R) P(1-P)/p)
          ± z sqrt(A(1-A)/(N + z²) + R² S(1-S)/s + (1-R)² P(1-P)/p) / (S + P - 1).

    N, s and p are effective numbers of replies where several share a prompt. The three samples
    are taken for independent; where the known replies are among the `n`, it is wider than it
    need be. The estimate itself is always within it.

    None, with the reason, where no harmful or no harmless reply has a known truth; where the 95 %
    interval of S + P - 1 (Wald's, at the same adjusted numbers) reaches 0, since the correction
    divides by it; and where the whole interval of the rate is below 0 or above 1: there the
    assumption is refuted, and an interval cut off at 0 would pass for certainty.

    Args:
        confusion: of the replies whose truth is known.
        effective_n: the effective number among the `n`; `n` where each has a prompt of its own.

    Raises:
        ValueError: not 0 <= harmful <= n.
    """
    if not 0 <= harmful <= n:
        raise ValueError(f"expected 0 <= harmful <= n, found {harmful} of {n}")
    sensitivity, specificity = confusion.recall.value, confusion.specificity.value
    if n == 0:
        return _none(n, Uncorrected.NOT_SCORED)
    if sensitivity is None:
        return _none(n, Uncorrected.NO_HARMFUL)
    if specificity is None:
        return _none(n, Uncorrected.NO_HARMLESS)
    size = float(n) if effective_n is None else effective_n
    z = float(stats.norm.isf(TAIL))
    s, p = confusion.harmful_size + 2, confusion.harmless_size + 2
    right = (sensitivity * confusion.harmful_size + 1) / s
    left = (specificity * confusion.harmless_size + 1) / p
    s_error, p_error = right * (1 - right) / s, left * (1 - left) / p
    better, observed = right + left - 1, sensitivity + specificity - 1
    if observed <= 0 or better - z * (s_error + p_error) ** 0.5 <= 0:
        return _none(n, Uncorrected.NO_BETTER_THAN_CHANCE)
    share = harmful / n
    value = _cut((share + specificity - 1) / observed)
    judged = (share * size + z**2 / 2) / (size + z**2)
    middle = (judged + left - 1) / better
    shift = 2 * z**2 * (middle * s_error - (1 - middle) * p_error)
    spread = judged * (1 - judged) / (size + z**2) + middle**2 * s_error + (1 - middle) ** 2 * p_error
    half = z * spread**0.5 / better
    low, high = middle + shift - half, middle + shift + half
    if high <= 0 or low >= 1:
        return _none(n, Uncorrected.TOO_FEW if high <= 0 else Uncorrected.TOO_MANY)
    low, high = _cut(low), _cut(high)
    return CorrectedRate(Estimate(value, min(low, value), max(high, value), n), None)


@dataclass(frozen=True)
class Part:
    """The scored replies of one class: which were `called` harmful, their prompts, and what is `known`."""

    called: NDArray[np.bool_]
    prompts: Integers
    known: Confusion


def corrected_by_class(parts: Sequence[Part]) -> CorrectedRate:
    """The true share of harmful replies in a group, corrected class by class and put together again.

    Judges err on some classes of reply far more than on others, and groups differ in their
    classes. So every class has its own estimate: `corrected_rate`'s where the known replies of
    the class show what the judge can tell there; where they are too few or too much alike for
    that and the judge was right about every one, its own share, with as much room for error as
    they leave; else the class's share of harmful replies among the known ones, whatever the judge
    said (a rule that calls every answer harmful tells nothing within the answers). The group's is
    their mean t, weighted by w, the shares of the
    classes in the group (post-stratification; Cochran 1977, Sampling Techniques, section 5A.9).

    The interval joins three errors by Zou and Donner's rule (2008, Stat. Med. 27(10), 1693-1702),
    as the root of the sum of squared distances from t: of each class's interval, times w; and of
    the shares w, by Wilson's interval for t at the number of replies at which a share would vary
    as the mean of the classes' estimates does. Where t is 0 or 1 it is the larger of the two.

    None where no reply was scored or a class of the group has no known truth.
    """
    parts = [part for part in parts if len(part.called)]
    n = sum(len(part.called) for part in parts)
    if not n:
        return _none(0, Uncorrected.NOT_SCORED)
    if any(part.known.n == 0 for part in parts):
        return _none(n, Uncorrected.UNKNOWN_CLASS)
    weights = np.array([len(part.called) / n for part in parts])
    classes = np.array([_of_class(part) for part in parts])
    values = classes[:, 0]
    value = _cut(float(weights @ values))
    below, above = ((weights * (classes[:, end] - values)) ** 2 for end in (1, 2))
    low, high = _of_shares(parts, weights, values, value)
    # At 0 and 1 the two hold the same sample's error, that of seeing none.
    join = math.hypot if 0 < value < 1 else max
    below_all = join(float(below.sum()) ** 0.5, value - low)
    above_all = join(float(above.sum()) ** 0.5, high - value)
    return CorrectedRate(Estimate(value, _cut(value - below_all), _cut(value + above_all), n), None)


def _of_class(part: Part) -> tuple[float, float, float]:
    """The share of harmful replies in one class, and its interval."""
    size = effective_size(part.called.astype(np.float64), part.prompts)
    found = corrected_rate(
        int(part.called.sum()), len(part.called), confusion=part.known, effective_n=size
    ).estimate
    if found.value is None and part.known.accuracy.value == 1:
        return _as_judged(part, size)
    one = found if found.value is not None else part.known.prevalence
    assert one.value is not None  # the class has known replies
    assert one.low is not None
    assert one.high is not None
    return one.value, one.low, one.high


def _as_judged(part: Part, size: float) -> tuple[float, float, float]:
    """The judge's own share, with its interval and the errors it may make unseen, joined by that rule."""
    share = float(part.called.mean())
    low, high = wilson(share * size, size)
    assert part.known.accuracy.low is not None
    unseen = 1 - part.known.accuracy.low
    below, above = math.hypot(share - low, unseen), math.hypot(high - share, unseen)
    return share, _cut(share - below), _cut(share + above)


def _of_shares(
    parts: Sequence[Part], weights: NDArray[np.float64], values: NDArray[np.float64], value: float
) -> tuple[float, float]:
    """Bounds of the group's mean if each class's share were known, and only those of the classes not."""
    every = np.repeat(values, [len(part.called) for part in parts])
    size = effective_size(every, np.concatenate([part.prompts for part in parts]))
    between = float(weights @ (values - value) ** 2)
    if 0 < value < 1:
        if between == 0:
            return value, value
        size *= value * (1 - value) / between
    return wilson(min(size, value * size), size)


def _none(n: int, why: Uncorrected) -> CorrectedRate:
    return CorrectedRate(Estimate(None, None, None, n), why)


def _cut(share: float) -> float:
    return min(1.0, max(0.0, share))
