"""What a model was asked before and after fine-tuning: harmful replies and utility, as charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safedepth.report.marks import grouped_points, interval_tooltip
from safedepth.report.objectives import asked_name, forced
from safedepth.report.parts import Figure, slugs, undrawn
from safedepth.report.style import Chart, Record
from safedepth.report.tables import Table
from safedepth.report.words import capital, how_many, named, plain_name, share_estimate

__all__ = ["BEFORE_AFTER", "HARMFUL", "chart", "figures", "measured", "table"]

BEFORE_AFTER = ("before", "after")
HARMFUL = "harmful replies"
UTILITY = "utility"
LONG = 24
"""Rows beyond which a table waits to be asked for."""


def measured(rows: Sequence[Record], measure: str = UTILITY) -> list[dict[str, Any]]:
    """The rows with `asked`, what was asked in words, and the `measure` that they are of, else this one."""
    found = []
    for row in rows:
        parts = [asked_name(row["what"])] if row["what"] else []
        parts += [forced(row["k"])] if row.get("k") is not None else []
        asked = ", ".join(parts) or asked_name("plain")
        own = plain_name(str(row.get("measure") or measure))
        found.append({**row, "asked": asked, "model": named(row["model"]), "measure": own})
    return found


def chart(rows: Sequence[Record], measure: str) -> Chart | None:
    """One measure before and after, in a band for everything that was asked."""
    shown = [row for row in rows if row["measure"] == measure and row["value"] is not None]
    names = dict.fromkeys((*BEFORE_AFTER, *(row["model"] for row in shown)))
    return grouped_points(
        shown,
        list(names),
        group="asked",
        title=measure,
        tooltip=interval_tooltip(("model:N", "model"), ("asked:N", "asked"), value=measure),
    )


def figures(rows: Sequence[Record], *, prefix: str) -> list[Figure]:
    """A chart for every measure of these rows; `prefix` begins their ids."""
    drawn = []
    for measure, slug in slugs(list(dict.fromkeys(row["measure"] for row in rows))).items():
        found = chart(rows, measure)
        if found is None:
            continue
        mine = [row for row in rows if row["measure"] == measure]
        spoken = "; ".join(f"{row['asked']}, {row['model']}: {share_estimate(row)}" for row in mine)
        drawn.append(
            Figure(
                id=f"{prefix}-{slug}",
                title=capital(measure),
                full_title=f"{capital(measure)} before and after fine-tuning",
                caption=undrawn(mine),
                spoken=f"Dot plot with intervals. {spoken}.",
                chart=found,
            )
        )
    return drawn


def table(rows: Sequence[Record], title: str) -> Table:
    """Everything that was asked, a row each, as numbers."""
    told = [
        [
            row["measure"], row["asked"], row["model"], share_estimate(row), how_many(row["n"]),
            how_many(row["unscored"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["measure", "asked", "model", "share", "n", "unscored"]
    return Table(title, head, told, words=3, open=len(told) <= LONG)
