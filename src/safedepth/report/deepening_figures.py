"""Charts of models before and after recovery training: a summary in, an Altair chart or None out.

One colour and one shape a model, the same in all charts of a page. A point without a
value is left out, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import altair as alt

from safedepth.report.marks import drawn, interval_lines, interval_tooltip, intervals, rate_tooltip
from safedepth.report.style import (
    INK,
    MUTED,
    Chart,
    Record,
    data,
    depth_axis,
    model_colour,
    model_shape,
    share_axis,
    styled,
    token_axis,
)
from safedepth.report.words import estimate, sweep

__all__ = [
    "LOSSES",
    "finetuning",
    "finetuning_panels",
    "kl_by_token",
    "losses",
    "prefill",
    "refusal_parts",
    "turn_panels",
    "turns",
    "utility",
]

LABEL = 26
"""Pixels that the name above a band takes."""
LOSSES = {"safety": "safety examples", "anchor": "benign anchors"}


def kl_by_token(block: Record) -> Chart | None:
    """Mean KL(model ‖ base) in nats against the answer token, one line a model with its 95 % band."""
    rows = [
        {"model": name, **point}
        for name in block["models"]
        for point in (block["kl"].get(name) or {}).get("per_token", ())
        if point["mean"] is not None
    ]
    if not rows:
        return None
    models = _in_order(block["models"], rows)
    last = max(row["position"] for row in rows)
    x = token_axis("position", last, title="token of the harmful answer")
    y = alt.Y("mean:Q", title="KL(model ‖ base), nats").scale(zero=True)
    base = alt.Chart(data(rows)).encode(x=x, color=model_colour(models))
    near = alt.selection_point(
        name="near", nearest=True, on="pointerover", clear="pointerout", fields=["position"], empty=False
    )
    first_five = alt.Chart(data([{"from": 0.5, "to": min(5.5, last + 0.5)}]))
    return styled(
        first_five.mark_rect(color=MUTED, opacity=0.12).encode(x=alt.X("from:Q"), x2="to:Q"),
        base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=30, opacity=1).encode(y=y, shape=model_shape(models)),
        _told_together(rows, models)
        .mark_rule(color=MUTED)
        .encode(x=x, opacity=alt.condition(near, alt.value(0.7), alt.value(0)))
        .add_params(near),
        height=300,
    )


def _told_together(rows: Sequence[Record], models: Sequence[str]) -> alt.Chart:
    """One row a token, with the number of every model as text: what pointing at the token tells."""
    by_place = {(row["position"], row["model"]): row for row in rows}
    places = sorted({place for place, _ in by_place})
    nothing: Record = {}
    together = [
        {"position": place}
        | {
            f"m{i}": estimate({**of, "value": of.get("mean")}, unit="nats")
            for i, model in enumerate(models)
            for of in [by_place.get((place, model), nothing)]
        }
        for place in places
    ]
    tooltip = [alt.Tooltip("position:Q", title="token")]
    tooltip += [alt.Tooltip(f"m{i}:N", title=model) for i, model in enumerate(models)]
    return alt.Chart(data(together)).encode(tooltip=tooltip)


def prefill(summary: Record) -> Chart | None:
    """Share of harmful replies against the forced tokens k, one line a model, by one judge in one scope."""
    rates = [drawn(rate) for rate in sweep(summary, models=summary["deepening"]["models"])]
    if not rates:
        return None
    x = depth_axis("k", sorted({r["k"] for r in rates}), title="forced tokens of the harmful answer, k")
    # Variants are all low and close together; models before and after are drawn to 100 %, as everywhere.
    most = max(rate["value"] if rate["high"] is None else rate["high"] for rate in rates)
    top = min(1.0, ceil(10 * most + 0.5) / 10) if summary.get("kind") == "compare" else 1.0
    return styled(
        *interval_lines(
            rates,
            summary["deepening"]["models"],
            x=x,
            y=share_axis(alt.Y, "value", title="harmful replies", top=top),
            tooltip=rate_tooltip(("k:Q", "forced tokens")),
        ),
        height=300,
    )


def turn_panels(summary: Record) -> list[int | None]:
    """The numbers of forced tokens under which turns were measured, one panel each."""
    rates = sweep(summary, models=summary["deepening"]["models"], attack="multi_turn", by="turn")
    found = {rate.get("k") for rate in rates}
    return sorted(found, key=lambda k: -1 if k is None else k)


def turns(summary: Record, k: int | None) -> Chart | None:
    """Share of harmful replies by turn of a scripted conversation, one line a model, k tokens forced."""
    models = summary["deepening"]["models"]
    rates = sweep(summary, models=models, attack="multi_turn", by="turn")
    rates = [drawn(rate) for rate in rates if rate.get("k") == k]
    if not rates:
        return None
    # Room at both ends, so that the dots of the first turn do not lie on the axis.
    x = alt.X("turn:O", title="turn of the conversation").axis(labelAngle=0).scale(padding=0.5)
    y = share_axis(alt.Y, "value", title="harmful replies")
    tooltip = rate_tooltip(("turn:Q", "turn"))
    return styled(*interval_lines(rates, models, x=x, y=y, tooltip=tooltip), height=240)


def utility(block: Record, measure: str) -> Chart | None:
    """One measure of utility on every set, a dot with its interval for each model."""
    rows = [
        {**row, "set": row["set"] or "–"}
        for row in block["utility"]
        if row["measure"] == measure and row["value"] is not None and row["model"] is not None
    ]
    if not rows:
        return None
    models, sets = _in_order(block["models"], rows), list(dict.fromkeys(row["set"] for row in rows))
    y, height = _labels_above("set", sets, band=15 * len(models))
    base = alt.Chart(data(rows)).encode(
        y=y,
        yOffset=alt.YOffset("model:N", sort=models),
        color=model_colour(models),
        tooltip=[
            *interval_tooltip(("model:N", "model"), ("set:N", "set"), value=measure),
            alt.Tooltip("unscored:Q", title="unscored"),
        ],
    )
    return styled(
        *intervals(base, rows, alt.X, strokeWidth=2),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=share_axis(alt.X, "value", title=measure), shape=model_shape(models)
        ),
        height=height,
    )


def refusal_parts(block: Record) -> Chart | None:
    """Share of the refusals that give an explanation, a reason, a redirection: a stem with a dot a model.

    A bar of no length could not be told from a model that is not there; a dot at zero can.
    """
    rows = [
        {"model": row["model"], "part": part, "none": 0, "share": value, "n": row["n"]}
        for row in block["refusals"]
        for part, value in row["shares"].items()
        if value is not None and row["model"] is not None
    ]
    if not rows:
        return None
    models, parts = _in_order(block["models"], rows), list(dict.fromkeys(row["part"] for row in rows))
    y, height = _labels_above("part", parts, band=14 * len(models))
    base = alt.Chart(data(rows)).encode(
        y=y,
        yOffset=alt.YOffset("model:N", sort=models),
        color=model_colour(models),
        tooltip=[
            alt.Tooltip("model:N", title="model"),
            alt.Tooltip("part:N", title="part"),
            alt.Tooltip("share:Q", title="refusals that give it", format=".1%"),
            alt.Tooltip("n:Q", title="refusals"),
        ],
    )
    x = share_axis(alt.X, "share", title="refusals that give it")
    return styled(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("none:Q"), x2="share:Q"),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=x, shape=model_shape(models)),
        height=height,
    )


def finetuning_panels(block: Record) -> list[tuple[str, int | None]]:
    """The data sets and numbers of forced tokens of the fine-tuning curves, harmful data first."""
    found = {(row["data"] or "–", row["k"]) for row in _tuned(block)}
    return sorted(found, key=lambda panel: (panel[0] != "harmful", panel[0], panel[1] or 0))


def finetuning(block: Record, panel: tuple[str, int | None]) -> Chart | None:
    """Share of harmful replies against the steps of fine-tuning, one line a model (claim C13)."""
    rows = [row for row in _tuned(block) if (row["data"] or "–", row["k"]) == panel]
    if not rows:
        return None
    return styled(
        *interval_lines(
            rows,
            block["models"],
            x=depth_axis("step", sorted({row["step"] for row in rows}), title="steps of fine-tuning"),
            y=share_axis(alt.Y, "value", title="harmful replies"),
            tooltip=interval_tooltip(("model:N", "model"), ("step:Q", "step")),
        ),
        height=260,
    )


def losses(block: Record, part: str) -> Chart | None:
    """One part of the training loss in nats a token against the step, one line a model."""
    rows = [
        {"model": row["model"], "step": point["step"], "loss": point[part]}
        for row in block["training"]
        for point in row["losses"]
        if row["model"] is not None and point["step"] is not None and point[part] is not None
    ]
    if not rows:
        return None
    models = _in_order(block["models"], rows)
    chart = (
        alt.Chart(data(rows))
        .mark_line(strokeWidth=1.5, point=alt.OverlayMarkDef(size=14, filled=True))
        .encode(
            x=alt.X("step:Q", title="step of training").axis(format="d", tickMinStep=1),
            y=alt.Y("loss:Q", title="loss, nats a token").scale(zero=True),
            color=model_colour(models),
            tooltip=[
                alt.Tooltip("model:N", title="model"),
                alt.Tooltip("step:Q", title="step"),
                alt.Tooltip("loss:Q", title="loss, nats a token", format=".3g"),
            ],
        )
    )
    return styled(chart, height=220)


def _tuned(block: Record) -> list[Record]:
    return [
        row
        for row in block["finetuning"]
        if row["value"] is not None and row["step"] is not None and row["model"] is not None
    ]


def _in_order(models: Sequence[str], rows: Sequence[Record]) -> list[str]:
    return [name for name in models if any(row["model"] == name for row in rows)]


def _labels_above(field: str, order: Sequence[str], *, band: int) -> tuple[alt.Y, int]:
    """A band for each name, with the name above it for the sake of narrow screens, and the height of all."""
    step, above = band + LABEL, LABEL - 2
    y = alt.Y(f"{field}:N", sort=list(order), title=None)
    y = y.axis(labelAlign="left", labelPadding=-2, labelOffset=-band / 2 - 9, labelLimit=300, labelColor=INK)
    y = y.scale(paddingInner=LABEL / step, paddingOuter=above / step)
    return y, step * len(order) - LABEL + 2 * above
