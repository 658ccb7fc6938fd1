"""Charts of several judges on the same replies: a block's rows in, an Altair chart or None out.

One colour and one shape a judge, the same in all charts of a page. A point without a value is
left out, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from safedepth.report.attack_lines import is_number, rate_name
from safedepth.report.judging_rows import DRAWN, agreed, of_class
from safedepth.report.marks import grouped_points, interval_lines, interval_tooltip, labels_above
from safedepth.report.style import (
    ALIGNED,
    BASE,
    INK,
    MUTED,
    Chart,
    Record,
    data,
    depth_axis,
    legend,
    share_axis,
    styled,
)
from safedepth.report.words import named

__all__ = [
    "ROWS",
    "agreement",
    "agreement_map",
    "asked",
    "by_class",
    "corrected",
    "dots",
    "errors",
    "lines",
    "strongest",
]

ROWS = 12
"""What was asked, in one chart at most."""
CELLS = {
    "both": ("both: harmful", MUTED, 0.85), "only_first": ("only the first", ALIGNED, 1.0),
    "only_second": ("only the second", BASE, 1.0), "neither": ("neither", MUTED, 0.3),
}  # fmt: skip
"""The four counts of two judges in words, with colour and strength: what they differ on stands out."""
SERIES = ("as judged", "corrected", "truth")
TOLD = ("value", "low", "high", "n", "unscored")


def lines(rates: Sequence[Record], judges: Sequence[str]) -> Chart | None:
    """Harmful replies by forced tokens of one model in one scope, one line a judge."""
    shown = [
        {"model": named(rate["judge"]), "k": rate["k"], **{key: rate[key] for key in TOLD}}
        for rate in rates
        if rate["attack"] == "prefill" and is_number(rate.get("k")) and rate["value"] is not None
    ]
    shown = [row for row in shown if row["model"] in judges[:DRAWN]]
    if not shown:
        return None
    depths = sorted({row["k"] for row in shown})
    told = interval_tooltip(("model:N", "judge"), ("k:Q", "forced tokens"), n="scored replies")
    return styled(
        *interval_lines(
            shown, list(judges),
            x=depth_axis("k", depths, title="forced tokens of the harmful answer, k"),
            y=share_axis(alt.Y, "value", title="harmful replies"),
            tooltip=[*told, alt.Tooltip("unscored:Q", title="unscored")],
        )
    )  # fmt: skip


def strongest(rates: Sequence[Record]) -> list[dict[str, Any]]:
    """Of every other attack the variant that any judge finds most harmful, as all judges see it."""
    return [
        {"model": named(rate["judge"]), "group": name, **{key: rate[key] for key in TOLD}}
        for name, of in _best(rates)[:ROWS]
        for rate in of
    ]


def _best(rates: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Every attack but forced tokens at its strongest variant, the strongest attack first."""
    found: dict[str, dict[str, list[Record]]] = {}
    for rate in rates:
        forced = rate["attack"] == "prefill" and is_number(rate.get("k"))
        if rate["attack"] is not None and not forced and rate.get("prefix") != "":
            found.setdefault(str(rate["attack"]), {}).setdefault(rate_name(rate), []).append(rate)
    best = [max(variants.items(), key=lambda pair: _reach(pair[1])) for variants in found.values()]
    return sorted(best, key=lambda pair: -_reach(pair[1]))


def asked(rows: Sequence[Record]) -> list[Record]:
    """Of one judge's rates those to draw: forced tokens by depth, then other attacks at their strongest."""
    rates = [{**row, "value": row["judged"]["value"]} for row in rows]
    forced = [row for row in rows if row["attack"] == "prefill" and is_number(row["k"])]
    names = [name for name, _ in _best(rates)]
    others = [row for name in names for row in rows if rate_name(row) == name]
    return [*sorted(forced, key=lambda row: float(row["k"])), *others][:ROWS]


def _reach(rates: Sequence[Record]) -> float:
    return max((float(rate["value"]) for rate in rates if rate["value"] is not None), default=-1)


def dots(rows: Sequence[Record], judges: Sequence[str], *, title: str = "harmful replies") -> Chart | None:
    """A dot with its interval for every judge, in a band for every `group`; `model` is the judge."""
    shown = [row for row in rows if row["value"] is not None and row["model"] in judges[:DRAWN]]
    told = interval_tooltip(("model:N", "judge"), ("group:N", "of"), value=title, n="replies")
    return grouped_points(shown, list(judges), group="group", title=title, tooltip=told)


def by_class(rows: Sequence[Record], judges: Sequence[str]) -> Chart | None:
    """The share of every class of replies that each judge calls harmful."""
    return dots([_row(row, row) for row in of_class(rows)], judges, title="called harmful")


def errors(rows: Sequence[Record], judges: Sequence[str], measure: str, *, title: str) -> Chart | None:
    """Precision, recall or right verdicts of each judge by class of reply, in one scope."""
    return dots([_row(row, row[measure]) for row in of_class(rows)], judges, title=title)


def _row(row: Record, of: Record) -> dict[str, Any]:
    return {"model": named(row["judge"]), "group": row["group"], **{key: of[key] for key in TOLD[:4]}}


def agreement(rows: Sequence[Record]) -> Chart | None:
    """The four counts of two judges on the same replies, as parts of a bar, a bar a pair."""
    parts = []
    for row in rows:
        if agreed(row) is None:
            continue
        total, begin = sum(row[key] for key in CELLS), 0.0
        for key, (told, _, _) in CELLS.items():
            end = begin + row[key] / total
            parts.append(
                {"pair": _pair(row), "part": told, "from": begin, "to": end, "count": row[key],
                 "share": row[key] / total, "n": row["n"]}
            )  # fmt: skip
            begin = end
    if not parts:
        return None
    y, height = labels_above("pair", list(dict.fromkeys(part["pair"] for part in parts)), band=20)
    names, colours, strengths = (list(of) for of in zip(*CELLS.values(), strict=True))
    below = legend(names)
    chart = (
        alt.Chart(data(parts))
        .mark_bar(height=18)
        .encode(
            x=share_axis(alt.X, "from", title="replies"),
            x2=alt.X2("to:Q"),
            y=y,
            color=alt.Color("part:O", sort=names, scale=alt.Scale(domain=names, range=colours), legend=below),
            opacity=alt.Opacity("part:O", sort=names, legend=below).scale(
                type="ordinal", domain=names, range=strengths
            ),
            tooltip=[
                alt.Tooltip("pair:N", title="judges"),
                alt.Tooltip("part:N", title="called harmful by"),
                alt.Tooltip("count:Q", title="replies"),
                alt.Tooltip("share:Q", title="share", format=".1%"),
                alt.Tooltip("n:Q", title="of"),
            ],
        )
    )
    return styled(chart, height=height)


def _pair(row: Record) -> str:
    return f"{named(row['first'])} and {named(row['second'])}"


def agreement_map(rows: Sequence[Record], judges: Sequence[str]) -> Chart | None:
    """Of many judges the share of replies on which each two agree: the paler, the less."""
    cells = [
        {"one": one, "other": other, "share": share, "lacking": 1 - share, "n": row["n"]}
        for row in rows
        if (share := agreed(row)) is not None
        for one, other in (
            (named(row["first"]), named(row["second"])), (named(row["second"]), named(row["first"])),
        )
    ]  # fmt: skip
    if not cells:
        return None
    order = [name for name in judges if any(cell["one"] == name for cell in cells)]
    few = len(order) <= DRAWN
    most = max(0.01, *(cell["lacking"] for cell in cells))
    told = alt.Legend(format=".0%", values=[0, most / 2, most])
    strength = alt.Opacity("lacking:Q", title="replies on which they differ", legend=told)
    across = alt.X("other:N", sort=order, title=None if few else "the same judges in the same order")
    base = alt.Chart(data(cells)).encode(
        x=across.axis(labels=few, labelAngle=-45, labelLimit=110, labelOverlap=False),
        y=alt.Y("one:N", sort=order, title=None).axis(labelLimit=150),
        tooltip=[
            alt.Tooltip("one:N", title="one"),
            alt.Tooltip("other:N", title="other"),
            alt.Tooltip("share:Q", title="agree on", format=".1%"),
            alt.Tooltip("n:Q", title="replies"),
        ],
    )
    # Paler where numbers stand on it, so that they can be read on light and on dark screens.
    layers: list[Chart] = [
        base.mark_rect(color=BASE, stroke=MUTED, strokeWidth=0.3).encode(
            opacity=strength.scale(domain=[0, most], range=[0.03, 0.55 if few else 1])
        )
    ]
    if few:
        layers.append(base.mark_text(color=INK, fontSize=11).encode(text=alt.Text("share:Q", format=".0%")))
    return styled(*layers, height=(30 if few else 24) * len(order) + 20)


def corrected(rows: Sequence[Record], truth: Sequence[Record] = ()) -> Chart | None:
    """Rates of one judge, as judged and corrected, and the truth where it was asked of the same replies."""
    known = {rate_name(rate): rate for rate in truth}
    shown: list[dict[str, Any]] = []
    for row in rows:
        name = rate_name(row)
        for series, of in zip(SERIES, (row["judged"], row, known.get(name)), strict=True):
            if of is not None and of["value"] is not None:
                shown.append({"model": series, "group": name, **{key: of[key] for key in TOLD[:4]}})
    told = interval_tooltip(("model:N", "rate"), ("group:N", "of"), n="replies")
    return grouped_points(shown, SERIES, group="group", title="harmful replies", tooltip=told)
