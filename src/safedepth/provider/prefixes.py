"""Prompts prefilled lately: rows that come later begin from their keys and values.

Inspect starts samples one after another, so a prompt's depths and seeds trickle in
while others are decoded. What a newcomer shares with a stored sequence is copied; the
few tokens it does not share are fed to it step by step, beside the rows that generate.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from transformers.cache_utils import Cache

__all__ = ["PrefixStore", "Stored"]

_IDS = attrgetter("ids")


@dataclass(frozen=True, eq=False)
class Stored:
    """The tokens `ids`, whose keys and values are row `source` of `cache`."""

    ids: tuple[int, ...]
    cache: Cache
    source: int


class PrefixStore:
    """Prefilled sequences, the latest ones, of no more than `capacity` padded tokens in all."""

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self._batches: deque[tuple[int, list[Stored]]] = deque()
        self._sorted: list[Stored] = []

    def add(self, sequences: Sequence[tuple[int, ...]], cache: Cache) -> list[Stored]:
        """Store a prefill, whose rows are `sequences`; the oldest ones make room for it."""
        batch = [Stored(ids, cache, source) for source, ids in enumerate(sequences)]
        size = len(batch) * max(map(len, sequences))
        if size <= self.capacity:
            self._batches.append((size, batch))
            for stored in batch:
                insort(self._sorted, stored, key=_IDS)
        while sum(size for size, _ in self._batches) > self.capacity:
            gone = set(self._batches.popleft()[1])
            self._sorted = [stored for stored in self._sorted if stored not in gone]
        return batch

    def find(self, ids: tuple[int, ...]) -> tuple[Stored | None, int]:
        """The stored sequence that begins most like `ids`, and how many tokens they share."""
        # In sorted order the one with the longest shared beginning is a neighbour.
        place = bisect_left(self._sorted, ids, key=_IDS)
        found: tuple[Stored | None, int] = (None, 0)
        for stored in self._sorted[max(0, place - 1) : place + 1]:
            shared = _shared(stored.ids, ids)
            if shared > found[1]:
                found = (stored, shared)
        return found

    @property
    def empty(self) -> bool:
        """Whether nothing is stored."""
        return not self._batches

    def clear(self) -> None:
        """Give the memory back."""
        self._batches.clear()
        self._sorted = []


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two sequences have in common from the start."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
