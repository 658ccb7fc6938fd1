"""Where in a harmful answer the model learns to turn back: recovery-point policies.

A policy is a function of a random source and the number n of tokens in the harmful
answer. It returns recovery points, increasing numbers of tokens in 0..n: the refusal is
written after the last of them, and at the earlier ones the model learns the refusal's
first token as well. One point may be returned as a plain number, so a user's lambda is
as good as these. It refuses to know tokens and models.

Sources: `uniform` is the augmentation of the paper's section 4.1. `dynamic` draws
several fresh points an answer, as Dynamic Safety Depth training does; training the first
token of a refusal at many points of one answer is the idea of DeRTa's reinforced
transition (arXiv 2407.09121). `adaptive` is importance sampling on where recovery fails.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from safedepth.errors import DataError

__all__ = [
    "RECOVERIES",
    "AdaptiveRecovery",
    "RecoveryPolicy",
    "dynamic",
    "points_of",
    "refusal_only",
    "uniform",
]

RecoveryPolicy = Callable[[random.Random, int], int | Sequence[int]]
"""(random source, tokens of the harmful answer) -> one recovery point, or several, increasing."""

RECOVERIES: Mapping[str, str] = MappingProxyType(
    {
        "uniform": "k = 0 with probability 1 - p, else k ~ U{1..min(C, n)} (the paper's rule)",
        "dynamic": "0 with probability 1 - p, else m ~ U{1..M} distinct points of {0..min(C, n)}, fresh each "
        "time: the refusal follows the last, its first token is learnt at all of them",
        "adaptive": "P(k) = e / N + (1 - e) (1 - q(k)) / sum_j (1 - q(j)) over the N points k in "
        "{0..min(C, n)}, q(k) the present probability of turning back after k tokens, re-estimated as it "
        "learns",
    }
)
"""The names that `--recovery` takes, with their formulas."""


def uniform(*, probability: float = 0.5, longest: int = 100) -> RecoveryPolicy:
    """The paper's rule: k = 0 with probability 1 - `probability`, else uniform on 1..min(`longest`, n).

    Section 4.1 has probability 0.5 and C = `longest` = 100. Raises DataError outside 0..1 or below 1.
    """
    _check(probability, longest)

    def points(rng: random.Random, length: int) -> int:
        return rng.randint(1, min(longest, length)) if rng.random() < probability else 0

    return points


def refusal_only(_rng: random.Random, _length: int) -> int:
    """The control: the same data without any harmful prefix (k = 0 always)."""
    return 0


def dynamic(*, probability: float = 0.5, longest: int = 100, most: int = 4) -> RecoveryPolicy:
    """Several fresh points an answer: m ~ U{1..`most`} distinct ones, uniform on 0..min(`longest`, n).

    With probability 1 - `probability` nothing is forced, as in the paper's rule.
    """
    _check(probability, longest)
    if most < 1:
        raise DataError(f"expected at least one recovery point an answer, found {most}")

    def points(rng: random.Random, length: int) -> Sequence[int]:
        if rng.random() >= probability:
            return (0,)
        places = range(min(longest, length) + 1)
        return sorted(rng.sample(places, min(rng.randint(1, most), len(places))))

    return points


@dataclass
class AdaptiveRecovery:
    """Points drawn where the model, as it is, is least likely to turn back.

    P(k) = `floor` / N + (1 - `floor`) (1 - q(k)) / sum_j (1 - q(j)) over the N = min(`longest`, n) + 1
    points; q is the latest estimate in force. Before the first estimate, and where the model turns
    back everywhere, all points are equally likely.
    """

    longest: int = 100
    floor: float = 0.2
    estimates: list[tuple[int, list[float]]] = field(default_factory=list)
    """(first step it is in force at, q(k) for k = 0, 1, ...), in the order of steps."""

    def __post_init__(self) -> None:
        _check(self.floor, self.longest)

    def learn(self, from_step: int, recovered: Sequence[float]) -> None:
        """Use `recovered`, q(k) for k = 0, 1, ..., from the optimiser step `from_step` on."""
        if not recovered or not all(math.isfinite(q) and 0 <= q <= 1 for q in recovered):
            raise ValueError(f"expected probabilities of recovery in 0..1, found {list(recovered)[:8]}")
        self.estimates = [(step, q) for step, q in self.estimates if step < from_step]
        self.estimates.append((from_step, list(recovered)))

    def at(self, step: int) -> RecoveryPolicy:
        """The policy in force at one optimiser step (from 0)."""
        place = bisect_right([first for first, _ in self.estimates], step)
        recovered = self.estimates[place - 1][1] if place else []

        def points(rng: random.Random, length: int) -> int:
            return rng.choices(range(min(self.longest, length) + 1), self._weights(recovered, length))[0]

        return points

    def _weights(self, recovered: Sequence[float], length: int) -> list[float]:
        count = min(self.longest, length) + 1
        # A point deeper than any that was estimated counts as the deepest that was.
        failing = [1 - recovered[min(k, len(recovered) - 1)] for k in range(count)] if recovered else []
        total = sum(failing)
        if total <= 1e-9:
            return [1.0] * count
        return [self.floor / count + (1 - self.floor) * share / total for share in failing]

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep, as plain values."""
        return {"estimates": [[step, q] for step, q in self.estimates]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.estimates = [(int(step), [float(x) for x in q]) for step, q in state["estimates"]]


def points_of(policy: RecoveryPolicy, rng: random.Random, length: int) -> tuple[int, ...]:
    """The policy's recovery points for an answer of `length` tokens, checked.

    Raises DataError where it returns none, or points that do not increase within 0..length.
    """
    drawn = policy(rng, length)
    points = (drawn,) if isinstance(drawn, int) else tuple(drawn)
    increasing = all(a < b for a, b in pairwise(points))
    if not points or not increasing or not all(0 <= k <= length for k in points):
        raise DataError(
            f"expected a recovery policy to return increasing points in 0..{length}, the tokens of the "
            f"harmful answer, found {list(points)}"
        )
    return points


def _check(probability: float, longest: int) -> None:
    if not 0 <= probability <= 1:
        raise DataError(f"expected a probability in 0..1, found {probability}")
    if longest < 1:
        raise DataError(f"expected a longest harmful prefix of at least one token, found {longest}")
