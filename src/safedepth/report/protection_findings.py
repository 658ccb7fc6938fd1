"""What a reproduction found of constrained fine-tuning, in sentences and key figures (C7, C14 to C18).

Plain SFT and the constrained objective are compared on the same schedule, with warm-up where
there are such runs. A sentence whose numbers are missing is not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report.finetuning_findings import steps, tiles_of_steps
from safedepth.report.objectives import (
    CONSTRAINED,
    PLAIN,
    attack_name,
    beta_name,
    is_uniform,
    last_steps,
    main_beta,
)
from safedepth.report.words import Summary, Tile, moved_tile, named, plain_name, share, share_estimate

__all__ = ["headline", "tiles"]

SETTING = ("objective", "beta", "warmup")
STARTS = {"in": " (in distribution)", "out": " (out of distribution)"}


def headline(summary: Summary) -> list[str]:
    """The sentences on fine-tuning in a reproduction of the paper's claims."""
    found = [*steps(summary)[:1], *_attacks(summary), _tasks(summary), _uniform(summary)]
    return [sentence for sentence in found if sentence]


def tiles(summary: Summary) -> list[Tile]:
    """How fast safety goes, what the constraint leaves of that, what a task is worth: four at most."""
    found = tiles_of_steps(summary)[:1]
    for attack, (plain, held) in list(_pairs(summary).items())[: 3 - len(found)]:
        label = f"Harmful replies, {attack_name(attack)}, plain SFT → constrained"
        found.append(moved_tile(label, plain["value"], held))
    pairs = [pair for pair in _task_pairs(summary) if _has(pair[1]["utility"]) and _has(pair[2]["utility"])]
    if pairs:
        task, plain, held = min(pairs, key=lambda pair: _gain(pair[1], pair[2]))
        label = f"Utility, {task}, plain SFT → constrained"
        found.append(moved_tile(label, plain["utility"]["value"], held["utility"]))
    return found


def _gain(plain: Mapping[str, Any], held: Mapping[str, Any]) -> float:
    return float(held["utility"]["value"]) - float(plain["utility"]["value"])


def _pairs(summary: Summary) -> dict[Any, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Of every attack, plain SFT and the constrained objective after their last steps."""
    block = summary.get("protection") or {}
    tasks = {row["task"] for row in block.get("tasks") or ()}
    rows = [row for row in block.get("runs") or () if row["attack"] is not None]
    found = {}
    for attack in dict.fromkeys(row["attack"] for row in rows if row["attack"] not in tasks):
        mine = last_steps([row for row in rows if row["attack"] == attack], by=SETTING)
        pair = _compared(mine, main_beta(block))
        if pair:
            found[attack] = pair
    return found


def _compared(
    rows: Sequence[Mapping[str, Any]], beta: Any
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Plain SFT and the constrained objective under this schedule of beta, with warm-up both if possible."""
    plain = [row for row in rows if row["objective"] in (PLAIN, "sft_warmup")]
    held = [row for row in rows if row["objective"] == CONSTRAINED and row["beta"] in (beta, None)]
    both = [(p, h) for p in plain for h in held]
    return max(both, key=lambda pair: (_alike(*pair), _warm(pair[0])), default=None)


def _alike(plain: Mapping[str, Any], held: Mapping[str, Any]) -> bool:
    return _warm(plain) == _warm(held)


def _warm(row: Mapping[str, Any]) -> bool:
    return bool(row["warmup"]) or row["objective"] == "sft_warmup"


def _attacks(summary: Summary) -> list[str]:
    """Every attack under both objectives; apart those whose schedules differ."""
    pairs = _pairs(summary)
    found = []
    for alike, how in ((True, "on the same schedule"), (False, "with warm-up for one of the two alone")):
        told = [
            f"{attack_name(attack)} {share_estimate(plain)} and {share_estimate(held)}"
            for attack, (plain, held) in pairs.items()
            if _alike(plain, held) == alike
        ]
        if told:
            both = f"Harmful replies after fine-tuning, plainly and under the constraint, {how}"
            found.append(f"{both}: {'; '.join(told)}.")
    return found


def _task_pairs(summary: Summary) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Of every task and way to begin, its name, plain SFT and the constrained objective."""
    block = summary.get("protection") or {}
    rows = block.get("tasks") or ()
    found = []
    for task, start in dict.fromkeys((row["task"], row["start"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["start"]) == (task, start)]
        pair = _compared(mine, main_beta(block))
        if pair:
            found.append((plain_name(named(task)) + STARTS.get(start, ""), *pair))
    return found


def _tasks(summary: Summary) -> str:
    told = []
    for task, plain, held in _task_pairs(summary):
        if not (_has(plain["utility"]) and _has(held["utility"])):
            continue
        parts = f"{task} {share_estimate(plain['utility'])} and {share_estimate(held['utility'])}"
        if _has(plain["asr"]) and _has(held["asr"]):
            harm = [share(of["asr"]["value"]) for of in (plain, held)]
            parts += f", with {harm[0]} and {harm[1]} harmful replies"
        told.append(parts)
    return f"Utility on tasks, plainly and under the constraint: {'; '.join(told)}." if told else ""


def _uniform(summary: Summary) -> str:
    """What one beta for all positions leaves of safety on the first attack that has one, and of utility."""
    block = summary.get("protection") or {}
    rows = [
        row
        for row in last_steps(block.get("runs") or (), by=("attack", *SETTING))
        if row["objective"] == CONSTRAINED and is_uniform(row["beta"], block["betas"])
    ]
    told = []
    for row in (row for row in rows if row["attack"] == rows[0]["attack"]):
        worth = [
            f"{plain_name(named(task['task']))} {share(task['utility']['value'])}"
            for task in block["tasks"]
            if task["objective"] == CONSTRAINED and task["beta"] == row["beta"] and _has(task["utility"])
        ]
        told.append(
            f"β {beta_name(row['beta'])}: {share_estimate(row)}" + (f" ({', '.join(worth)})" if worth else "")
        )
    if not told:
        return ""
    on = attack_name(rows[0]["attack"])
    return f"With one β for all positions, harmful replies after {on} (and utility) are: {'; '.join(told)}."


def _has(of: Mapping[str, Any]) -> bool:
    return of.get("value") is not None
