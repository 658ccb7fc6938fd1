"""Charts of models before and after recovery training: a summary in, an Altair chart or None out.

One colour and one shape a model, the same in all charts of a page. A point without a
value is left out, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import altair as alt

from safedepth.report.marks import (
    drawn,
    grouped_points,
    interval_lines,
    interval_tooltip,
    labels_above,
    rate_tooltip,
    token_bands,
)
from safedepth.report.style import (
    Chart,
    Record,
    data,
    depth_axis,
    model_colour,
    model_shape,
    share_axis,
    styled,
)
from safedepth.report.words import sweep

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

LOSSES = {"safety": "safety examples", "anchor": "benign anchors"}


def kl_by_token(block: Record) -> Chart | None:
    """Mean KL(model ‖ base) in nats against the answer token, one line a model with its 95 % band."""
    rows = [
        {"model": name, **point, "value": point["mean"]}
        for name in block["models"]
        for point in (block["kl"].get(name) or {}).get("per_token", ())
        if point["mean"] is not None
    ]
    if not rows:
        return None
    models = _in_order(block["models"], rows)
    return token_bands(
        rows,
        models,
        by="model",
        y=alt.Y("value:Q", title="KL(model ‖ base), nats").scale(zero=True),
        colour=model_colour(models),
        shape=model_shape(models),
        title="token of the harmful answer",
    )


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
    return grouped_points(
        rows,
        block["models"],
        group="set",
        title=measure,
        tooltip=[
            *interval_tooltip(("model:N", "model"), ("set:N", "set"), value=measure),
            alt.Tooltip("unscored:Q", title="unscored"),
        ],
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
    y, height = labels_above("part", parts, band=14 * len(models))
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
        base.mark_rule(strokeWidth=2).encode(x=alt.X("none:Q"), x2=alt.X2("share:Q")),
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
