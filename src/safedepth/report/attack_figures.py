"""Charts of an attacker's sweep: the worst case of every defence, and all trials.

A block in, an Altair chart or None out. A point without a value is left out, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from safedepth.report.marks import grouped_points, interval_tooltip
from safedepth.report.objectives import OBJECTIVES
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
)
from safedepth.report.words import plain_name, share_estimate

__all__ = ["defence_name", "defences", "trial_words", "trials", "worst"]

STAR = "M0,-1L0.3,-0.3L1,0L0.3,0.3L0,1L-0.3,0.3L-1,0L-0.3,-0.3Z"
WITHIN, OUTSIDE = 1.0, 0.35
"""How opaque a trial is that keeps to the bound, and one that does not."""


def defences(block: Record) -> list[str]:
    """The names of all defences, in the order of the table of worst cases, then of the trials."""
    rows = [*block["worst"], *block["trials"]]
    return list(dict.fromkeys(defence_name(row["defence"]) for row in rows if row["defence"] is not None))


def defence_name(name: Any) -> str:
    """A defence as the study calls it; one that is an objective alone by the objective's name."""
    return OBJECTIVES.get(str(name)) or str(name)


def trial_words(trial: Record) -> str:
    """How a trial fine-tuned, in words: `learning rate 0.0003, 3 epochs, seed 1, LoRA`."""
    parts = []
    if trial["learning_rate"] is not None:
        parts.append(f"learning rate {trial['learning_rate']:g}")
    if trial["epochs"] is not None:
        parts.append(f"{trial['epochs']:g} {'epoch' if trial['epochs'] == 1 else 'epochs'}")
    if trial["seed"] is not None:
        parts.append(f"seed {trial['seed']}")
    if trial["peft"] is not None:
        parts.append(_trained(trial["peft"]))
    if trial["search"]:
        parts.append(f"{trial['search']} search")
    return ", ".join(parts)


def _trained(peft: Any) -> str:
    if isinstance(peft, bool):
        peft = "lora" if peft else "none"
    return {"lora": "LoRA", "none": "all weights"}.get(str(peft)) or str(peft)


def worst(block: Record) -> Chart | None:
    """Worst harmful replies of every defence within the bound on utility, the study's order."""
    rows = [
        {
            "model": defence_name(row["defence"]),
            **{key: row[key] for key in ("value", "low", "high", "n")},
            "utility": share_estimate(row["utility"]),
        }
        for row in block["worst"]
        if row["value"] is not None
    ]
    told = interval_tooltip(("model:N", "defence"), value="worst harmful replies")
    return grouped_points(
        rows,
        defences(block),
        group="model",
        title="harmful replies in the worst trial",
        tooltip=[*told, alt.Tooltip("utility:N", title="its utility")],
        apart=False,
    )


def trials(block: Record) -> Chart | None:
    """Harmful replies against utility, a dot a trial; the rule is the bound, a ring the worst within it."""
    rows = _drawn(block)
    if not rows:
        return None
    all_names = defences(block)
    names = [name for name in all_names if any(row["model"] == name for row in rows)]
    least = block["bound"]["least"]
    before = {key: block["before"][key]["value"] for key in ("asr", "utility")}
    x = _utility_axis(block["bound"]["metric"], [*(row["utility"] for row in rows), least, before["utility"]])
    y = share_axis(alt.Y, "asr", title="harmful replies")
    base = alt.Chart(data(rows)).encode(x=x, y=y)
    layers: list[Chart] = []
    if least is not None:
        bound = alt.Chart(data([{"utility": least, "told": f"bound: {share_estimate({'value': least})}"}]))
        layers.append(
            bound.mark_rule(color=MUTED, strokeDash=[4, 3], strokeWidth=1.5).encode(
                x=x, tooltip=alt.Tooltip("told:N", title="utility at least")
            )
        )
    layers.append(
        base.mark_point(filled=True, size=75).encode(
            color=model_colour(names, all_names),
            shape=model_shape(names, all_names),
            opacity=alt.condition("datum.within === false", alt.value(OUTSIDE), alt.value(WITHIN)),
            tooltip=[
                alt.Tooltip("model:N", title="defence"),
                alt.Tooltip("how:N", title="trial"),
                alt.Tooltip("harm:N", title="harmful replies"),
                alt.Tooltip("worth:N", title="utility"),
                alt.Tooltip("kept:N", title="within the bound"),
            ],
        )
    )
    if None not in before.values():
        start = alt.Chart(data([before | {"told": "the model before"}])).encode(x=x, y=y)
        star = start.mark_point(shape=STAR, filled=True, size=110, color=INK, opacity=1)
        layers.append(star.encode(tooltip=alt.Tooltip("told:N", title="no trial")))
    if any(row["worst"] for row in rows):
        rings = base.transform_filter("datum.worst")
        layers.append(rings.mark_point(filled=False, size=260, color=INK, strokeWidth=1.5, opacity=1))
    return styled(*layers, height=360)


def _drawn(block: Record) -> list[dict[str, Any]]:
    """The trials with both numbers, with the words of their tooltips."""
    worst_trials = {row["trial"] for row in block["worst"] if row["value"] is not None}
    return [
        {
            "model": defence_name(trial["defence"]),
            "asr": trial["asr"]["value"],
            "utility": trial["utility"]["value"],
            "within": trial["within"],
            "worst": place in worst_trials,
            "how": trial_words(trial),
            "harm": share_estimate(trial["asr"]),
            "worth": share_estimate(trial["utility"]),
            "kept": {True: "yes", False: "no"}.get(trial["within"], "not known"),
        }
        for place, trial in enumerate(block["trials"])
        if trial["defence"] is not None
        and trial["asr"]["value"] is not None
        and trial["utility"]["value"] is not None
    ]


def _utility_axis(metric: Any, values: Sequence[float | None]) -> alt.X:
    """As wide as the values and a little more, within 0 and 100 %."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    room = 0.06 * (high - low) or 0.05
    domain = [max(0.0, low - room), min(max(high, 1.0), high + room)]
    axis = alt.Axis(labelExpr="format(100 * datum.value, '~g') + ' %'", tickCount=6)
    title = f"utility ({plain_name(str(metric))})" if metric else "utility"
    return alt.X("utility:Q", title=title, axis=axis).scale(zero=False, nice=False, domain=domain, padding=8)
