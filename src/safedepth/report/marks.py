"""Pieces that several charts share: lines and dots with intervals, bands, tooltips, rates as rows of a chart.

Knows which fields a row has and not what was measured. What is told apart by colour and
shape stands in the field `model`, be it a model, an objective or a defence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from safedepth.report.style import (
    INK,
    MUTED,
    Chart,
    Record,
    data,
    model_colour,
    model_shape,
    share_axis,
    styled,
    token_axis,
)
from safedepth.report.words import estimate

__all__ = [
    "SCOPE_NAMES",
    "bands",
    "drawn",
    "grouped_points",
    "interval_lines",
    "interval_tooltip",
    "intervals",
    "labels_above",
    "rate_tooltip",
    "token_bands",
]

SCOPE_NAMES = {"continuation": "continuation alone", "full": "prefix + continuation"}
LABEL = 26
"""Pixels that the name above a band takes."""
CROWD, FEW = 80, 5
"""Positions from which points on a line get smaller, and series from which dots move together."""
KEPT = ("model", "judge", "scope", "k", "turn", "prefix", "n", "harmful", "value", "low", "high", "unscored")


def drawn(rate: Record) -> dict[str, Any]:
    """A rate without its tables, with the words its tooltip shows."""
    return {key: rate[key] for key in KEPT if key in rate} | {"scope_name": SCOPE_NAMES[rate["scope"]]}


def intervals(
    base: alt.Chart, rows: Sequence[Record], channel: type[alt.X] | type[alt.Y], **look: Any
) -> list[Chart]:
    """A bar from low to high for every row that has both ends: with one alone it would be drawn to zero."""
    if not any(row.get("low") is not None and row.get("high") is not None for row in rows):
        return []
    bars = base.mark_rule(**look).transform_filter("isValid(datum.low) && isValid(datum.high)")
    if channel is alt.X:
        return [bars.encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"))]
    return [bars.encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))]


def interval_lines(
    rows: Sequence[Record],
    models: Sequence[str],
    *,
    x: Any,
    y: Any,
    tooltip: Sequence[alt.Tooltip],
) -> list[Chart]:
    """One line a model through its values, with a bar for each interval; colour and shape say whose it is.

    The models stand a few pixels apart, so that intervals at the same place do not hide one another.
    """
    found = [name for name in models if any(row["model"] == name for row in rows)]
    apart = min(5.0, 24 / max(len(found), 1))
    layers: list[Chart] = []
    for place, model in enumerate(found):
        aside = apart * (place - (len(found) - 1) / 2)
        mine = [row for row in rows if row["model"] == model]
        base = alt.Chart(data(mine)).encode(x=x, color=model_colour(found, models), tooltip=list(tooltip))
        layers += [
            base.mark_line(strokeWidth=2, xOffset=aside).encode(y=y),
            *intervals(base, mine, alt.Y, strokeWidth=1.5, xOffset=aside),
            base.mark_point(filled=True, size=60, opacity=1, xOffset=aside).encode(
                y=y, shape=model_shape(found, models)
            ),
        ]
    return layers


def interval_tooltip(
    *first: tuple[str, str], value: str = "harmful", n: str = "prompts"
) -> list[alt.Tooltip]:
    """What pointing at a share tells: fields with their titles, then the share, its interval and n."""
    return [
        *(alt.Tooltip(field, title=title) for field, title in first),
        alt.Tooltip("value:Q", title=value, format=".1%"),
        alt.Tooltip("low:Q", title="low", format=".1%"),
        alt.Tooltip("high:Q", title="high", format=".1%"),
        alt.Tooltip("n:Q", title=n),
    ]


def rate_tooltip(*variant: tuple[str, str]) -> list[alt.Tooltip]:
    """What pointing at a rate tells: whose, under which variant, judged on what, and how many."""
    told = interval_tooltip(("model:N", "model"), *variant, ("scope_name:N", "judged on"), n="scored replies")
    return [*told, alt.Tooltip("unscored:Q", title="unscored")]


def token_bands(
    rows: Sequence[Record],
    names: Sequence[Any],
    *,
    by: str,
    y: alt.Y,
    colour: alt.Color,
    shape: alt.Shape | None = None,
    title: str,
    unit: str = "nats",
    shaded: int = 5,
) -> Chart:
    """One line for every name (field `by`) through `value` by `position`, with its band.

    The first `shaded` positions stand out. Pointing at a position tells all names' numbers there.
    """
    last = max(row["position"] for row in rows)
    x = token_axis("position", last, title=title)
    base = alt.Chart(data(rows)).encode(x=x, color=colour)
    near = alt.selection_point(
        name="near", nearest=True, on="pointerover", clear="pointerout", fields=["position"], empty=False
    )
    first = alt.Chart(data([{"from": 0.5, "to": min(shaded + 0.5, last + 0.5)}]))
    points = base.mark_point(filled=True, size=30 if last <= CROWD else 12, opacity=1).encode(y=y)
    layers: list[Chart] = [
        first.mark_rect(color=MUTED, opacity=0.12).encode(
            x=token_axis("from", last, title=title), x2=alt.X2("to:Q")
        ),
        *bands(base, rows, opacity=0.18),
        base.mark_line(strokeWidth=2).encode(y=y),
        points if shape is None else points.encode(shape=shape),
        _told_together(rows, names, by, unit)
        .mark_rule(color=MUTED)
        .encode(x=x, opacity=alt.condition(near, alt.value(0.7), alt.value(0)))
        .add_params(near),
    ]
    return styled(*layers, height=300)


def bands(base: alt.Chart, rows: Sequence[Record], **look: Any) -> list[Chart]:
    """A band from low to high through the rows that have both ends."""
    if not any(row.get("low") is not None and row.get("high") is not None for row in rows):
        return []
    area = base.mark_area(**look).transform_filter("isValid(datum.low) && isValid(datum.high)")
    return [area.encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))]


def _told_together(rows: Sequence[Record], names: Sequence[Any], by: str, unit: str) -> alt.Chart:
    """One row a position, with the number of every name as text: what pointing there tells."""
    at = {(row["position"], row[by]): row for row in rows}
    nothing: Record = {}
    together = [
        {"position": place}
        | {f"m{i}": estimate(at.get((place, name), nothing), unit=unit) for i, name in enumerate(names)}
        for place in sorted({place for place, _ in at})
    ]
    tooltip = [alt.Tooltip("position:Q", title="token")]
    prefix = "" if by == "model" else f"{by} "
    tooltip += [alt.Tooltip(f"m{i}:N", title=f"{prefix}{name}") for i, name in enumerate(names)]
    return alt.Chart(data(together)).encode(tooltip=tooltip)


def grouped_points(
    rows: Sequence[Record],
    names: Sequence[str],
    *,
    group: str,
    title: str,
    tooltip: Sequence[alt.Tooltip],
    apart: bool = True,
) -> Chart | None:
    """A dot with its interval for every row, in bands by `group`, one below the other by `model`.

    `names` are all models of the page: their colours and their order. Where they are the
    groups themselves (`apart` false), each has one dot.
    """
    if not rows:
        return None
    found = [name for name in names if any(row["model"] == name for row in rows)]
    groups = list(dict.fromkeys(row[group] for row in rows))
    each = 15 if len(found) <= FEW else 12
    y, height = labels_above(group, groups, band=each * len(found) if apart else 15)
    base = alt.Chart(data(rows)).encode(y=y, color=model_colour(found, names), tooltip=list(tooltip))
    if apart:
        base = base.encode(yOffset=alt.YOffset("model:N", sort=found))
    else:
        base = base.encode(color=model_colour(found, names).legend(None))
    x = share_axis(alt.X, "value", title=title)
    dots = base.mark_point(filled=True, size=80, opacity=1)
    shape = model_shape(found, names)
    layers: list[Chart] = [
        *intervals(base, rows, alt.X, strokeWidth=2),
        dots.encode(x=x, shape=shape if apart else shape.legend(None)),
    ]
    return styled(*layers, height=height)


def labels_above(field: str, order: Sequence[str], *, band: int) -> tuple[alt.Y, int]:
    """A band for each name, with the name above it for the sake of narrow screens, and the height of all."""
    step, above = band + LABEL, LABEL - 2
    y = alt.Y(f"{field}:N", sort=list(order), title=None)
    y = y.axis(labelAlign="left", labelPadding=-2, labelOffset=-band / 2 - 9, labelLimit=250, labelColor=INK)
    y = y.scale(paddingInner=LABEL / step, paddingOuter=above / step)
    return y, step * len(order) - LABEL + 2 * above
