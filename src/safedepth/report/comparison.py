"""The sections of a comparison: every variant in every column, as charts and as one table.

In the table a star marks the best of a column and an arrow what differs from the
reference; `ranking` says when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safedepth.report import comparison_figures, ranking
from safedepth.report.parts import Figure, Section, slugs, why
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.words import MISSING, capital, count, difference, estimate, how_many, named, p_value

__all__ = ["sections"]

MARKS = {ranking.BETTER: "▲", ranking.WORSE: "▼", ranking.DIFFERENT: "◆"}
NOTE = (
    "★ the best of its column; ▲ better, ▼ worse than the reference: the 95 % interval of the paired "
    "difference excludes 0. Where it does not, the difference is undecided. Nothing is corrected for the "
    "number of comparisons."
)


def sections(summary: Record) -> list[Section]:
    """One section for a run that compares variants, none for another."""
    if summary.get("kind") != "compare":
        return []
    comparison = summary.get("comparison") or {}
    intro = (
        "Every variant started from the same model and had the same number of updates; what differs is where "
        "in a harmful answer it learnt to turn back, and how its refusals speak. "
    )
    if not comparison:
        return [_section(intro, missing=why(summary, "the comparison", "compar"))]
    against = comparison.get("against")
    if against:
        intro += f"The reference is {against}. Colour and shape say what differs from it on the same prompts."
    drawn = [
        figure
        for column, slug in _slugged(comparison)
        if (figure := _figure(comparison, column, slug)) is not None
    ]
    tables = [
        table for table in (_grid(comparison), _variants(comparison), _paired(comparison)) if table.rows
    ]
    missing = "" if drawn or tables else why(summary, "the comparison", "compar")
    return [_section(intro, figures=drawn, tables=tables, missing=missing)]


def _section(intro: str, **parts: Any) -> Section:
    return Section(id="comparison", title="The variants side by side", intro=intro.strip(), **parts)


def _slugged(comparison: Record) -> list[tuple[Mapping[str, Any], str]]:
    columns = comparison["columns"]
    found = slugs([str(column["key"]) for column in columns])
    return [(column, found[str(column["key"])]) for column in columns]


def _figure(comparison: Record, column: Mapping[str, Any], slug: str) -> Figure | None:
    chart = comparison_figures.column(comparison, column)
    if chart is None:
        return None
    cells = ranking.cells_of(comparison, column)
    title = ranking.column_title(column)
    title = capital(title)
    lacking = [row["name"] for row in comparison["variants"] if not _has_number(cells.get(row["name"]))]
    beyond = any(cell["value"] is None and cell["low"] is not None for cell in cells.values())
    caption = "An arrow: beyond the deepest that was tested. " if beyond else ""
    caption += f"Without a value, and not drawn: {', '.join(lacking)}." if lacking else ""
    told = "; ".join(
        f"{name}: {ranking.cell_estimate(cell, column)}, {ranking.verdict(comparison, name, column)}"
        for name, cell in cells.items()
    )
    return Figure(
        id=f"comparison-{slug}",
        title=title,
        full_title=f"{title}, by variant",
        caption=caption.strip(),
        spoken=f"Dot plot with intervals. {told}.",
        chart=chart,
    )


def _has_number(cell: Mapping[str, Any] | None) -> bool:
    return cell is not None and ranking.height(cell) is not None


def _grid(comparison: Record) -> Table:
    """Variants down, columns across."""
    columns = comparison["columns"]
    stars = {column["key"]: ranking.best(comparison, column) for column in columns}
    cells = {column["key"]: ranking.cells_of(comparison, column) for column in columns}
    rows = []
    for variant in comparison["variants"]:
        name = variant["name"]
        row = [f"{name} (reference)" if name == comparison.get("against") else str(name)]
        for column in columns:
            cell = cells[column["key"]].get(name)
            if cell is None:
                row.append(MISSING)
                continue
            marks = ["★"] if name in stars[column["key"]] else []
            marks += [MARKS[v] for v in (ranking.verdict(comparison, name, column),) if v in MARKS]
            row.append(" ".join([ranking.cell_estimate(cell, column), *marks]))
        rows.append(row)
    head = ["variant", *(ranking.column_title(column) for column in columns)]
    return Table("All variants in all columns", head, rows, open=True, note=NOTE)


def _variants(comparison: Record) -> Table:
    rows = [
        [
            str(row["name"]),
            named(row["recovery"]),
            named(row["style"]),
            named(row["turns"]),
            named(row["definition"]),
        ]
        for row in comparison["variants"]
    ]
    head = ["variant", "where it turns back", "how it refuses", "turns", "definition"]
    return Table("What the variants are", head, rows, words=5)


def _paired(comparison: Record) -> Table:
    """Every paired difference from the reference with its interval and p."""
    columns = {column["key"]: column for column in comparison["columns"]}
    rows = []
    for row in comparison["paired"]:
        column = columns.get(row["column"]) or {"key": named(row["column"])}
        rows.append(
            [
                named(row["variant"]),
                ranking.column_title(column),
                _difference(row, column),
                p_value(row["p"]),
                how_many(row["n"]),
            ]
        )
    against = comparison.get("against") or "the reference"
    head = ["variant", "column", f"difference from {against}", "p", "prompts"]
    return Table(f"All {count(len(rows), 'paired difference')} from {against}", head, rows, words=2)


def _difference(row: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    if column.get("unit") == "share":
        return difference(row)
    return estimate({**row, "value": row["difference"]}, unit=column.get("unit") or "number")
