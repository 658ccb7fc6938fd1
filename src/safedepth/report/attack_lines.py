"""Harmful replies by forced tokens or by turn: one line a variant of an attack, one chart a model.

Takes the `rates` of a summary. Where only one line a model is left, all models share one chart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from safedepth.report.marks import SCOPE_NAMES, interval_lines, interval_tooltip
from safedepth.report.parts import Figure, slugs
from safedepth.report.style import Chart, Record, depth_axis, share_axis, styled
from safedepth.report.tables import Table
from safedepth.report.words import (
    MISSING,
    SCOPES,
    attack_name,
    attack_rates,
    capital,
    count,
    how_many,
    judges,
    named,
    share_estimate,
)

__all__ = [
    "LONG",
    "by_judge",
    "is_number",
    "line_figures",
    "rate_name",
    "rates_table",
    "scored",
    "variant_name",
]

LONG = 24
"""Rows beyond which a table waits to be asked for."""
AXES = {"k": "forced tokens of the harmful answer, k", "turn": "turn of the conversation"}
PLAIN = {
    ("on_policy", "own"): "the model’s own tokens",
    ("on_policy", "foreign"): "the tokens of the file",
    ("thinking", "inside"): "inside the thinking",
    ("thinking", "after"): "after the thinking",
    ("rank_prefill", "rank"): "rank-assisted prefill",
    ("insertion", "after refusal"): "after a refusal",
    ("suffix", "per prompt"): "one suffix a prompt",
    ("suffix", "universal"): "one suffix for all",
}
COUNTED = {
    "own": "after {} of its own", "benign": "after {} of harmless text",
}  # fmt: skip


def is_number(value: Any) -> bool:
    """Whether a value can have a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def by_judge(summary: Record, rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Rows by judge, those of the judge that the study relies on first."""
    found: dict[str, list[Record]] = {}
    for row in rows:
        found.setdefault(named(row["judge"]), []).append(row)
    first = [name for name in (named(summary.get("judge")), *judges(summary)) if name in found]
    return {name: found[name] for name in dict.fromkeys((*first, *found))}


def scored(summary: Record, attack: str, *, by: str | None = None) -> list[Record]:
    """The rates of one attack that have a value, of the first judge and the first scope with any.

    With `by`, only those that have a place on that axis.
    """
    for judge in judges(summary):
        for scope in SCOPES:
            rates = attack_rates(summary, attack=attack, judge=judge, scope=scope)
            rates = [rate for rate in rates if rate["value"] is not None and rate["model"] is not None]
            rates = [rate for rate in rates if by is None or is_number(rate.get(by))]
            if rates:
                return rates
    return []


def variant_name(attack: object, variant: object) -> str:
    """A variant of an attack in words; one that is not known by its own name, none by its attack's."""
    if variant is None:
        return attack_name(attack)
    known = PLAIN.get((str(attack), str(variant)))
    found = re.fullmatch(r"after (own|benign) (\d+)", str(variant)) if attack == "insertion" else None
    if found:
        return COUNTED[found[1]].format(count(int(found[2]), "token"))
    setting = re.fullmatch(r"top_([pk]) (.*)", str(variant)) if attack == "decoding" else None
    return known or (f"top-{setting[1]} {setting[2]}" if setting else named(variant))


def rate_name(rate: Record) -> str:
    """What a rate is of, in a few words: the attack, its variant, the turn and the forced tokens."""
    attack, k, turn, prefix = (rate.get(key) for key in ("attack", "k", "turn", "prefix"))
    forced = [] if k is None else [f"{count(k, 'token')} forced" if k else "nothing forced"]
    if attack == "prefill" and forced:
        return forced[0]
    if prefix == "":
        return "nothing forced"
    parts = [attack_name(attack), variant_name(attack, rate.get("variant"))]
    parts += [] if prefix is None else [f"“{prefix}”"]
    parts += [] if turn is None else [f"turn {turn}"]
    return ", ".join(dict.fromkeys([*parts, *forced]))


def line_figures(
    series: Mapping[str, Sequence[Record]], *, by: str, prefix: str, title: str, caption: str = ""
) -> list[Figure]:
    """Charts of lines by name; a chart a model where the lines of one model have several names.

    `by` is k or turn, `prefix` begins the ids, `title` says what is shown. All rates have a
    value, a model and a place.
    """
    rows = [{**rate, "line": name} for name, rates in series.items() for rate in rates]
    if not rows:
        return []
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    several = len({row["line"] for row in rows}) > 1
    names = list(series) if several else models
    told = f"Judge {rows[0]['judge']}, {SCOPES.get(rows[0]['scope'], named(rows[0]['scope']))}."
    drawn = []
    for model, slug in slugs(models if several else [""]).items():
        mine = [row for row in rows if not several or str(row["model"]) == model]
        shown = [row | {"model": row["line"] if several else str(row["model"])} for row in mine]
        spoken = "; ".join(f"{row['model']}, {by} = {row[by]}: {share_estimate(row)}" for row in shown)
        of = model if several else models[0] if len(models) == 1 else "by model"
        drawn.append(
            Figure(
                id=f"{prefix}-{slug}" if several else prefix,
                title=capital(of),
                full_title=f"{title} ({of})",
                wide=len(models) == 1 or not several,
                caption=f"{told} {caption}".strip(),
                spoken=f"Line chart of the share of harmful replies. {spoken}.",
                chart=_chart(shown, names, by, all_rows=rows),
            )
        )
    return drawn


def _chart(rows: Sequence[Record], names: Sequence[str], by: str, *, all_rows: Sequence[Record]) -> Chart:
    """The lines of one chart; its axis is that of all charts of the section, so that they compare."""
    places = sorted({row[by] for row in all_rows})
    shown = [
        {key: row.get(key) for key in ("model", by, "value", "low", "high", "n", "unscored")} for row in rows
    ]
    x = depth_axis(by, places, title=AXES[by]) if by == "k" else _turns(places)
    told = interval_tooltip(("model:N", "which"), (f"{by}:Q", by), n="scored replies")
    return styled(
        *interval_lines(
            shown, names, x=x, y=share_axis(alt.Y, "value", title="harmful replies"),
            tooltip=[*told, alt.Tooltip("unscored:Q", title="unscored")],
        )
    )  # fmt: skip


def _turns(places: Sequence[float]) -> alt.X:
    ends = [places[0] - 0.3, places[-1] + 0.3]
    return alt.X("turn:Q", title=AXES["turn"]).scale(domain=ends, nice=False).axis(values=places, format="d")


def rates_table(summary: Record, attack: str, title: str) -> Table:
    """Every rate of one attack as numbers, all judges and scopes."""
    rates = attack_rates(summary, attack=attack)
    rows = [
        [
            named(rate["model"]),
            variant_name(attack, rate.get("variant")),
            named(rate["judge"]),
            SCOPE_NAMES.get(str(rate["scope"]), named(rate["scope"])),
            *(MISSING if rate.get(key) is None else str(rate[key]) for key in AXES),
            share_estimate(rate),
            how_many(rate["n"]),
            how_many(rate["unscored"]),
        ]
        for rate in rates
    ]
    head = ["model", "variant", "judge", "judged on", *AXES, "harmful", "n", "unscored"]
    kept = [i for i, name in enumerate(head) if name not in AXES or any(row[i] != MISSING for row in rows)]
    rows = [[row[i] for i in kept] for row in rows]
    head = [head[i] for i in kept]
    return Table(title, head, rows, words=4, open=len(rows) <= LONG // 2)
