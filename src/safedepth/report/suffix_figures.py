"""Charts of a search for a suffix: its loss, prompt by prompt, and the prompts it broke by step.

A block in, an Altair chart or None out. A point without a value is left out, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from safedepth.report.attack_lines import is_number
from safedepth.report.band_lines import number_axis
from safedepth.report.marks import bands, interval_tooltip
from safedepth.report.style import ALIGNED, BASE, MUTED, Chart, Record, data, share_axis, styled
from safedepth.report.words import named

__all__ = ["LINES", "POINTS", "curves", "loss", "mean_loss", "success"]

LINES, POINTS = 40, 120
"""Searches that are drawn, and points on each line: more could not be told apart."""


def curves(block: Record) -> dict[str, list[dict[str, Any]]]:
    """The loss by step of the first LINES searches, at POINTS steps at most, the last among them."""
    found = list(_searches(block).items())[:LINES]
    return {name: _thinned(rows) for name, rows in found}


def mean_loss(block: Record) -> list[dict[str, Any]]:
    """Mean loss of all searches at POINTS steps at most; one that has ended keeps its last loss.

    A mean over those that still run would rise when an easy one ends.
    """
    found = _searches(block)
    steps = sorted({row["step"] for rows in found.values() for row in rows})
    last: dict[str, float] = {}
    at: dict[Any, dict[str, float]] = {}
    for name, rows in found.items():
        for row in rows:
            at.setdefault(row["step"], {})[name] = row["loss"]
    means = []
    for step in steps:
        last |= at[step]
        means.append({"step": step, "loss": sum(last.values()) / len(last), "searches": len(last)})
    return _thinned(means)


def loss(block: Record) -> Chart | None:
    """The loss in nats against the step: a thin line a search, the mean over all in bold."""
    mean = mean_loss(block)
    if not mean:
        return None
    lines = [{"prompt_id": name, **row} for name, rows in curves(block).items() for row in rows]
    x = number_axis("step", [row["step"] for row in mean], title="step of the search", ends=(0,))
    highest = max(row["loss"] for row in (*lines, *mean))
    y = alt.Y("loss:Q", title="loss, nats").scale(zero=True)
    if not highest:  # an axis from 0 to 0 has no direction
        y = y.scale(domain=[0, 1])
    told = [alt.Tooltip("step:Q", title="step"), alt.Tooltip("loss:Q", title="loss, nats", format=".3g")]
    thin = alt.Chart(data(lines)).mark_line(color=MUTED, strokeWidth=0.8, opacity=0.55)
    bold = alt.Chart(data(mean)).encode(x=x, y=y)
    layers: list[Chart] = [
        thin.encode(
            x=x,
            y=y,
            detail=alt.Detail("prompt_id:N"),
            tooltip=[alt.Tooltip("prompt_id:N", title="prompt"), *told],
        ),
        bold.mark_line(color=ALIGNED, strokeWidth=3).encode(
            tooltip=[alt.Tooltip("searches:Q", title="mean over searches"), *told]
        ),
    ]
    if len(mean) == 1:  # a line of one point is not to be seen
        layers.append(bold.mark_point(color=ALIGNED, filled=True, size=60, opacity=1))
    return styled(*layers, height=240)


def success(block: Record) -> Chart | None:
    """The share of prompts broken by each step, with its band."""
    found = [row for row in block["success"] if row["value"] is not None and is_number(row["step"])]
    if not found:
        return None
    rows = sorted(found, key=lambda row: float(row["step"]))
    x = number_axis("step", [row["step"] for row in rows], title="step of the search", ends=(0,))
    told = interval_tooltip(("step:Q", "step"), value="broken")
    base = alt.Chart(data(rows)).encode(x=x, tooltip=told, color=alt.value(BASE))
    y = share_axis(alt.Y, "value", title="prompts broken")
    layers: list[Chart] = [
        *bands(base, rows, opacity=0.18, interpolate="step-after"),
        base.mark_line(strokeWidth=2, interpolate="step-after").encode(y=y),
        base.mark_point(filled=True, size=40, opacity=1).encode(y=y),
    ]
    return styled(*layers, height=240)


def _searches(block: Record) -> dict[str, list[dict[str, Any]]]:
    """The rows of every search in the order of steps; a suffix for all prompts is one search."""
    found: dict[str, dict[Any, dict[str, Any]]] = {}
    for row in block["loss"]:
        if is_number(row["step"]) and is_number(row["loss"]):
            at: Mapping[str, Any] = {"step": row["step"], "loss": row["loss"]}
            found.setdefault(named(row["prompt_id"]), {})[row["step"]] = dict(at)
    return {name: [rows[step] for step in sorted(rows)] for name, rows in found.items()}


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) <= POINTS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (POINTS - 1))] for i in range(POINTS)]
