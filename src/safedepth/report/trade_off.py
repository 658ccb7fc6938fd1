"""Safety and utility side by side, before and after a change to a model: a table and a chart a model.

Which way is better is the study's to say. A change counts as shown where its interval excludes 0
and its p-value, adjusted for all comparisons, lies below 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from safedepth.report.marks import intervals, labels_above
from safedepth.report.parts import Figure, Section, slugs, topic_section
from safedepth.report.style import MUTED, Chart, Record, data, model_colour, model_shape, styled
from safedepth.report.tables import Table
from safedepth.report.topics_trust import TRADE_OFF
from safedepth.report.words import (
    MISSING,
    UNCHANGED,
    capital,
    change,
    count,
    difference,
    how_many,
    named,
    p_value,
    plain_name,
    points,
    share,
    share_estimate,
)

__all__ = ["VERDICTS", "chart", "full_name", "headline", "row_name", "sections", "tables", "verdict"]

VERDICTS = ("better", "worse", UNCHANGED)
SIDES = ("safety", "utility")
LEVEL = 0.05
FORCED = "prefill, "
"""What the study says before a number of forced tokens; the number says it already."""
ARROWS = {"lower": " ↓", "higher": " ↑"}


def sections(summary: Record) -> list[Section]:
    """The section of a `trade_off` block; none where the run has none."""
    block = summary.get("trade_off") or {"models": [], "rows": [], "comparisons": None}
    drawn = []
    for model, slug in slugs(block["models"][1:]).items():
        found = chart(block, model)
        if found is None:
            continue
        told = "; ".join(
            f"{row_name(row)}: {difference(row['paired'][model])}, {verdict(row, model) or 'not decided'}"
            for row in _ordered(block)
            if (row["paired"].get(model) or {}).get("difference") is not None
        )
        before = block["models"][0]
        drawn.append(
            Figure(
                id=f"trade-off-{slug}",
                title=f"{capital(model)} against {before}",
                full_title=f"Safety and utility: {model} against {before}",
                wide=len(block["models"]) == 2,
                caption=_coloured(block),
                spoken=f"Dot plot of differences with intervals. {told}.",
                chart=found,
            )
        )
    section = topic_section(summary, TRADE_OFF, drawn, tables(block))
    return [] if section is None else [section]


def headline(summary: Record) -> str:
    """How many comparisons show something, and which got worse; empty where there are none."""
    block = summary.get("trade_off")
    if not block or len(block["models"]) < 2:
        return ""
    model = block["models"][1]
    found = {row_name(row): verdict(row, model) for row in _ordered(block) if verdict(row, model)}
    if not found:
        return ""
    said = list(found.values())
    worse = [name for name, of in found.items() if of == "worse"]
    names = f" ({'; '.join(worse)})" if 0 < len(worse) <= len(SIDES) + 1 else ""
    return (
        f"Of {count(len(found), 'comparison')} of safety and utility, {said.count('better')} got better, "
        f"{len(worse)} worse{names}, and {said.count(UNCHANGED)} show no change{_adjusted(block)}."
    )


def row_name(row: Record) -> str:
    """What a row compares, in words."""
    what = named(row["what"]).removeprefix(FORCED)
    return plain_name(named(row["measure"])) + ("" if what == MISSING else f", {what}")


def verdict(row: Record, model: str) -> str:
    """Whether this model did better or worse than the one before; empty where nobody can say."""
    of = row["paired"].get(model) or {}
    adjusted, better = of.get("p_holm"), row["better"]
    if of.get("difference") is None or better not in ("lower", "higher"):
        return ""
    moved = UNCHANGED if adjusted is not None and adjusted >= LEVEL else change(of)
    if moved in ("", UNCHANGED):
        return moved
    return "better" if (moved == "rose") == (better == "higher") else "worse"


def chart(block: Record, model: str) -> Chart | None:
    """Differences to the model before in percentage points, a dot with its interval for each row."""
    rows: list[dict[str, Any]] = []
    for row in _ordered(block):
        of = row["paired"].get(model) or {}
        if of.get("difference") is None:
            continue
        band = of["detectable"]
        rows.append(
            {
                "model": verdict(row, model) or UNCHANGED,
                "row": full_name(row),
                "value": 100 * of["difference"],
                **{end: None if of[end] is None else 100 * of[end] for end in ("low", "high")},
                "from": None if band is None else -100 * band,
                "to": None if band is None else 100 * band,
                "told": f"{share(of['before'])} → {share(of['after'])}",
                "delta": difference(of),
                "p": p_value(of["p_holm"] if of["p_holm"] is not None else of["p"]),
                "least": MISSING if band is None else f"{100 * band:.1f} points",
                "n": of["n"],
            }
        )
    if not rows:
        return None
    y, height = labels_above("row", list(dict.fromkeys(row["row"] for row in rows)), band=16)
    x = alt.X("value:Q", title="difference, percentage points").scale(domain=_domain(rows), nice=False)
    x = x.axis(labelExpr="replace(format(datum.value, '+'), '+0', '0')", tickCount=7)
    told = [("row", "of"), ("told", "before → after"), ("delta", "difference"), ("model", "this is"),
            ("p", "p"), ("least", "shown from"), ("n", "prompts")]  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        y=y, tooltip=[alt.Tooltip(f"{field}:N", title=title) for field, title in told]
    )
    coloured = base.encode(color=model_colour(VERDICTS))
    layers: list[Chart] = []
    if any(row["from"] is not None for row in rows):
        band_ = base.mark_bar(color=MUTED, opacity=0.14, height=16).transform_filter("isValid(datum.from)")
        layers.append(band_.encode(x=alt.X("from:Q"), x2=alt.X2("to:Q")))
    zero = alt.Chart(data([{"value": 0}])).mark_rule(color=MUTED, strokeWidth=1, strokeDash=[4, 3])
    layers += [
        zero.encode(x=x),
        *intervals(coloured, rows, alt.X, strokeWidth=2),
        coloured.mark_point(filled=True, size=80, opacity=1).encode(x=x, shape=model_shape(VERDICTS)),
    ]
    return styled(*layers, height=height)


def _domain(rows: Sequence[Record]) -> list[float]:
    """From the lowest to the highest end, 0 among them, and a little more."""
    ends = [
        row[key] for row in rows for key in ("value", "low", "high", "from", "to") if row[key] is not None
    ]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]


def tables(block: Record) -> list[Table]:
    """Of every other model each row: the rate before, its own, the difference, p and what it says."""
    adjusted = any(of["p_holm"] is not None for row in block["rows"] for of in row["paired"].values())
    found = []
    for place, model in enumerate(block["models"][1:]):
        before = block["models"][0]
        rows = []
        for row in _ordered(block):
            of = row["paired"].get(model) or {}
            rows.append(
                [
                    _told(row),
                    share_estimate(row["cells"].get(before) or {}),
                    share_estimate(row["cells"].get(model) or {}),
                    difference(of, unit=""),
                    p_value(of.get("p_holm" if adjusted else "p")),
                    {UNCHANGED: "none shown", "": MISSING}.get(said := verdict(row, model), said),
                    points(of.get("detectable")).lstrip("+"),
                    _most(row, (before, model), "n"),
                    _most(row, (before, model), "unscored"),
                ]
            )
        p = "p (Holm)" if adjusted else "p"
        head = ["measured", before, model, "difference", p, "change", "shown from", "n", "unscored"]
        title = f"Safety and utility: {model} against {before}"
        found.append(Table(title, head, rows, open=place == 0, note=_note(block)))
    return found


def _told(row: Record) -> str:
    """A row's name, which way is better, and the judge."""
    arrow = ARROWS.get(row["better"], "")
    return full_name(row) + arrow + ("" if row["judge"] is None else f" ({row['judge']})")


def full_name(row: Record) -> str:
    """The side and what is compared."""
    return f"{capital(named(row['side']))}: {row_name(row)}"


def _most(row: Record, models: Sequence[str], key: str) -> str:
    """The largest number of prompts, or of unscored ones, that stands behind either of two models."""
    of = [row["cells"][model] for model in models if model in row["cells"]]
    of += [row["paired"][model] for model in models if model in row["paired"] and key == "n"]
    return how_many(max((one[key] for one in of if one[key] is not None), default=None))


def _ordered(block: Record) -> list[Record]:
    """Safety first, then utility, then whatever else there may be."""
    place = {side: number for number, side in enumerate(SIDES)}
    return sorted(block["rows"], key=lambda row: place.get(str(row["side"]), len(SIDES)))


def _adjusted(block: Record) -> str:
    k = block["comparisons"]
    if not isinstance(k, int) or isinstance(k, bool) or k < 2:
        return ""
    return f" ({k} comparisons, adjusted by Holm)"


def _coloured(block: Record) -> str:
    """When something counts as better or worse, for beneath the chart."""
    how = "where the interval excludes 0"
    if _adjusted(block):
        how += f" and p, adjusted by Holm for {block['comparisons']} comparisons, is below 5 %"
    return f"Better or worse is said {how}. Intervals are not adjusted."


def _note(block: Record) -> str:
    k = block["comparisons"]
    many = f"{count(k, 'comparison')}: their p-values are adjusted by Holm. " if _adjusted(block) else ""
    return (
        f"{many}Arrows point to what is better. Differences are in percentage points on the same prompts, "
        "with their own 95 % intervals, which are not adjusted. Shown from: the smallest true difference, in "
        "points, that a sample of this size, with this share of prompts that changed, finds with 80 % "
        "probability at 5 %."
    )
