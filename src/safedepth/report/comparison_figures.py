"""The chart of one column of a comparison: every variant's value with its interval, and the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from safedepth.report import ranking
from safedepth.report.marks import intervals
from safedepth.report.style import CONTROL, DEEPENED, INK, MUTED, WORSE, Chart, Record, data, styled

__all__ = ["LOOKS", "column"]

LOOKS = {
    ranking.REFERENCE: (INK, "diamond"),
    ranking.BETTER: (DEEPENED, "triangle-up"),
    ranking.WORSE: (WORSE, "triangle-down"),
    ranking.DIFFERENT: (CONTROL, "square"),
    ranking.SAME: (MUTED, "circle"),
    ranking.UNPAIRED: (MUTED, "cross"),
}
ROW = 26


def column(comparison: Record, of: Mapping[str, Any]) -> Chart | None:
    """Dots with intervals, one row a variant in the order of the study; dashed, the reference's value.

    Colour and shape say how a variant differs from the reference. The axis covers the
    values and need not begin at zero: the question is how variants differ. An arrow marks
    a depth beyond the deepest that was tested.
    """
    rows = [
        {
            "variant": name,
            "at": at,
            "low": cell["low"],
            "high": cell["high"],
            "told": ranking.cell_estimate(cell, of),
            "n": cell["n"],
            "differs": ranking.verdict(comparison, name, of),
            "beyond": cell["value"] is None,
        }
        for name, cell in ranking.cells_of(comparison, of).items()
        if (at := ranking.height(cell)) is not None
    ]
    if not rows:
        return None
    order = [row["name"] for row in comparison["variants"]]
    shown = [name for name in order if any(row["variant"] == name for row in rows)]
    found = [name for name in LOOKS if any(row["differs"] == name for row in rows)]
    colours, shapes = ([LOOKS[name][i] for name in found] for i in (0, 1))
    legend = alt.Legend(columns=2)
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("variant:N", sort=shown, title=None).axis(labelLimit=170, labelColor=INK, grid=True),
        color=alt.Color("differs:N", legend=legend).scale(domain=found, range=colours),
        tooltip=[
            alt.Tooltip("variant:N", title="variant"),
            alt.Tooltip("told:N", title=ranking.column_title(of)),
            alt.Tooltip("n:Q", title="n"),
            alt.Tooltip("differs:N", title="against the reference"),
        ],
    )
    x = _axis(of, rows)
    layers: list[Chart] = []
    reference = [row for row in rows if row["differs"] == ranking.REFERENCE]
    if reference:
        line = alt.Chart(data([{"at": reference[0]["at"]}]))
        layers.append(line.mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x=x))
    layers += [
        *intervals(base, rows, alt.X, strokeWidth=2),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, shape=alt.Shape("differs:N", legend=legend).scale(domain=found, range=shapes)
        ),
    ]
    if any(row["beyond"] for row in rows):
        arrows = base.mark_text(text="→", dx=13, fontSize=14)
        layers.append(arrows.transform_filter("datum.beyond").encode(x=x))
    return styled(*layers, height=ROW * len(shown))


def _axis(of: Mapping[str, Any], rows: Sequence[Record]) -> alt.X:
    """As wide as the values and a little more, but never into what cannot be: below 0 or above 100 %."""
    ends = [row[key] for row in rows for key in ("at", "low", "high") if row[key] is not None]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or 0.1
    domain = [low - room if low < 0 else max(0.0, low - room), high + room]
    axis = alt.Axis(tickCount=5)
    if of.get("unit") == "share":
        domain[1] = max(high, min(1.0, domain[1]))
        axis = alt.Axis(labelExpr="format(100 * datum.value, '~g') + ' %'", tickCount=5)
    return alt.X("at:Q", title=_title(of), axis=axis).scale(zero=False, nice=False, domain=domain)


def _title(of: Mapping[str, Any]) -> str | None:
    """The unit, and which way is good; what is measured stands above the chart."""
    parts = ["tokens"] if of.get("unit") == "tokens" else []
    parts += [f"{of['better']} is better"] if of.get("better") else []
    return "; ".join(parts) or None
