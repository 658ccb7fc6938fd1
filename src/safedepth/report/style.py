"""How the charts look: palette, axes, legends. Knows Altair and no findings.

Colours come from the Okabe–Ito palette and can be told apart in every common colour
blindness. They are those for white paper; `report.css` names what each becomes on a
dark screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import altair as alt

__all__ = [
    "ALIGNED",
    "INK",
    "MUTED",
    "Chart",
    "Record",
    "data",
    "depth_axis",
    "depth_ramp",
    "model_colour",
    "share_axis",
    "styled",
    "token_axis",
]

Chart = alt.LayerChart | alt.Chart
Record = Mapping[str, Any]

ALIGNED, BASE = "#0072B2", "#D55E00"
INK, MUTED, GRID = "#1b1f24", "#5b6470", "#e3e6ea"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MODELS = {"aligned": ALIGNED, "base": BASE}
# From shallow to deep; read on white and on black alike.
RAMP = ((222, 137, 0), (200, 72, 108), (104, 88, 200))


CONFIG = alt.Config(
    font=FONT,
    aria=False,  # the page describes a chart as a whole; a label on every mark would drown that
    autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    view=alt.ViewConfig(stroke=None),
    axis=alt.AxisConfig(
        labelColor=MUTED,
        titleColor=INK,
        gridColor=GRID,
        domainColor=MUTED,
        tickColor=MUTED,
        labelFontSize=12,
        titleFontSize=12,
        titleFontWeight=500,
        titlePadding=8,
    ),
    axisX=alt.AxisConfig(grid=False, labelOverlap="greedy"),
    axisY=alt.AxisConfig(domain=False, ticks=False),
    legend=alt.LegendConfig(
        orient="top",
        title=None,
        titleColor=INK,
        titleFontWeight=500,
        labelColor=INK,
        labelFontSize=12,
        labelLimit=240,
        symbolSize=90,
        symbolBaseFillColor=MUTED,
        symbolBaseStrokeColor=MUTED,
    ),
)


def styled(*layers: Chart, height: int = 280) -> Chart:
    """The layers as one chart, as wide as the page lets it be, with quiet axes and legends on top."""
    chart = layers[0] if len(layers) == 1 else cast("alt.LayerChart", alt.layer(*layers))
    whole: Chart = chart.properties(width="container", height=height, background="transparent", config=CONFIG)
    return whole


def depth_axis(
    field: str, depths: Sequence[int], *, title: str, channel: type[alt.X] | type[alt.Y] = alt.X
) -> Any:
    """A depth axis that begins at 0 and still tells 1, 2 and 5 apart beside 40 or 2,500."""
    crowded = {after for before, after in pairwise(sorted(depths)) if (after + 1) / (before + 1) < 1.25}
    return (
        channel(f"{field}:Q", title=title)
        .scale(type="symlog", constant=1, domain=[min(depths), max(depths)], nice=False, padding=14)
        .axis(values=[d for d in depths if d not in crowded], format="d")
    )


def token_axis(field: str, last: int, *, title: str) -> alt.X:
    """An axis over answer tokens 1 to `last`, with a tick at the first and at round numbers."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if last / step <= 15 or step == 500)
    return (
        alt.X(f"{field}:Q", title=title)
        .scale(domain=[0.5, last + 0.5], nice=False)
        .axis(values=[1, *range(max(step, 2), last + 1, step)], format="d")
    )


def share_axis(channel: type[alt.X] | type[alt.Y], field: str, *, title: str) -> Any:
    """An axis for shares that always shows 0 to 100 %, so that charts beside each other compare."""
    axis = alt.Axis(labelExpr="format(100 * datum.value, '.0f') + ' %'", tickCount=5)
    return channel(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=[0, 1]))


def model_colour(rows: Sequence[Record]) -> alt.Color:
    """The colour of each model, the same in every chart; the legend names those there are."""
    found = [name for name in MODELS if any(row["model"] == name for row in rows)]
    return alt.Color("model:N", scale=alt.Scale(domain=found, range=[MODELS[name] for name in found]))


def depth_ramp(depths: Sequence[int]) -> alt.Scale:
    """One colour a depth, from orange (shallow) over red to violet (deep)."""
    steps = [2 * i / max(len(depths) - 1, 1) for i in range(len(depths))]
    colours = []
    for step in steps:
        low = min(int(step), 1)
        mixed = [round(a + (b - a) * (step - low)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True)]
        colours.append("#" + "".join(f"{part:02x}" for part in mixed))
    return alt.Scale(domain=list(depths), range=colours)


def data(rows: Sequence[Record]) -> alt.InlineData:
    """Rows as they are: no type is guessed from them."""
    return alt.InlineData(values=[dict(row) for row in rows])
