"""Which variant is best in a column of a comparison, and which differ from the reference.

A variant differs where the interval of its paired difference excludes 0; without an
interval, where p < 0.05. No correction is made for how many are compared: the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report.words import (
    Summary,
    Tile,
    capital,
    change,
    count,
    depth_estimate,
    estimate,
    named,
    plain_name,
)

__all__ = [
    "BETTER",
    "DIFFERENT",
    "REFERENCE",
    "SAME",
    "UNPAIRED",
    "WORSE",
    "best",
    "cell_estimate",
    "cells_of",
    "column_title",
    "headline",
    "height",
    "tiles",
    "verdict",
]

REFERENCE, BETTER, WORSE, SAME = "reference", "better", "worse", "undecided"
DIFFERENT, UNPAIRED = "differs", "not compared"
LEVEL = 0.05
TILES = 4

Comparison = Mapping[str, Any]


def cells_of(comparison: Comparison, column: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The cells of a column by variant, in the order of the variants."""
    found = {cell["variant"]: cell for cell in comparison["cells"] if cell["column"] == column["key"]}
    return {row["name"]: found[row["name"]] for row in comparison["variants"] if row["name"] in found}


def height(cell: Mapping[str, Any]) -> float | None:
    """The number that a cell is ranked by: its value, or the bound of a depth beyond the deepest tested."""
    return cell.get("low") if cell.get("value") is None else cell["value"]


def best(comparison: Comparison, column: Mapping[str, Any]) -> list[str]:
    """The variants with the best number of a column; none where the column does not say what is better."""
    if column.get("better") not in ("lower", "higher"):
        return []
    cells = cells_of(comparison, column)
    ranked = {name: number for name, cell in cells.items() if (number := height(cell)) is not None}
    if not ranked:
        return []
    first = min(ranked.values()) if column["better"] == "lower" else max(ranked.values())
    return [name for name, number in ranked.items() if number == first]


def verdict(comparison: Comparison, variant: str, column: Mapping[str, Any]) -> str:
    """How a variant's cell differs from the reference's."""
    if variant == comparison.get("against"):
        return REFERENCE
    rows = [
        row
        for row in comparison["paired"]
        if row.get("variant") == variant and row.get("column") == column["key"]
    ]
    if not rows or rows[0].get("difference") is None:
        return UNPAIRED
    moved = _moved(rows[0])
    if not moved:
        return SAME
    if column.get("better") not in ("lower", "higher"):
        return DIFFERENT
    return BETTER if (moved > 0) == (column.get("better") == "higher") else WORSE


def _moved(row: Mapping[str, Any]) -> int:
    """1 for a difference above 0, -1 for one below, 0 for one that is not shown."""
    if row.get("low") is not None and row.get("high") is not None:
        return {"rose": 1, "fell": -1}.get(change(row), 0)
    if row.get("p") is None or row["p"] >= LEVEL or not row["difference"]:
        return 0
    return 1 if row["difference"] > 0 else -1


def column_title(column: Mapping[str, Any]) -> str:
    """The title of a column, or its key in words."""
    return str(column.get("title") or plain_name(str(column["key"])))


def cell_estimate(cell: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    """The value of a cell with its interval, in the unit of its column."""
    if column.get("unit") == "tokens":
        return depth_estimate(cell)
    return estimate(cell, unit=column.get("unit") or "number")


def headline(summary: Summary) -> list[str]:
    """What the study found in its own words; where it wrote nothing, the best of every column."""
    comparison = summary.get("comparison") or {}
    if not comparison:
        return ["This run holds no comparison."]
    variants, against = comparison["variants"], comparison.get("against")
    opening = f"{count(len(variants), 'variant')} of recovery training, each with the same number of updates"
    opening += f", compared with {against}." if against else "."
    return [opening, *(comparison["findings"] or _best_sentences(comparison))]


def _best_sentences(comparison: Comparison) -> list[str]:
    found = []
    for column in comparison["columns"]:
        names = best(comparison, column)
        if not names:
            continue
        cell = cells_of(comparison, column)[names[0]]
        sentence = (
            f"{capital(column_title(column))}: best is {_listed(names)} with {cell_estimate(cell, column)}"
        )
        reference = cells_of(comparison, column).get(str(comparison.get("against")))
        if reference is not None and comparison["against"] not in names:
            sentence += f"; {comparison['against']} has {cell_estimate(reference, column)}"
            sentence += f" ({verdict(comparison, names[0], column)})" if len(names) == 1 else ""
        found.append(sentence + ".")
    return found


def tiles(summary: Summary) -> list[Tile]:
    """The best value of the first columns, and whose it is."""
    comparison = summary.get("comparison") or {}
    found = []
    for column in comparison.get("columns") or ():
        names = best(comparison, column)
        if names:
            cell = cells_of(comparison, column)[names[0]]
            value, bracket, interval = cell_estimate(cell, column).partition(" [")
            ends = f", 95 % interval [{interval}" if bracket and len(names) == 1 else ""
            title = column_title(column)
            found.append(Tile(capital(title), value, f"best: {_listed(names)}{ends}"))
    return found[:TILES]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(named(name) for name in names[:2])
    return shown if len(names) <= 2 else f"{shown} and {count(len(names) - 2, 'other')}"
