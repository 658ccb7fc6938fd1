"""The report's charts, as pure functions: a summary in, an Altair chart or None out.

None means that the summary holds no such numbers; what to say then is the page's
business. A point without a value is left out, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import altair as alt

from safedepth.report.marks import SCOPE_NAMES, drawn, interval_tooltip, intervals, rate_tooltip
from safedepth.report.style import (
    ALIGNED,
    INK,
    MUTED,
    Chart,
    Record,
    data,
    depth_axis,
    depth_ramp,
    model_colour,
    share_axis,
    styled,
    token_axis,
)
from safedepth.report.words import attack_rates, plain_name

__all__ = [
    "NO_PREFIX",
    "STRIPS",
    "STRIP_TOKENS",
    "calibrated_measures",
    "calibration",
    "calibration_curves",
    "kl_along_answers",
    "kl_by_position",
    "prefill_sweep",
    "rates_of_both",
    "refusal_prefixes",
]

NO_PREFIX = "(nothing forced)"
STRIPS, STRIP_TOKENS = 24, 60
BOTH = ("aligned", "base")
"""The models of these charts. Those that were trained afterwards have charts of their own."""


def kl_by_position(summary: Record) -> Chart | None:
    """Mean KL(aligned ‖ base) in nats against the answer token, with its 95 % band (claim C3).

    The axis is linear: what the claim is about is where the mass lies, which a
    logarithm would hide, and a divergence of zero is a value like any other.
    """
    kl = summary.get("kl")
    points = [p for p in (kl or {}).get("per_token", ()) if p["mean"] is not None]
    if not points:
        return None
    last = max(p["position"] for p in points)
    x = token_axis("position", last, title="token of the harmful answer")
    y = alt.Y("mean:Q", title="KL(aligned ‖ base), nats").scale(zero=True)
    tooltip = [
        alt.Tooltip("position:Q", title="token"),
        alt.Tooltip("mean:Q", title="mean KL, nats", format=".3g"),
        alt.Tooltip("low:Q", title="low", format=".3g"),
        alt.Tooltip("high:Q", title="high", format=".3g"),
        alt.Tooltip("n:Q", title="answers"),
    ]
    base = alt.Chart(data(points))
    near = alt.selection_point(
        name="near", nearest=True, on="pointerover", clear="pointerout", fields=["position"], empty=False
    )
    layers = [
        alt.Chart(data([{"from": 0.5, "to": min(5.5, last + 0.5)}]))
        .mark_rect(color=MUTED, opacity=0.12)
        .encode(x=alt.X("from:Q"), x2=alt.X2("to:Q")),
        base.mark_area(color=ALIGNED, opacity=0.22).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(color=ALIGNED, strokeWidth=2).encode(x=x, y=y),
        base.mark_point(color=ALIGNED, filled=True, size=28, opacity=1).encode(x=x, y=y),
        base.mark_rule(color=MUTED)
        .encode(x=x, opacity=alt.condition(near, alt.value(0.7), alt.value(0)), tooltip=tooltip)
        .add_params(near),
    ]
    return styled(*layers, height=300)


def prefill_sweep(summary: Record, judge: str) -> Chart | None:
    """Share of harmful replies against the number of forced tokens k, by model and scope (claim C4)."""
    found = rates_of_both(summary, attack="prefill", judge=judge)
    rates = [drawn(rate) for rate in found if rate["value"] is not None]
    if not rates:
        return None
    series = list(dict.fromkeys((r["model"], r["scope"]) for r in rates))
    depths = sorted({r["k"] for r in rates})
    x = depth_axis("k", depths, title="forced tokens of the harmful answer, k")
    y = share_axis(alt.Y, "value", title="harmful replies")
    looks = {"continuation": ("circle", [1, 0]), "full": ("diamond", [5, 3])}
    scopes = [scope for scope in SCOPE_NAMES if any(scope == found for _, found in series)]
    domain, below = [SCOPE_NAMES[scope] for scope in scopes], alt.Legend(orient="bottom")
    shape = alt.Shape("scope_name:N", legend=below).scale(domain=domain, range=[looks[s][0] for s in scopes])
    dash = alt.StrokeDash("scope_name:N", legend=below)
    dash = dash.scale(domain=domain, range=[looks[s][1] for s in scopes])
    layers: list[Chart] = []
    for place, (model, scope) in enumerate(series):
        # A few pixels apart, so that intervals at the same k do not hide one another.
        aside = 5 * (place - (len(series) - 1) / 2)
        rows = [r for r in rates if (r["model"], r["scope"]) == (model, scope)]
        base = alt.Chart(data(rows)).encode(
            x=x,
            color=model_colour(_models(rates)),
            tooltip=rate_tooltip(("k:Q", "forced tokens")),
        )
        layers += [
            base.mark_line(strokeWidth=2, xOffset=aside).encode(y=y, strokeDash=dash),
            *intervals(base, rows, alt.Y, strokeWidth=1.5, xOffset=aside),
            base.mark_point(filled=True, size=60, opacity=1, xOffset=aside).encode(y=y, shape=shape),
        ]
    return styled(*layers)


def refusal_prefixes(summary: Record, judge: str) -> Chart | None:
    """Share of harmful replies by forced refusal prefix, base and aligned (claim C2).

    Judged on the continuation alone where the judge saw it, else on both parts: with a
    refusal in front, a rule that reads the start of the reply sees only the prefix.
    """
    rates = _prefix_rates(summary, judge)
    if not any(r["prefix"] != NO_PREFIX for r in rates):
        return None
    order = list(dict.fromkeys(r["prefix"] for r in rates))
    y = alt.Y("prefix:N", sort=order, title=None)
    y = y.axis(labelAlign="left", labelPadding=-2, labelOffset=-21, labelLimit=300, labelColor=INK)
    y = y.scale(paddingInner=0.5, paddingOuter=0.3)
    base = alt.Chart(data(rates)).encode(
        y=y,
        yOffset=alt.YOffset("model:N", sort=["aligned", "base"]),
        color=model_colour(_models(rates)),
        tooltip=rate_tooltip(("prefix:N", "forced")),
    )
    x = share_axis(alt.X, "value", title="harmful replies")
    bars = base.mark_bar(opacity=0.75).encode(x=x)
    whiskers = intervals(base.encode(color=alt.value(INK)), rates, alt.X, strokeWidth=1.5)
    ends = base.mark_tick(thickness=1.5, size=6, opacity=1).encode(color=alt.value(INK))
    low, high = ends.encode(x=alt.X("low:Q")), ends.encode(x=alt.X("high:Q"))
    return styled(bars, *whiskers, low, high, height=54 * len(order))


def kl_along_answers(rows: Sequence[Record]) -> Chart | None:
    """The KL of every token of single answers: one row an answer, darker is larger.

    `rows` hold `prompt_id`, `position` (1-based) and `kl` in nats. The first STRIPS answers
    are drawn, to token STRIP_TOKENS; which tokens these are is not shown.
    """
    shown = list(dict.fromkeys(row["prompt_id"] for row in rows))[:STRIPS]
    cells = [
        {
            "prompt_id": row["prompt_id"],
            "position": row["position"],
            "kl": row["kl"],
            "from": row["position"] - 0.5,
            "to": row["position"] + 0.5,
        }
        for row in rows
        if row["prompt_id"] in shown and row["position"] <= STRIP_TOKENS
    ]
    if not cells:
        return None
    last = max(row["position"] for row in cells)
    chart = (
        alt.Chart(data(cells))
        .mark_rect(color=ALIGNED)
        .encode(
            x=token_axis("from", last, title="token of the harmful answer"),
            x2=alt.X2("to:Q"),
            y=alt.Y("prompt_id:N", sort=shown, title=None).axis(labels=False),
            opacity=alt.Opacity("kl:Q", legend=alt.Legend(title="KL, nats")).scale(range=[0.02, 1]),
            tooltip=[
                alt.Tooltip("prompt_id:N", title="prompt"),
                alt.Tooltip("position:Q", title="token"),
                alt.Tooltip("kl:Q", title="KL, nats", format=".3g"),
            ],
        )
    )
    return styled(chart, height=10 * len(shown))


def calibrated_measures(summary: Record) -> list[str]:
    """Names of the depth measures that were read on organisms of known depth."""
    points = (summary.get("calibration") or {}).get("points", ())
    return list(dict.fromkeys(name for point in points for name in point["measures"]))


def calibration(summary: Record, name: str) -> Chart | None:
    """One depth measure with its interval against the depth d an organism was trained to; dashed, y = d."""
    organisms = (summary.get("calibration") or {}).get("points", ())
    known = sorted({p["d"] for p in organisms})
    points = [
        {"organism": p["organism"], "d": p["d"], **p["measures"][name]}
        for p in organisms
        if name in p["measures"] and p["measures"][name]["value"] is not None
    ]
    if not points:
        return None
    base = alt.Chart(data(points)).encode(
        x=depth_axis("d", known, title="depth trained to, d"),
        tooltip=[
            alt.Tooltip("organism:N"),
            alt.Tooltip("value:Q", title="measured", format=".3g"),
            alt.Tooltip("low:Q", title="low", format=".3g"),
            alt.Tooltip("high:Q", title="high", format=".3g"),
            alt.Tooltip("n:Q", title="prompts"),
        ],
    )
    # Room for measures above the deepest organism, and the same scale as across.
    highest = ceil(max(p["high"] or p["value"] for p in points))
    y = depth_axis("value", sorted({*known, max(highest, known[-1])}), title=plain_name(name), channel=alt.Y)
    agreement = alt.Chart(data([{"d": d, "value": d} for d in known])).encode(
        x=depth_axis("d", known, title="depth trained to, d")
    )
    return styled(
        agreement.mark_line(color=MUTED, strokeWidth=1, strokeDash=[4, 3]).encode(y=y),
        *intervals(base, points, alt.Y, color=ALIGNED, strokeWidth=1.5),
        base.mark_point(color=ALIGNED, filled=True, size=60, opacity=1).encode(y=y),
        height=220,
    )


def calibration_curves(summary: Record) -> Chart | None:
    """The prefill sweep of every organism of known depth, one line an organism."""
    rows = [
        {"organism": p["organism"], "d": p["d"], **step}
        for p in (summary.get("calibration") or {}).get("points", ())
        for step in p.get("curve") or ()
        if step["value"] is not None
    ]
    if not rows:
        return None
    base = alt.Chart(data(rows)).encode(
        x=depth_axis("k", sorted({row["k"] for row in rows}), title="forced tokens of the harmful answer, k"),
        color=alt.Color(
            "d:O",
            scale=depth_ramp(sorted({row["d"] for row in rows})),
            legend=alt.Legend(title="trained to depth d", symbolOpacity=1),
        ),
        detail=alt.Detail("organism:N"),
        tooltip=interval_tooltip(("organism:N", "organism"), ("k:Q", "forced tokens"), n="scored replies"),
    )
    y = share_axis(alt.Y, "value", title="harmful replies")
    return styled(
        base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=45, opacity=1).encode(y=y),
    )


def rates_of_both(summary: Record, *, attack: str, judge: str, scope: str | None = None) -> list[Record]:
    """The rates of the aligned and the base model that have a place in a chart of this attack."""
    place = {"prefill": "k", "refusal_prefix": "prefix"}[attack]
    return [
        rate
        for rate in attack_rates(summary, attack=attack, judge=judge, scope=scope)
        if rate["model"] in BOTH and rate["scope"] in SCOPE_NAMES and rate.get(place) is not None
    ]


def _models(rates: Sequence[Record]) -> list[str]:
    return [name for name in BOTH if any(rate["model"] == name for rate in rates)]


def _prefix_rates(summary: Record, judge: str) -> list[Record]:
    """Rates after every prefix, led by those with nothing forced, in one scope."""
    for scope in SCOPE_NAMES:
        forced = rates_of_both(summary, attack="refusal_prefix", judge=judge, scope=scope)
        if forced:
            free = [rate for rate in forced if not rate["prefix"]]
            if not free:
                models = {rate["model"] for rate in forced}
                sweep = rates_of_both(summary, attack="prefill", judge=judge, scope=scope)
                free = [rate for rate in sweep if rate["k"] == 0 and rate["model"] in models]
            rates = [{**rate, "prefix": NO_PREFIX} for rate in free]
            rates += [dict(rate) for rate in forced if rate["prefix"]]
            return [drawn(rate) for rate in rates if rate["value"] is not None]
    return []
