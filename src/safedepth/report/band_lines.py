"""Lines with bands and the axes beneath them: decoding settings, numbers of tries, steps of a search.

Knows which fields a row has and not what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from safedepth.report.marks import bands
from safedepth.report.style import Chart, Record, data, model_colour, model_shape, share_axis

__all__ = ["band_lines", "count_axis", "number_axis", "page_models"]

APART = 1.25
"""Numbers closer than this factor have no tick of their own."""
FIRST = ("aligned", "deepened", "control", "base")


def page_models(summary: Record, rows: Iterable[Record]) -> list[str]:
    """All models of the page in one order, so that each has the same colour in every chart."""
    spoken = [str(row["model"]) for row in (*summary.get("rates", ()), *rows) if row["model"] is not None]
    known = [name for name in FIRST if name in spoken]
    return list(dict.fromkeys((*known, *summary.get("models", {}), *spoken)))


def band_lines(
    rows: Sequence[Record],
    models: Sequence[str],
    *,
    x: Any,
    tooltip: Sequence[alt.Tooltip],
    title: str,
) -> list[Chart]:
    """One line a model through its shares, with a band for the intervals; colour and shape say whose it is.

    `models` are all of the page: their colours and shapes.
    """
    found = [name for name in models if any(row["model"] == name for row in rows)]
    layers: list[Chart] = []
    for model in found:
        mine = [row for row in rows if row["model"] == model]
        base = alt.Chart(data(mine)).encode(x=x, color=model_colour(found, models), tooltip=list(tooltip))
        y = share_axis(alt.Y, "value", title=title)
        layers += [
            *bands(base, mine, opacity=0.16),
            base.mark_line(strokeWidth=2).encode(y=y),
            base.mark_point(filled=True, size=40, opacity=1).encode(y=y, shape=model_shape(found, models)),
        ]
    return layers


def count_axis(field: str, values: Iterable[float], *, title: str) -> alt.X:
    """A logarithmic axis over whole numbers from 1 on, with a tick at those that are far enough apart."""
    found = sorted(set(values))
    # The last number says how far was tried: its neighbour gives way to it.
    crowded = {before for before, after in pairwise(found) if after / before < APART}
    ticks = [value for value in found if value not in crowded]
    # One number alone would make an axis of no length.
    ends = [found[0], max(found[-1], found[0] * 2)]
    return (
        alt.X(f"{field}:Q", title=title)
        .scale(type="log", domain=ends, nice=False, padding=14)
        .axis(values=ticks, format=",d")
    )


def number_axis(field: str, values: Iterable[float], *, title: str, ends: Sequence[float] = ()) -> alt.X:
    """A linear axis over the values and as far as `ends`."""
    found = [*values, *ends]
    low, high = min(found), max(found)
    return (
        alt.X(f"{field}:Q", title=title)
        .scale(domain=[low, high if high > low else low + 1], nice=False, zero=False, padding=14)
        .axis(tickCount=6)
    )
