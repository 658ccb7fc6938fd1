"""Summaries with something missing: a key gone, a value null, a list or a mapping empty."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["HOW", "holes", "mutilated", "some_holes"]

HOW = ("gone", "null", "empty")
Place = tuple[str, ...]
EACH = "*"


def holes(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place where something can be missing; all entries of a list count as one place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, key)
            yield from holes(inner, (*at, key))
    elif isinstance(value, list):
        for inner in value:
            yield (*at, EACH)
            yield from holes(inner, (*at, EACH))


def some_holes(value: Any, *, seed: int, times: int, at_once: int) -> list[list[tuple[Place, str]]]:
    """Several sets of holes, drawn so that over all sets every place is hit about equally often."""
    rng = random.Random(seed)
    places = [(place, how) for place in sorted(set(holes(value))) for how in HOW]
    drawn = [
        hole for _ in range(-(-times * at_once // len(places))) for hole in rng.sample(places, len(places))
    ]
    return [drawn[i * at_once : (i + 1) * at_once] for i in range(times)]


def mutilated(summary: dict[str, Any], place: Place, how: str) -> dict[str, Any]:
    """The summary with this hole: in every entry of the lists on the way, and of the last list in the first.

    Copied is what lies on the way; the rest is the summary's own and may not be changed.
    """
    found: dict[str, Any] = _cut(summary, place, how)
    return found


def _cut(value: Any, place: Place, how: str) -> Any:
    first, *rest = place
    if first == EACH and isinstance(value, list):
        if rest:
            return [_cut(inner, tuple(rest), how) for inner in value]
        return _without(value, 0, how) if value else value
    if isinstance(value, dict) and first in value:
        if rest:
            return value | {first: _cut(value[first], tuple(rest), how)}
        return _without(value, first, how)
    return value


def _without(value: Any, key: Any, how: str) -> Any:
    value = copy.copy(value)
    if how == "gone":
        del value[key]
    elif how == "empty" and isinstance(value[key], dict | list):
        value[key] = type(value[key])()
    else:
        value[key] = None
    return value
