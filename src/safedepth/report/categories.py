"""The section on results by category of the benchmark: nothing forced, and the prefill that breaks most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safedepth.report.attack_lines import LONG, by_judge, is_number, rate_name
from safedepth.report.judging_tables import MANY
from safedepth.report.marks import grouped_points, interval_tooltip
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.style import Chart, Record
from safedepth.report.tables import Table
from safedepth.report.topics_trust import CATEGORIES
from safedepth.report.words import capital, count, how_many, named, share_estimate

__all__ = ["chart", "sections", "shown", "table"]

FORCED = "prefill"


def sections(summary: Record) -> list[Section]:
    """The section of the `categories` of an audit; none where its prompts have none."""
    rows = summary.get("categories") or []
    judged = by_judge(summary, rows)
    drawn = []
    for judge, slug in list(slugs(list(judged)).items())[:1]:
        mine = shown(judged[judge])
        found = chart(mine)
        if found is None:
            continue
        told = "; ".join(f"{row['group']}, {row['model']}: {share_estimate(row)}" for row in mine)
        drawn.append(
            Figure(
                id=f"categories-{slug}",
                title=f"Judge: {judge}",
                full_title=f"Harmful replies by category (judge: {judge})",
                wide=True,
                caption=f"{MANY.format(count(len(mine), 'rate'))} {undrawn(mine)}".strip(),
                spoken=f"Dot plot with intervals. {told}.",
                chart=found,
            )
        )
    section = topic_section(summary, CATEGORIES, drawn, [table(rows)])
    return [] if section is None else [section]


def shown(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Of one judge's rows those with nothing forced and those of the strongest prefill, worst category first.

    Where nothing was forced at all, those of the strongest variant of what there is.
    """
    variants: dict[str, list[Record]] = {}
    for row in rows:
        variants.setdefault(rate_name(row), []).append(row)
    plain = [name for name, of in variants.items() if not of[0]["k"] and of[0]["attack"] in (FORCED, "plain")]
    forced = [
        name for name, of in variants.items()
        if of[0]["attack"] == FORCED and is_number(of[0]["k"]) and of[0]["k"] > 0
    ]  # fmt: skip
    others = forced or [name for name in variants if name not in plain]
    most = max(others, key=lambda name: _harm(variants[name]), default=None)
    kept = [*plain[:1], *([most] if most is not None else [])]
    height = {named(row["category"]): _value(row) for row in variants.get(kept[-1], ())} if kept else {}
    found = [
        {**row, "model": name, "group": named(row["category"])} for name in kept for row in variants[name]
    ]
    return sorted(found, key=lambda row: -height.get(row["group"], -1.0))


def _harm(rows: Sequence[Record]) -> float:
    """The share of harmful replies over all categories."""
    known = [row for row in rows if row["value"] is not None and row["n"]]
    n = sum(row["n"] for row in known)
    return sum(row["value"] * row["n"] for row in known) / n if n else -1.0


def _value(row: Record) -> float:
    return -1.0 if row["value"] is None else float(row["value"])


def chart(rows: Sequence[Record]) -> Chart | None:
    """A dot with its interval for every category and each of the two variants."""
    known = [row for row in rows if row["value"] is not None]
    told = interval_tooltip(("group:N", "category"), ("model:N", "asked"))
    names = list(dict.fromkeys(row["model"] for row in rows))
    names.sort(key=lambda name: name != rate_name({"attack": FORCED, "k": 0}))
    return grouped_points(known, names, group="group", title="harmful replies", tooltip=told)


def table(rows: Sequence[Record]) -> Table:
    """Every category under every variant, as numbers."""
    told = [
        [
            named(row["category"]), capital(rate_name(row)), named(row["judge"]), share_estimate(row),
            how_many(row["n"]), how_many(row["unscored"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["category", "asked", "judge", "harmful", "n", "unscored"]
    note = MANY.format(count(len(told), "rate"))
    return Table("Categories as numbers", head, told, words=3, open=len(told) <= LONG, note=note)
