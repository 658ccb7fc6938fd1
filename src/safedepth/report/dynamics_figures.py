"""Charts of what fine-tuning does step by step: harmful replies, positions of the response, layers.

A block in, an Altair chart or None out. A point without a value is left out, never drawn at zero.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from safedepth.report.marks import interval_lines, interval_tooltip, token_bands
from safedepth.report.objectives import stepped_names
from safedepth.report.style import (
    ALIGNED,
    INK,
    Chart,
    Record,
    data,
    depth_axis,
    depth_ramp,
    legend,
    share_axis,
    styled,
    token_axis,
)
from safedepth.report.words import named

__all__ = [
    "MEASURES",
    "MOST_STEPS",
    "harmful",
    "layers",
    "looked_at",
    "panels",
    "positions",
    "steps_of",
]

MEASURES = {
    "loss": ("Loss", "loss, nats", "nats"),
    "gradient": ("Gradient norm", "gradient norm, whole model", ""),
    "kl": ("KL divergence from the model before", "KL(model ‖ before), nats", "nats"),
}
"""What is looked at by response position: its heading, its axis, its unit."""

MOST_STEPS = 4
"""Steps whose layers are drawn."""
ROWS_HIGH, ROW = 480, (14, 24)


def panels(block: Record) -> list[str]:
    """The data sets of the lines of harmful replies, harmful data first."""
    found = dict.fromkeys(named(row["data"]) for row in _stepped(block))
    return sorted(found, key=lambda name: name != "harmful")


def harmful(block: Record, panel: str) -> Chart | None:
    """Share of harmful replies against optimiser steps, one line a model, objective and k (claim C7)."""
    named_rows = stepped_names(_stepped(block))
    rows = [row for row in named_rows if named(row["data"]) == panel]
    if not rows:
        return None
    return styled(
        *interval_lines(
            rows,
            list(dict.fromkeys(row["model"] for row in named_rows)),
            x=depth_axis("step", sorted({row["step"] for row in rows}), title="optimiser steps"),
            y=share_axis(alt.Y, "value", title="harmful replies"),
            tooltip=interval_tooltip(("model:N", "which"), ("step:Q", "step")),
        ),
        height=280,
    )


def steps_of(block: Record, measure: str) -> list[int]:
    """The steps at which a measure was looked at by position."""
    return sorted({row["step"] for row in _measured(block, measure)})


def positions(block: Record, measure: str) -> Chart | None:
    """One measure against the response position with its band, one line a looked-at step (claim C8)."""
    rows = _measured(block, measure)
    if not rows:
        return None
    steps = steps_of(block, measure)
    _, title, unit = MEASURES[measure]
    colour = alt.Color("step:O", scale=depth_ramp(steps), legend=legend(steps, title="after step"))
    y = alt.Y("value:Q", title=title).scale(zero=True)
    if not any(row["value"] for row in rows):  # an axis from 0 to 0 has no direction
        y = y.scale(domain=[0, 1])
    return token_bands(
        rows, steps, by="step", y=y, colour=colour, title="token of the response", unit=unit
    )  # fmt: skip


def looked_at(block: Record) -> list[int]:
    """The steps whose layers are drawn: the first and the last, and what lies evenly between."""
    steps = sorted({row["step"] for row in _layered(block)})
    if len(steps) <= MOST_STEPS:
        return steps
    return [steps[round(i * (len(steps) - 1) / (MOST_STEPS - 1))] for i in range(MOST_STEPS)]


def layers(block: Record, step: int) -> Chart | None:
    """Gradient norm of every layer at every response position as a heat map, the input at the bottom.

    One scale of colour for all steps, so that they compare; it follows the square root, so
    that a layer or a token with a hundredth of the largest norm can still be seen.
    """
    shown = [row for row in _layered(block) if row["step"] in looked_at(block)]
    rows = [row for row in shown if row["step"] == step]
    if not rows:
        return None
    cells = [
        {
            "layer": named(row["layer"]),
            "position": row["position"],
            "value": row["value"],
            "from": row["position"] - 0.5,
            "to": row["position"] + 0.5,
        }
        for row in rows
    ]
    order = list(dict.fromkeys(named(row["layer"]) for row in shown))[::-1]
    most = max(row["value"] for row in shown)
    scale = alt.Scale(type="sqrt", domain=[0, most or 1], range=[0.02, 1])
    chart = (
        alt.Chart(data(cells))
        .mark_rect(color=ALIGNED)
        .encode(
            x=token_axis("from", max(row["position"] for row in shown), title="token of the response"),
            x2=alt.X2("to:Q"),
            y=alt.Y("layer:N", sort=order, title=None).axis(
                labelLimit=130, labelColor=INK, labelOverlap=True, ticks=False
            ),
            opacity=alt.Opacity(
                "value:Q", scale=scale, legend=alt.Legend(title="gradient norm", tickCount=4)
            ),
            tooltip=[
                alt.Tooltip("layer:N", title="layer"),
                alt.Tooltip("position:Q", title="token"),
                alt.Tooltip("value:Q", title="gradient norm", format=".3g"),
            ],
        )
    )
    smallest, largest = ROW
    return styled(chart, height=len(order) * max(smallest, min(largest, ROWS_HIGH // len(order))))


def _stepped(block: Record) -> list[Record]:
    return [row for row in block["asr"] if row["value"] is not None and row["step"] is not None]


def _measured(block: Record, measure: str) -> list[dict[str, Any]]:
    return [
        row
        for row in block["positions"]
        if row["measure"] == measure and row["value"] is not None and row["step"] is not None
    ]


def _layered(block: Record) -> list[Record]:
    return [row for row in block["layers"] if row["value"] is not None and row["step"] is not None]
