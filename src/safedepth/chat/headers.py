"""Headers that a model writes before its answers (a channel's), told from the answers' words in token ids."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["around_header", "without_header"]


def without_header(ids: Sequence[int], header: Sequence[int]) -> list[int]:
    """`ids` less every `header` in them, and less the beginning of one that they end with."""
    kept: list[int] = []
    place = 0
    while place < len(ids):
        found = ids[place : place + len(header)]
        if list(found) == list(header[: len(found)]):
            place += len(found)
        else:
            kept.append(ids[place])
            place += 1
    return kept


def around_header(
    prefix: Sequence[int], ids: Sequence[int], header: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """`prefix` and the `ids` after it; where a header ends in `ids`, nothing and what follows it."""
    for inside in range(len(header)):
        begins = list(prefix[len(prefix) - inside :]) == list(header[:inside])
        if begins and list(ids[: len(header) - inside]) == list(header[inside:]):
            return (), ids[len(header) - inside :]
    return prefix, ids
