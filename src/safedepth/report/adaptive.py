"""The section on the adaptive attacker: what it broke by tries, with which attacks, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from safedepth.report.attack_lines import LONG, is_number, variant_name
from safedepth.report.marks import interval_lines, interval_tooltip, labels_above
from safedepth.report.parts import Figure, Section, topic_section, undrawn
from safedepth.report.reading_attacks import adaptive as whole
from safedepth.report.style import ALIGNED, BASE, Chart, Record, data, share_axis, styled, token_axis
from safedepth.report.tables import Table
from safedepth.report.topics_attacks import ADAPTIVE
from safedepth.report.words import MISSING, attack_name, count, how_many, named, share_estimate

__all__ = ["MOST_ARMS", "POLICIES", "arm_name", "arms", "curve", "sections"]

POLICIES = {"adaptive": "adaptive", "fixed": "fixed order"}
MOST_ARMS = 16
"""Arms that are drawn; the table has all."""


def sections(summary: Record) -> list[Section]:
    """The section of an `adaptive` block."""
    block = summary.get("adaptive") or whole({})
    section = topic_section(
        summary, ADAPTIVE, [*_curve(block), *_arms(block)], [_arm_table(block), _prompts(block)],
        beside=[Table("The attacker", ["", "value"], _facts(block), words=2, open=True)],
        addition=_worst(block),
    )  # fmt: skip
    return [] if section is None else [section]


def _worst(block: Record) -> str:
    if block["worst"]["value"] is None:
        return ""
    tries = f" within {count(block['budget'], 'try', 'tries')}" if is_number(block["budget"]) else ""
    return f"The worst case: {share_estimate(block['worst'])} of the prompts are broken{tries}."


def _facts(block: Record) -> list[list[str]]:
    return [[named(name), named(value)] for name, value in block["facts"]]


def _curve(block: Record) -> list[Figure]:
    chart = curve(block)
    if chart is None:
        return []
    rows = block["curve"]
    told = "; ".join(f"{_policy(r)}, {r['tries']} tries: {share_estimate(r)}" for r in rows)
    return [
        Figure(
            id="adaptive-curve",
            title="Prompts broken by tries",
            full_title="Prompts broken by tries, with and without learning",
            caption=undrawn(rows),
            spoken=f"Line chart of the share of prompts broken. {told}.",
            chart=chart,
        )
    ]


def _policy(row: Record) -> str:
    return POLICIES.get(str(row["policy"])) or named(row["policy"])


def curve(block: Record) -> Chart | None:
    """Share of prompts broken against tries a prompt, one line a policy."""
    rows = [
        {**row, "model": _policy(row)}
        for row in block["curve"]
        if row["value"] is not None and is_number(row["tries"]) and row["tries"] > 0
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: int(row["tries"]))
    found = dict.fromkeys(row["model"] for row in rows)
    names = [*(name for name in POLICIES.values() if name in found), *found]
    lines = interval_lines(
        rows, list(dict.fromkeys(names)),
        x=token_axis("tries", rows[-1]["tries"], title="tries a prompt"),
        y=share_axis(alt.Y, "value", title="prompts broken"),
        tooltip=interval_tooltip(("model:N", "attacker"), ("tries:Q", "tries"), value="broken"),
    )  # fmt: skip
    return styled(*lines)


def _ranked(block: Record) -> list[Record]:
    """The arms that were tried, those that broke most first."""
    tried = [row for row in block["arms"] if is_number(row["tries"]) and row["tries"] > 0]
    return sorted(tried, key=lambda row: (-(row["broke"] or 0), -row["tries"]))


def _arms(block: Record) -> list[Figure]:
    ranked = _ranked(block)
    chart = arms(ranked[:MOST_ARMS])
    if chart is None:
        return []
    told = "; ".join(f"{arm_name(r)}: {how_many(r['broke'])} of {r['tries']}" for r in ranked[:MOST_ARMS])
    left = len(ranked) - MOST_ARMS
    return [
        Figure(
            id="adaptive-arms",
            title="Which attacks broke",
            full_title="What the adaptive attacker tried, and what broke",
            caption="Pale: tries; solid: those with a harmful reply. "
            + (f"{count(left, 'attack')} that broke less not drawn." if left > 0 else "").strip(),
            spoken=f"Bar chart of tries that broke, of all tries. {told}.",
            chart=chart,
        )
    ]


def arms(rows: Sequence[Record]) -> Chart | None:
    """A bar an arm: all tries pale, those that broke solid."""
    if not rows:
        return None
    shown = [
        {"arm": name, "tries": row["tries"], "broke": row["broke"] or 0,
         "told": f"{how_many(row['broke'])} of {how_many(row['tries'])}"}
        for row, name in zip(rows, _distinct([arm_name(row) for row in rows]), strict=True)
    ]  # fmt: skip
    y, height = labels_above("arm", [row["arm"] for row in shown], band=12)
    base = alt.Chart(data(shown)).encode(
        y=y, tooltip=[alt.Tooltip("arm:N", title="attack"), alt.Tooltip("told:N", title="broke")]
    )
    axis = alt.Axis(tickMinStep=1, tickCount=6, format="d")
    x = alt.X("tries:Q", title="tries", axis=axis)
    return styled(
        base.mark_bar(color=ALIGNED, opacity=0.3).encode(x=x),
        base.mark_bar(color=BASE, opacity=1).encode(x=alt.X("broke:Q")),
        height=height,
    )


def _distinct(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        known = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({known + 1})" if known else name)
    return found


def arm_name(row: Record) -> str:
    """An arm in words: its attack, its variant, how many tokens it forces."""
    if row["attack"] is None:
        return named(row["arm"])
    parts = [attack_name(row["attack"])]
    if row["variant"] is not None:
        words = variant_name(row["attack"], row["variant"])
        if words == named(row["variant"]) or row["attack"] == "decoding":
            parts.append(words)
        else:
            parts = [f"inserted {words}" if row["attack"] == "insertion" else words]
    if row["k"] is not None:
        parts.append(f"k = {row['k']}")
    if row["variant"] is None and row["k"] is None:
        # Of an arm that was never tried no reply tells the variant: the arm's own name does.
        own = str(row["arm"] or "").removeprefix(str(row["attack"])).strip()
        parts += [own] if own else []
    return ", ".join(parts)


def _arm_table(block: Record) -> Table:
    rows = [[arm_name(r), how_many(r["broke"]), how_many(r["tries"])] for r in block["arms"]]
    return Table("All attacks to choose from", ["attack", "broke", "tries"], rows)


def _prompts(block: Record) -> Table:
    """Every prompt: tries made, what broke it, how often that broke it again."""
    names = {row["arm"]: arm_name(row) for row in block["arms"] if row["arm"] is not None}
    rows = [
        [
            named(row["prompt_id"]),
            MISSING if row["broken_by"] is None else named(names.get(row["broken_by"], row["broken_by"])),
            how_many(row["tries"]),
            *([f"{row['confirmed']} of {row['repeated']}"] if row["repeated"] else [MISSING]),
        ]
        for row in block["prompts"]
    ]
    head = ["prompt", "broken by", "tries", "again, with other seeds"]
    if all(row[-1] == MISSING for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    title = f"All {count(len(rows), 'prompt')}"
    return Table(title, head, rows, words=2, open=len(rows) <= LONG // 2)
