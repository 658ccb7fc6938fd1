"""Pieces of a summary made whole: rows with all their fields, lists and mappings that may be missing.

Knows no block of `summary.json`; `reading` and `reading_finetuning` say which there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report.style import Record

__all__ = [
    "COMPARED",
    "ESTIMATE",
    "PAIRED",
    "estimate",
    "estimates",
    "listed",
    "mapping",
    "pairs",
    "rows",
    "text",
]

ESTIMATE = ("value", "low", "high", "n")
PAIRED = ("before", "after", "difference", "low", "high", "p", "n")
COMPARED = ("model", "against", "what", "measure", "judge", *PAIRED)


def estimates(of: Any) -> dict[str, dict[str, Any]]:
    """Estimates by name."""
    return {str(name): estimate(entry) for name, entry in (of or {}).items()}


def estimate(of: Any) -> dict[str, Any]:
    """An estimate with value, interval and n, all None where there is none."""
    return dict.fromkeys(ESTIMATE) | (dict(of) if isinstance(of, Mapping) else {})


def rows(of: Record, key: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a list, each with these fields at least."""
    return [dict.fromkeys(fields) | dict(row) for row in listed(of, key) if isinstance(row, Mapping)]


def pairs(of: Any) -> list[Any]:
    """The entries of a list that are pairs and hold two values."""
    return [
        entry
        for entry in (of if isinstance(of, Sequence) else ())
        if isinstance(entry, list | tuple) and len(entry) == 2 and None not in entry
    ]


def listed(of: Record, key: str) -> list[Any]:
    """A list, empty where there is none."""
    value = of.get(key)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def mapping(of: Record, key: str) -> dict[str, Any]:
    """A mapping, empty where there is none."""
    value = of.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def text(value: Any) -> str:
    """A value as text, a dash where there is none."""
    return "–" if value is None else str(value)
