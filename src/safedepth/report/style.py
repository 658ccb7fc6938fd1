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
    "BASE",
    "COLOURS",
    "CONTROL",
    "DEEPENED",
    "INK",
    "MUTED",
    "WORSE",
    "Chart",
    "Record",
    "data",
    "depth_axis",
    "depth_ramp",
    "legend",
    "model_colour",
    "model_colours",
    "model_shape",
    "share_axis",
    "styled",
    "token_axis",
]

Chart = alt.LayerChart | alt.Chart
Record = Mapping[str, Any]

ALIGNED, BASE, DEEPENED, CONTROL = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
WORSE = BASE
INK, MUTED, GRID = "#1b1f24", "#5b6470", "#e3e6ea"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MODELS = {
    "aligned": ALIGNED, "base": BASE, "deepened": DEEPENED, "control": CONTROL,
    "before": ALIGNED, "after": BASE,
    "plain SFT": BASE, "SFT with warm-up": "#8A6D00", "constrained": ALIGNED, "KL to the reference": CONTROL,
    "plain prefill": MUTED, "adaptive": BASE, "fixed order": MUTED,
    "as judged": MUTED, "corrected": ALIGNED, "truth": DEEPENED,
    "between the models": INK,
    "better": DEEPENED, "worse": WORSE, "no change shown": MUTED,
}  # fmt: skip
# For models of any other name, in this order; after the last it begins anew, with other shapes.
COLOURS = (ALIGNED, BASE, DEEPENED, CONTROL, "#8A6D00", "#6A51A3", INK, MUTED)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
SYMBOL, PHONE = 4, 36
"""Letters that fit into the space of a legend's symbol, and into a legend on a narrow screen."""
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
    axisX=alt.AxisConfig(grid=False, labelOverlap="greedy", labelSeparation=3),
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
    # One depth alone would make an axis of no length.
    ends = [min(depths), max(*depths, min(depths) + 1)]
    return (
        channel(f"{field}:Q", title=title)
        .scale(type="symlog", constant=1, domain=ends, nice=False, padding=14)
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


def share_axis(channel: type[alt.X] | type[alt.Y], field: str, *, title: str, top: float = 1) -> Any:
    """An axis for shares from 0 to 100 %, so that charts beside each other compare; `top` ends it earlier."""
    axis = alt.Axis(labelExpr="format(100 * datum.value, '.0f') + ' %'", tickCount=5)
    return channel(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=[0, top]))


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every series: its role's own, for other names the next of COLOURS that no role has.

    `constrained, warm-up` plays the role of `constrained`; of several such, the first does.
    """
    roles: dict[str, str] = {}
    for name in names:
        roles.setdefault(name if name in MODELS else name.partition(",")[0], name)
    found = MODELS | {name: MODELS[role] for role, name in roles.items() if role in MODELS}
    taken = {found[name] for name in names if name in found}
    free = [colour for colour in COLOURS if colour not in taken]
    others = [name for name in names if name not in found]
    return found | {name: free[place % len(free)] for place, name in enumerate(others)}


def model_colour(names: Sequence[str], among: Sequence[str] | None = None) -> alt.Color:
    """The colour of each series, the same in every chart of a page; the legend names those there are.

    `among` are all series of the page, where one chart has only some of them.
    """
    colours = model_colours(names if among is None else among)
    scale = alt.Scale(domain=[*names], range=[colours[name] for name in names])
    return alt.Color("model:N", scale=scale, legend=legend(names))


def model_shape(names: Sequence[str], among: Sequence[str] | None = None) -> alt.Shape:
    """A shape for every series beside its colour: eight colours, seven shapes, so 56 can be told apart."""
    places = {name: place for place, name in enumerate(names if among is None else among)}
    scale = alt.Scale(domain=[*names], range=[SHAPES[places[name] % len(SHAPES)] for name in names])
    return alt.Shape("model:N", scale=scale, legend=legend(names))


def legend(names: Sequence[Any], *, title: str | None = None) -> alt.Legend:
    """Names in one row where a phone has room for it, else in columns: what sticks out would be cut off."""
    widths = [len(str(name)) + SYMBOL for name in names]
    if sum(widths) <= PHONE:
        return alt.Legend(title=title, symbolOpacity=1)
    return alt.Legend(title=title, symbolOpacity=1, columns=max(1, PHONE // max(widths)))


def depth_ramp(depths: Sequence[Any]) -> alt.Scale:
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
    return alt.InlineData(values=tuple(dict(row) for row in rows))
