"""Which prompts lie inside which: the depths of one prompt, and its seeds, share a prefill.

A decoder's keys and values at a position depend only on the tokens up to it, so
whoever wants a prefix of a sequence takes the first columns of the longer one's.
Token ids only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = ["Group", "share"]


class _HasContext(Protocol):
    @property
    def context(self) -> Sequence[int]: ...


RowT = TypeVar("RowT", bound=_HasContext)


@dataclass(frozen=True)
class Group(Generic[RowT]):
    """Rows whose contexts are prefixes of `ids`, the longest among them."""

    ids: tuple[int, ...]
    rows: list[RowT]


def share(rows: Sequence[RowT]) -> list[Group[RowT]]:
    """Groups of `rows`, every row in exactly one, in the order in which their first rows came.

    In descending order every extension of a sequence comes before it, with nothing
    but other extensions of it between them. So if any sequence seen so far continues
    a row's context, then the latest leader does, and one comparison per row is enough.
    """
    contexts = [tuple(row.context) for row in rows]
    groups: list[tuple[int, Group[RowT]]] = []
    for index in sorted(range(len(rows)), key=lambda i: (contexts[i], -i), reverse=True):
        context = contexts[index]
        if groups and groups[-1][1].ids[: len(context)] == context:
            first, group = groups[-1]
            group.rows.append(rows[index])
            groups[-1] = (min(first, index), group)
        else:
            groups.append((index, Group(context, [rows[index]])))
    return [group for _, group in sorted(groups, key=lambda item: item[0])]
