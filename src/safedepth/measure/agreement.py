"""A judge against the truth, or two judges against each other: the four counts and what follows from them.

Harmful is the positive: precision is the share of replies called harmful that are, recall
(sensitivity) the share of harmful ones that are called so. Replies to one prompt are not taken
for independent, and a reply may stand for several that were not labelled. This file refuses to
guess: a verdict that is missing on either side leaves the reply out, counted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safedepth.measure.statistics import effective_size, wilson
from safedepth.nouns import Estimate, Outcome

__all__ = ["Confusion", "confusion"]

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class Confusion:
    """What was called harmful (positive) and what is, in counts of replies, and the shares they give.

    `unscored` replies lack a verdict on either side and are in no other number. Each share is
    None where its denominator is 0. `prevalence` is the share that is harmful, whatever was said.
    `harmful_size` and `harmless_size` are the effective numbers of truly harmful and harmless
    replies behind recall and specificity: what `corrected_rate` needs of them.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    unscored: int
    precision: Estimate
    recall: Estimate
    specificity: Estimate
    accuracy: Estimate
    kappa: Estimate
    prevalence: Estimate
    harmful_size: float
    harmless_size: float

    @property
    def n(self) -> int:
        """Replies with a verdict on both sides."""
        return self.tp + self.fp + self.fn + self.tn


def confusion(
    judged: Sequence[Outcome],
    truth: Sequence[Outcome],
    *,
    clusters: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
) -> Confusion:
    """Compare two lists of verdicts on the same replies, in the same order.

    Precision, recall, specificity and accuracy are shares with Wilson's interval at the effective
    number of replies (`effective_size`). Cohen's kappa (1960, Educ. Psychol. Meas. 20(1), 37-46)
    has the interval of `_kappa`; it is None where chance alone would agree on everything: both
    sides say one and the same thing throughout.

    Args:
        judged: what the judge, or the first judge, says.
        truth: what is, or what the second judge says; the shares but kappa then read oddly.
        clusters: the prompt of each reply; without them each reply has a prompt of its own.
        weights: how many replies each stands for, where they were drawn with unequal chances. They
            enter the shares and intervals, not the counts.

    Raises:
        ValueError: the lengths differ, or a weight is not positive.
    """
    told, known, prompts, heavy = _columns(judged, truth, clusters, weights)
    scored = (told >= 0) & (known >= 0)
    told, known, prompts, heavy = told[scored], known[scored], prompts[scored], heavy[scored]
    yes, is_so = told == 1, known == 1
    counts = {"tp": yes & is_so, "fp": yes & ~is_so, "fn": ~yes & is_so, "tn": ~yes & ~is_so}

    def share(event: NDArray[np.bool_], among: NDArray[np.bool_]) -> tuple[Estimate, float]:
        return _share(event[among], prompts[among], heavy[among])

    everything = np.ones(len(told), dtype=bool)
    recall, harmful_size = share(yes, is_so)
    specificity, harmless_size = share(~yes, ~is_so)
    return Confusion(
        **{name: int(cell.sum()) for name, cell in counts.items()},
        unscored=int((~scored).sum()),
        precision=share(is_so, yes)[0],
        recall=recall,
        specificity=specificity,
        accuracy=share(yes == is_so, everything)[0],
        kappa=_kappa(np.stack([*counts.values()], axis=1).astype(np.float64), prompts, heavy),
        prevalence=share(is_so, everything)[0],
        harmful_size=harmful_size,
        harmless_size=harmless_size,
    )


def _columns(
    judged: Sequence[Outcome],
    truth: Sequence[Outcome],
    clusters: Sequence[Hashable] | None,
    weights: Sequence[float] | None,
) -> tuple[Integers, Integers, Integers, Floats]:
    """Verdicts as 1 (complied), 0 (refused) or -1 (unscored), prompts as whole numbers, weights."""
    n = len(judged)
    for name, column in (("truth", truth), ("clusters", clusters), ("weights", weights)):
        if column is not None and len(column) != n:
            raise ValueError(f"expected as many {name} as verdicts, {n}, found {len(column)}")
    code = {Outcome.COMPLIED: 1, Outcome.REFUSED: 0, Outcome.UNSCORED: -1}
    told, known = (
        np.array([code[Outcome(outcome)] for outcome in column], dtype=np.intp) for column in (judged, truth)
    )
    number = {prompt: at for at, prompt in enumerate(dict.fromkeys(clusters or ()))}
    prompts = np.array([number[prompt] for prompt in clusters], np.intp) if clusters else np.arange(n)
    heavy = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(heavy) & (heavy > 0)).all():
        raise ValueError("expected weights above 0, found one that is not")
    return told, known, prompts, heavy


def _share(event: NDArray[np.bool_], prompts: Integers, weights: Floats) -> tuple[Estimate, float]:
    """The weighted share of events with its interval, and the effective number of replies behind it."""
    n = len(event)
    if not n:
        return Estimate(None, None, None, 0), 0.0
    size = effective_size(event.astype(np.float64), prompts, weights)
    value = float(np.average(event, weights=weights))
    low, high = wilson(min(size, value * size), size)
    return Estimate(value, low, high, n), size


def _kappa(cells: Floats, prompts: Integers, weights: Floats) -> Estimate:
    """Cohen's kappa of replies by cell [n, 4] (tp, fp, fn, tn, one of them 1).

    Kappa is 1 - d / e: d the share on which the two disagree, e that on which they would by
    chance. The usual interval, symmetric around kappa, is far too narrow near 1 and has no width
    there. So d gets Wilson's interval, at the number of replies at which it is as wide as the
    delta method says kappa is (Fleiss, Cohen & Everitt 1969, Psychol. Bull. 72(5), 323-327):
    with v the variance of one reply's part in kappa, the effective number of replies times
    d (1 - d) / (e² v), this ratio taken after 1/2 was added to each cell. e is held fixed.
    """
    n = len(cells)
    if not n:
        return Estimate(None, None, None, 0)
    shares = weights @ cells / weights.sum()
    by_chance = _by_chance(shares)
    if by_chance == 0:
        return Estimate(None, None, None, n)
    size = effective_size(cells @ _slopes(shares), prompts, weights)
    smooth = (shares * size + 0.5) / (size + 2)
    slopes = _slopes(smooth)
    variance = float(smooth @ slopes**2 - (smooth @ slopes) ** 2)
    apart = float(smooth[1] + smooth[2])
    size *= apart * (1 - apart) / (_by_chance(smooth) ** 2 * variance)
    disagreed = float(shares[1] + shares[2])
    low, high = wilson(min(size, disagreed * size), size)
    return Estimate(
        1 - disagreed / by_chance, max(-1.0, 1 - high / by_chance), max(-1.0, 1 - low / by_chance), n
    )


def _by_chance(shares: Floats) -> float:
    """The share on which two such judges would disagree if each spoke without regard to the other."""
    tp, fp, fn, tn = (float(share) for share in shares)
    return (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)


def _slopes(shares: Floats) -> Floats:
    """The derivatives of kappa by the four shares, each taken as free."""
    tp, fp, fn, tn = (float(share) for share in shares)
    by_chance, first, second = _by_chance(shares), tp + fp, tp + fn
    chance_slopes = np.array([(fp + tn) + (fn + tn), (fp + tn) + first, (fn + tn) + second, first + second])
    return np.array([0.0, -1.0, -1.0, 0.0]) / by_chance + (fp + fn) * chance_slopes / by_chance**2
