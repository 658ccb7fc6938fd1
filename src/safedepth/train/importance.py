"""Betas from where safety lives: importance by response position, mapped to a schedule.

What importance is, its caller says: a divergence, a gradient norm, or what was learnt
(`bilevel`). It is averaged over the groups of positions that diagnostics have too, because
late positions are reached by few answers. Tensors and numbers in, a schedule out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from safedepth.errors import DataError
from safedepth.train.betas import BetaSchedule, listed_betas
from safedepth.train.positions import GROUPS, group_of

__all__ = ["HIGH", "LOW", "grouped_betas", "importance_betas", "listed_groups", "means_by_group"]

LOW, HIGH = 0.1, 10.0
"""Betas of positions without importance, as the paper has it for late ones, and of the most important."""


def means_by_group(values: Tensor, positions: Tensor) -> list[float]:
    """Mean of the values [N] in each group of the response positions [N], from 1: one number a group.

    A group that no answer reaches has the number of the one before it. Raises DataError where there
    is nothing at the first position, and for values that are no finite numbers of at least 0.
    """
    wrong = ~(torch.isfinite(values) & (values >= 0))
    if bool(wrong.any()):
        raise DataError(
            f"expected importances of at least 0 and finite, found {values[wrong][0].item()} at position "
            f"{int(positions[wrong][0])}"
        )
    groups = group_of(positions)
    sums = torch.zeros(len(GROUPS), dtype=torch.float64).index_add_(0, groups, values.double())
    counts = torch.bincount(groups, minlength=len(GROUPS)).tolist()
    if not counts[0]:
        raise DataError("expected the importance of at least the first position of an answer, found none")
    means: list[float] = []
    for total, count in zip(sums.tolist(), counts, strict=True):
        means.append(total / count if count else means[-1])
    return means


def importance_betas(means: Sequence[float], *, low: float = LOW, high: float = HIGH) -> list[float]:
    """beta = low (high / low)^s of each group, with s in 0..1 its share of the largest importance.

    Geometric, because betas act by their orders of magnitude: from `low` without importance to `high`
    where it is largest. Raises DataError for bounds that are not 0 < low < high, and where no group has
    any importance.
    """
    require_bounds(low, high)
    largest = max(means, default=0.0)
    if largest <= 0:
        raise DataError(
            "expected importance somewhere, found none at any position. The model does not differ from what "
            "it is compared with, or answers are not what it refuses"
        )
    return [low * (high / low) ** (mean / largest) for mean in means]


def require_bounds(low: float, high: float) -> None:
    """Raise DataError unless 0 < low < high, both finite."""
    if not 0 < low < high < math.inf:
        raise DataError(f"expected betas 0 < low < high, found {low} and {high}")


def listed_groups(betas: Sequence[float]) -> list[float]:
    """One beta a group as a list by position, the last for all later ones, as `read_betas` takes it."""
    firsts = [first for first, _ in GROUPS]
    lengths = [after - first for first, after in pairwise(firsts)] + [1]
    return [beta for beta, length in zip(betas, lengths, strict=True) for _ in range(length)]


def grouped_betas(betas: Sequence[float]) -> BetaSchedule:
    """The schedule of one beta a group. Raises DataError for betas that are not positive numbers."""
    return listed_betas(listed_groups(betas))
