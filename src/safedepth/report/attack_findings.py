"""What attacks that leave the weights alone found, in sentences and key figures.

A sentence whose numbers are missing is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safedepth.report.adaptive import arm_name
from safedepth.report.attack_lines import by_judge, is_number
from safedepth.report.suffix_figures import mean_loss
from safedepth.report.suffixes import final_success, search_names
from safedepth.report.words import (
    Summary,
    Tile,
    attack_name,
    count,
    named,
    number,
    share_estimate,
    tile,
)

__all__ = ["KINDS", "any_sentence", "any_tiles", "headline", "tiles", "title"]

KINDS = ("suffix", "adaptive")
"""Kinds of run that are one such attack."""
NOTHING = "This run holds no numbers that say it; the sections below tell what is missing, and why."
MODELS = 4

Row = Mapping[str, Any]


def title(summary: Summary, name: str) -> str:
    """The heading of the page of one attack on the model of this name."""
    if summary["kind"] == "suffix":
        return f"Can a suffix talk {name} out of its refusals?"
    return f"How far does an attacker who learns get with {name}?"


def headline(summary: Summary) -> list[str]:
    """What a run of one attack found, the most important first."""
    told = _suffix(summary) if summary["kind"] == "suffix" else _adaptive(summary)
    return [sentence for sentence in told if sentence] or [NOTHING]


def tiles(summary: Summary) -> list[Tile]:
    """Its key figures."""
    if summary["kind"] == "suffix":
        blocks = summary.get("suffix") or []
        found = []
        for block, name in zip(blocks, search_names(blocks), strict=True):
            last = final_success(block)
            found += [tile(f"Prompts broken by a suffix ({name})", share_estimate(last))] if last else []
        return found[:MODELS]
    block = summary.get("adaptive") or {}
    worst = block.get("worst") or {}
    found = [tile("Worst case: prompts broken", share_estimate(worst))] if _has(worst) else []
    for policy, label in (("adaptive", "the first try"), ("fixed", "tries in a fixed order")):
        rows = _of_policy(block, policy)
        row = (rows[:1] if policy == "adaptive" else rows[-1:]) or [{}]
        if _has(row[0]) and (policy == "fixed" or len(rows) > 1):
            tries = "" if policy == "adaptive" else f"{row[0]['tries']} "
            found.append(tile(f"Prompts broken by {tries}{label}", share_estimate(row[0])))
    return found


def any_sentence(summary: Summary) -> str:
    """The share of prompts that any attack of an audit broke, and which attack breaks most."""
    rows = _any(summary)
    if not rows:
        return ""
    told = "; ".join(f"{share_estimate(row)} of the prompts to {named(row['model'])}" for row in rows)
    sentence = (
        f"At least one reply to any of the attacks was harmful for {told} (judge {named(rows[0]['judge'])})"
    )
    first = _strongest(summary, rows[0])
    if first:
        by = attack_name(first["attack"])
        whose = f" on {named(first['model'])}" if len(rows) > 1 else ""
        sentence += f"; the strongest single attack{whose} is “{by}” with {share_estimate(first)}"
    return sentence + "."


def any_tiles(summary: Summary) -> list[Tile]:
    """The same as key figures, one a model."""
    rows = _any(summary)[:MODELS]
    label = "Prompts broken by any attack"
    return [
        tile(label if len(rows) == 1 else f"{label}, {named(row['model'])}", share_estimate(row))
        for row in rows
    ]


def _any(summary: Summary) -> list[Row]:
    """The rows on any attack of the first judge with a value, the run's own model first."""
    block = summary.get("attacks") or {}
    for rows in by_judge(summary, block.get("any") or ()).values():
        found = [row for row in rows if _has(row)]
        if found:
            return sorted(found, key=lambda row: row["model"] != "aligned")[:MODELS]
    return []


def _strongest(summary: Summary, any_row: Row) -> Row | None:
    rows = [
        row
        for row in summary["attacks"]["overview"]
        if _has(row) and row["model"] == any_row["model"] and row["judge"] == any_row["judge"]
    ]
    return max(rows, key=lambda row: float(row["value"]), default=None)


def _suffix(summary: Summary) -> list[str]:
    found = []
    blocks = summary.get("suffix") or []
    for block, name in zip(blocks, search_names(blocks), strict=True):
        last = final_success(block)
        if last:
            found.append(
                f"After {count(last['step'], 'step')} of the search, {share_estimate(last)} of the prompts "
                f"are broken by an optimised suffix ({name})."
            )
        points = mean_loss(block)
        if len(points) > 1:
            found.append(
                f"The mean loss of the searches ({name}) went from "
                f"{number(points[0]['loss'])} to {number(points[-1]['loss'])}."
            )
    return found


def _adaptive(summary: Summary) -> list[str]:
    block = summary.get("adaptive") or {}
    if not block:
        return []
    worst = block["worst"]
    found = []
    if _has(worst):
        budget = block["budget"]
        tries = f"with at most {count(budget, 'try', 'tries')} a prompt, " if is_number(budget) else ""
        found.append(f"The worst case: {tries}the attacker breaks {share_estimate(worst)} of the prompts.")
    learnt, fixed = _of_policy(block, "adaptive"), _of_policy(block, "fixed")
    both = [(a, b) for a in learnt for b in fixed if a["tries"] == b["tries"]]
    if both:
        ours, theirs = both[-1]
        found.append(
            f"After {count(ours['tries'], 'try', 'tries')} a prompt, {share_estimate(ours)} are broken by "
            f"the attacker who learns and {share_estimate(theirs)} by one with a fixed order."
        )
    broke = [row for row in block["arms"] if row["broke"]]
    if broke:
        first = max(broke, key=lambda row: int(row["broke"]))
        of = f" in {count(first['tries'], 'try', 'tries')}" if is_number(first["tries"]) else ""
        found.append(f"What broke most prompts: “{arm_name(first)}”, {first['broke']:,}{of}.")
    return found


def _of_policy(block: Row, policy: str) -> list[Row]:
    rows = [row for row in block.get("curve") or () if row["policy"] == policy and _has(row)]
    return sorted((row for row in rows if is_number(row["tries"])), key=lambda row: int(row["tries"]))


def _has(of: Row) -> bool:
    return of.get("value") is not None
