"""What fine-tuning did to one model, in sentences and key figures: dynamics, protection, attack, sweep.

A sentence whose numbers are missing is not written. What a reproduction says of the
constrained objective is for `protection_findings` to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report import attacks, dynamics
from safedepth.report.attack_figures import defence_name, trial_words
from safedepth.report.objectives import (
    at_positions,
    attack_kind,
    beta_words,
    objective_name,
    stepped_names,
)
from safedepth.report.tested import HARMFUL, measured
from safedepth.report.words import (
    MISSING,
    Summary,
    Tile,
    capital,
    count,
    moved_tile,
    named,
    number,
    plain_name,
    share_estimate,
    tile,
)

__all__ = ["KINDS", "headline", "steps", "tiles", "tiles_of_steps"]

KINDS = ("dynamics", "finetune", "attack", "sweep")
"""Kinds of run that are about fine-tuning."""

NOTHING = "This run holds no numbers that say it; the sections below tell what is missing, and why."
SHOWN = {"loss": ("the loss", 0), "gradient": ("the gradient norm", 0), "kl": ("the KL divergence", -1)}
"""Of each measure by position the looked-at step that is told: before the first, of the KL the last."""
LINES, TILES = 4, 8


def headline(summary: Summary) -> list[str]:
    """What a run about fine-tuning found, the most important first."""
    tell = {"dynamics": _dynamics, "finetune": _protected, "attack": _attacked, "sweep": _swept}
    return [sentence for sentence in tell[summary["kind"]](summary) if sentence] or [NOTHING]


def tiles(summary: Summary) -> list[Tile]:
    """Its key figures."""
    kind: str = summary["kind"]
    block = summary.get("protection" if kind == "finetune" else kind) or {}
    if kind == "dynamics":
        found = [*tiles_of_steps(summary), *_tiles_of_spread(block)]
    elif kind == "sweep":
        worst = [row for row in block.get("worst") or () if _has(row)]
        found = [tile(f"Worst case: {defence_name(row['defence'])}", share_estimate(row)) for row in worst]
    else:
        rows = block.get("evaluations" if kind == "attack" else "asr") or ()
        found = _moved(measured(rows, HARMFUL))[:LINES]
        found += _moved(measured(block.get("utility") or ()))
    return found[:TILES]


def steps(summary: Summary) -> list[str]:
    """Harmful replies before the first step, where they first are half of all, and at the end."""
    found = []
    for (data, name), rows in list(_lines(summary).items())[:LINES]:
        half = next((row for row in rows[1:-1] if row["value"] >= 0.5), rows[0])
        told = [f"{share_estimate(row)} {_when(row['step'])}" for row in (rows[0], half, rows[-1])]
        told = list(dict.fromkeys(told))
        listed = ", ".join(told[:-1]) + (" and " if told[:-1] else "") + told[-1]
        found.append(f"Fine-tuned{_on(data)} ({name}), the share of harmful replies is {listed}.")
    return found


def tiles_of_steps(summary: Summary) -> list[Tile]:
    """Harmful replies before the first and after the last step, of the first lines."""
    found = []
    for (data, name), rows in list(_lines(summary).items())[:LINES]:
        first, last = rows[0], rows[-1]
        label = f"Harmful replies, {count(last['step'], 'step')}{_on(data)} ({name})"
        both = len(rows) > 1
        found.append(moved_tile(label, first["value"], last) if both else tile(label, share_estimate(last)))
    return found


def _lines(summary: Summary) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Harmful replies by data and name of the line, in the order of steps; harmful data first."""
    block = summary.get("dynamics") or {}
    rows = [row for row in block.get("asr") or () if _has(row) and row["step"] is not None]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(stepped_names(rows), key=lambda row: (row["data"] != "harmful", row["step"])):
        found.setdefault((named(row["data"]), row["model"]), []).append(row)
    return found


def _on(data: str) -> str:
    return "" if data == MISSING else f" on {data} examples"


def _when(step: int) -> str:
    return f"after {count(step, 'step')}" if step else "before the first step"


def _dynamics(summary: Summary) -> list[str]:
    told = [
        f"{held} of {SHOWN[measure][0]} {_when(step)}"
        for measure, step, held in _spread(summary.get("dynamics") or {})
    ]
    spread = f"The first tokens of the answers hold {', '.join(told)}." if told else ""
    return [*steps(summary), spread]


def _tiles_of_spread(block: Mapping[str, Any]) -> list[Tile]:
    return [
        tile(f"{plain_name(measure)} on the first tokens, {_when(step)}", held)
        for measure, step, held in _spread(block)
    ]


def _spread(block: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Measure, step, and how much of the measure falls on the first tokens."""
    found = []
    for measure, (_, place) in SHOWN.items():
        rows = dynamics.spread_of(block, measure) if block else []
        if rows:
            row, held = sorted(rows, key=lambda pair: pair[0]["step"])[place]
            found.append((measure, row["step"], held))
    return found


def _protected(summary: Summary) -> list[str]:
    block = summary.get("protection") or {}
    if not block:
        return []
    opening = ""
    if block["objective"]:
        beta = f" (β {beta_words(block['beta'])})" if block["beta"] else ""
        opening = f"The model was fine-tuned with this objective: {objective_name(block['objective'])}{beta}."
    harm = _before_after(block["asr"], HARMFUL)
    harm = harm or "Whether the model’s safety held was not tested in this run."
    return [opening, harm, _before_after(block["utility"]), _weights(block)]


def _weights(block: Mapping[str, Any]) -> str:
    """How much of the gradient is left at the first and at the last positions, at the end of training."""
    rows = [row for row in block["diagnostics"] if row["weight"] is not None]
    if not rows:
        return ""
    last = max(row["step"] for row in rows)
    ends = sorted((row for row in rows if row["step"] == last), key=lambda row: int(row["position"]))
    told = dict.fromkeys(
        f"{number(row['weight'])} {at_positions(row['position'], row['last'])}" for row in (ends[0], ends[-1])
    )
    weights = " and ".join(told)
    return f"At step {last}, the weight of plain fine-tuning’s gradient is {weights}; it was 1 at the start."


def _attacked(summary: Summary) -> list[str]:
    block = summary.get("attack") or {}
    told = _before_after(block.get("evaluations") or (), HARMFUL)
    if not told:
        return []
    how = f" with {attack_kind(block['kind'])}" if block["kind"] else ""
    how += f", by {objective_name(block['objective'])}" if block["objective"] else ""
    return [f"The model was attacked{how}." if how else "", told, _before_after(block["utility"])]


def _before_after(rows: Sequence[Mapping[str, Any]], measure: str = "utility") -> str:
    told: dict[str, list[str]] = {}
    for of, name, before, after in _both(measured(rows, measure)):
        told.setdefault(of, []).append(
            f"{name}, {share_estimate(before)} before and {share_estimate(after)} after"
        )
    return " ".join(f"{capital(of)}: {'; '.join(parts)}." for of, parts in told.items())


def _moved(rows: Sequence[Mapping[str, Any]]) -> list[Tile]:
    return [
        moved_tile(f"{of}, {name}, before → after", before["value"], after)
        for of, name, before, after in _both(rows)
    ]


def _both(
    rows: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Measure, what was asked, and the rates of both models; only what both have."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if _has(row):
            found.setdefault((row["measure"], row["asked"]), {})[row["model"]] = row
    return [
        (*of, both["before"], both["after"]) for of, both in found.items() if {"before", "after"} <= set(both)
    ]


def _swept(summary: Summary) -> list[str]:
    block = summary.get("sweep") or {}
    if not block or not (block["trials"] or block["worst"]):
        return []
    found = [f"{count(len(block['trials']), 'trial')} of fine-tuning. {attacks.bound_words(block)}".strip()]
    held = sorted((row for row in block["worst"] if _has(row)), key=lambda row: float(row["value"]))
    told = [f"{defence_name(row['defence'])} {share_estimate(row)}" for row in held]
    if told:
        found.append(f"Harmful replies in the worst trial of each defence: {'; '.join(told)}.")
        trial = attacks.trial_of(block, held[-1])
        how = trial_words(trial) if trial else ""
        found.append(f"The most harmful of all: {defence_name(held[-1]['defence'])}, {how}." if how else "")
    none = [defence_name(row["defence"]) for row in block["worst"] if attacks.none_within(block, row)]
    if none:
        found.append(f"No trial within the bound: {', '.join(none)}.")
    return found


def _has(of: Mapping[str, Any]) -> bool:
    return of.get("value") is not None
