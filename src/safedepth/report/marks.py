"""Pieces that several charts share: lines with intervals, tooltips, rates as rows of a chart.

Knows which fields a row has and not what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from safedepth.report.style import Chart, Record, data, model_colour, model_shape

__all__ = ["SCOPE_NAMES", "drawn", "interval_lines", "interval_tooltip", "intervals", "rate_tooltip"]

SCOPE_NAMES = {"continuation": "continuation alone", "full": "prefix + continuation"}
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
        return [bars.encode(x=alt.X("low:Q"), x2="high:Q")]
    return [bars.encode(y=alt.Y("low:Q"), y2="high:Q")]


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
        base = alt.Chart(data(mine)).encode(x=x, color=model_colour(found), tooltip=list(tooltip))
        layers += [
            base.mark_line(strokeWidth=2, xOffset=aside).encode(y=y),
            *intervals(base, mine, alt.Y, strokeWidth=1.5, xOffset=aside),
            base.mark_point(filled=True, size=60, opacity=1, xOffset=aside).encode(
                y=y, shape=model_shape(found)
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
