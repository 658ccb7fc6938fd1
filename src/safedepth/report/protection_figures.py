"""Charts of constrained fine-tuning: schedules of beta, diagnostics, runs, tasks, before and after.

A block in, an Altair chart or None out. A point without a value is left out, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from safedepth.report.marks import grouped_points, interval_lines, interval_tooltip
from safedepth.report.objectives import attack_name, is_uniform, labelled, last_steps, positions_name
from safedepth.report.style import (
    INK,
    MUTED,
    Chart,
    Record,
    data,
    depth_axis,
    depth_ramp,
    legend,
    model_colour,
    share_axis,
    styled,
    token_axis,
)
from safedepth.report.words import named, plain_name

__all__ = [
    "DIAGNOSED",
    "attacks_with_steps",
    "betas",
    "curve",
    "diagnostics",
    "groups_of",
    "objectives",
    "runs",
    "scheduled",
    "task_rows",
    "tasks",
]

DIAGNOSED = {
    "nll": ("Loss", "−log π, nats a token", None),
    "weight": ("Weight in the gradient", "w", 1),
    "kl": ("KL to the reference", "KL(π ‖ reference), nats", None),
    "advantage": ("Implicit advantage", "β log(π / reference)", 0),
}
"""What is followed while training: its heading, its axis, the value it begins with under the constraint."""

MOST_TICKS, TICKS = 6, (0.001, 0.01, 0.1, 1, 10, 100, 1000)
CROWD = 40
"""Steps beyond which a line has no points on it."""


def betas(tables: Mapping[str, Sequence[Any]]) -> Chart | None:
    """Schedules of beta by response position, one line each; the axis is logarithmic."""
    rows = [
        {"model": name, "position": position, "beta": beta}
        for name, table in tables.items()
        for position, beta in table
    ]
    if not rows:
        return None
    names, last = list(tables), max(row["position"] for row in rows)
    values = [row["beta"] for row in rows]
    ticks = sorted(set(values))
    if len(ticks) > MOST_TICKS:
        ticks = [tick for tick in TICKS if min(values) <= tick <= max(values)]
    y = alt.Y("beta:Q", title="β").axis(values=ticks, format="~g")
    y = y.scale(type="log", domain=[min(values) / 1.6, 1.6 * max(values)], nice=False)
    layers: list[Chart] = []
    for place, name in enumerate(names):
        # A few pixels apart, so that schedules that agree do not hide one another.
        aside = 2 * (place - (len(names) - 1) / 2)
        base = alt.Chart(data([row for row in rows if row["model"] == name])).encode(
            x=token_axis("position", last, title="token of the response"),
            y=y,
            color=model_colour(names) if len(names) > 1 else alt.value(INK),
            tooltip=[
                alt.Tooltip("model:N", title="schedule"),
                alt.Tooltip("position:Q", title="token"),
                alt.Tooltip("beta:Q", title="β", format="~g"),
            ],
        )
        layers += [
            base.mark_line(interpolate="step", strokeWidth=1.5, yOffset=aside),
            base.mark_point(filled=True, size=36, opacity=1, yOffset=aside),
        ]
    return styled(*layers, height=150)


def groups_of(rows: Sequence[Record]) -> list[str]:
    """The groups of positions that diagnostics speak of, from the first token on."""
    found = {(row["position"], row["last"]) for row in rows}
    return [
        positions_name(*group)
        for group in sorted(found, key=lambda group: (group[0], group[1] is None, group[1] or 0))
    ]


def diagnostics(rows: Sequence[Record], measure: str) -> Chart | None:
    """One measure against the step of training, one line a group of positions, from early to late.

    The dashed line is where a constrained training begins.
    """
    shown = [
        {
            "group": positions_name(row["position"], row["last"]),
            **{key: row[key] for key in ("step", "n")},
            "value": row[measure],
        }
        for row in rows
        if row[measure] is not None
    ]
    if not shown:
        return None
    groups = groups_of(rows)
    _, title, begins = DIAGNOSED[measure]
    few = len({row["step"] for row in shown}) <= CROWD
    lines = (
        alt.Chart(data(shown))
        .mark_line(strokeWidth=1.75, point=alt.OverlayMarkDef(size=22, filled=True) if few else False)
        .encode(
            x=alt.X("step:Q", title="step of training").axis(format="d", tickMinStep=1),
            y=alt.Y("value:Q", title=title).scale(zero=True),
            color=alt.Color("group:N", scale=depth_ramp(groups), legend=legend(groups, title="token")),
            tooltip=[
                alt.Tooltip("group:N", title="tokens"),
                alt.Tooltip("step:Q", title="step"),
                alt.Tooltip("value:Q", title=title, format=".3g"),
                alt.Tooltip("n:Q", title="tokens counted"),
            ],
        )
    )
    if begins is None:
        return styled(lines, height=220)
    rule = alt.Chart(data([{"value": begins}])).mark_rule(color=MUTED, strokeDash=[4, 3])
    return styled(rule.encode(y=alt.Y("value:Q")), lines, height=220)


def scheduled(block: Record, part: str) -> list[dict[str, Any]]:
    """The rows of `runs` or `tasks` with their names, the same on the whole page.

    Those of one beta for all positions are left out where others are not so.
    """
    rows = [{**row, "part": of} for of in ("runs", "tasks") for row in block[of]]
    mine = [row for row in rows if not is_uniform(row["beta"], block["betas"])]
    return [row for row in labelled(mine or rows) if row["part"] == part]


def runs(block: Record) -> Chart | None:
    """Share of harmful replies after the last step of every attack, by objective (claims C14 to C16)."""
    rows = [
        {**row, "attack": attack_name(row["attack"])}
        for row in last_steps(scheduled(block, "runs"), by=("attack", "model"))
    ]
    told = ("model:N", "objective"), ("attack:N", "fine-tuned on"), ("step:Q", "step")
    return grouped_points(
        rows,
        objectives(block),
        group="attack",
        title="harmful replies",
        tooltip=interval_tooltip(*told),
    )


def attacks_with_steps(block: Record) -> list[str]:
    """The attacks that were looked at after several numbers of steps."""
    seen: dict[str, set[Any]] = {}
    for row in _stepped(block):
        seen.setdefault(named(row["attack"]), set()).add(row["step"])
    return [attack for attack, steps in seen.items() if len(steps) > 1]


def curve(block: Record, attack: str) -> Chart | None:
    """Share of harmful replies against the steps of one attack, one line an objective."""
    rows = [row for row in _stepped(block) if named(row["attack"]) == attack]
    if not rows:
        return None
    return styled(
        *interval_lines(
            rows,
            objectives(block),
            x=depth_axis("step", sorted({row["step"] for row in rows}), title="steps of fine-tuning"),
            y=share_axis(alt.Y, "value", title="harmful replies"),
            tooltip=interval_tooltip(("model:N", "objective"), ("step:Q", "step")),
        ),
        height=240,
    )


def task_rows(block: Record, start: str | None, measure: str) -> list[dict[str, Any]]:
    """One measure (`utility` or `asr`) of the tasks with this start, on the schedule of betas, with names."""
    return [
        {
            **{key: row[key] for key in ("model", "start", "metric")},
            **row[measure],
            "task": plain_name(named(row["task"])) + _metric(row, measure),
        }
        for row in scheduled(block, "tasks")
        if row["start"] == start
    ]


def tasks(block: Record, start: str | None, measure: str) -> Chart | None:
    """Utility, or harmful replies, after every task with this start, by objective (claim C17)."""
    rows = [row for row in task_rows(block, start, measure) if row["value"] is not None]
    title = "harmful replies" if measure == "asr" else "utility"
    told = ("model:N", "objective"), ("task:N", "task")
    return grouped_points(
        rows,
        objectives(block),
        group="task",
        title=title,
        tooltip=interval_tooltip(*told, value=title),
    )


def objectives(block: Record) -> list[str]:
    """The names of all objectives that are drawn: the same colour for each on the whole page."""
    rows = [*scheduled(block, "runs"), *scheduled(block, "tasks")]
    names = [row["model"] for row in rows]
    of = list(dict.fromkeys(row["objective"] for row in rows))
    # Of one objective the schedule of most rows leads.
    place = {row["model"]: (of.index(row["objective"]), -names.count(row["model"])) for row in rows}
    return sorted(place, key=lambda name: place[name])


def _stepped(block: Record) -> list[dict[str, Any]]:
    return [row for row in scheduled(block, "runs") if row["value"] is not None and row["step"] is not None]


def _metric(row: Record, measure: str) -> str:
    return f" ({plain_name(str(row['metric']))})" if measure == "utility" and row["metric"] else ""
