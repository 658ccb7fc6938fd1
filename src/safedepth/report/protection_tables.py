"""The tables of constrained fine-tuning: runs, tasks, schedules of beta, diagnostics, the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safedepth.report.objectives import (
    CONSTRAINED,
    attack_name,
    beta_words,
    is_uniform,
    last_steps,
    objective_name,
    positions_name,
)
from safedepth.report.protection_figures import DIAGNOSED
from safedepth.report.shapes import pairs
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.words import MISSING, count, how_many, named, number, plain_name, share_estimate

__all__ = ["betas", "diagnostics", "facts", "runs", "tasks"]


def runs(block: Record) -> Table:
    """Every run with its objective, beta, warm-up and steps."""
    rows = [
        [
            attack_name(row["attack"]),
            *_setting(row),
            how_many(row["step"]),
            share_estimate(row),
            how_many(row["n"]),
            how_many(row["unscored"]),
        ]
        for row in block["runs"]
    ]
    head = ["fine-tuned on", "objective", "β", "warm-up", "step", "harmful", "n", "unscored"]
    return Table(f"All {count(len(rows), 'run')}", head, rows, words=4)


def tasks(block: Record) -> Table:
    """Every task with its utility and the harmful replies after it."""
    rows = [
        [
            plain_name(named(row["task"])),
            named(row["start"]),
            *_setting(row),
            plain_name(named(row["metric"])),
            share_estimate(row["utility"]),
            share_estimate(row["asr"]),
        ]
        for row in block["tasks"]
    ]
    head = ["task", "start", "objective", "β", "warm-up", "metric", "utility", "harmful"]
    return Table("The tasks as numbers", head, rows, words=6)


def betas(block: Record) -> Table:
    """Harmful replies and utility of the constrained objective under every schedule of beta (claim C18).

    No rows where there is no schedule with one beta for all positions.
    """
    mine = [row for row in block["runs"] if row["objective"] == CONSTRAINED and row["beta"] is not None]
    done = last_steps(mine, by=("attack", "beta", "warmup"))
    used = [row for row in block["tasks"] if row["objective"] == CONSTRAINED and row["beta"] is not None]
    names = list(dict.fromkeys(str(row["beta"]) for row in (*mine, *used)))
    uniform = [name for name in names if is_uniform(name, block["betas"])]
    # Only what was measured under one beta for all positions can be compared.
    attacks = list(dict.fromkeys(row["attack"] for row in done if str(row["beta"]) in uniform))
    benign = list(dict.fromkeys(row["task"] for row in used if str(row["beta"]) in uniform))
    rows = []
    for name in names if uniform else ():
        harm = [share_estimate(_of(done, name, attack=attack)) for attack in attacks]
        worth = [share_estimate(_of(used, name, task=task).get("utility") or {}) for task in benign]
        table = block["betas"].get(name) or []
        told = beta_words(table) if name in uniform and table else name
        told += f": {beta_words(table)}" if table and name not in uniform else ""
        rows.append([told, *harm, *worth])
    head = ["β", *(f"harmful replies, {attack_name(attack)}" for attack in attacks)]
    head += [f"utility, {plain_name(named(task))}" for task in benign]
    return Table("Safety and utility by schedule", head, rows, open=True)


def _of(rows: Sequence[Record], beta: str, **fields: Any) -> Record:
    """The row of this schedule, with warm-up where there is one with and one without."""
    found = [
        row for row in rows
        if str(row["beta"]) == beta and all(row[key] == value for key, value in fields.items())
    ]  # fmt: skip
    return max(found, key=lambda row: bool(row["warmup"]), default={})


def facts(block: Record) -> Table:
    """How the model was trained: the record's own facts, else its entries that are plain values."""
    record = block["training"]
    told = [[named(name), named(value)] for name, value in pairs(record.get("facts"))]
    if not told:
        told = [
            [plain_name(str(key)), str(value)]
            for key, value in record.items()
            if isinstance(value, str | int | float)
        ]
    first = [["objective", objective_name(block["objective"])]] if block["objective"] else []
    first += [["β", beta_words(block["beta"])]] if block["beta"] else []
    known = {name for name, _ in told}
    rows = [*(fact for fact in first if fact[0] not in known), *told]
    return Table("The training", ["", "value"], rows, words=2, open=True)


def diagnostics(rows: Sequence[Record], run: str) -> Table:
    """Every logged step and group of positions."""
    told = [
        [
            how_many(row["step"]),
            positions_name(row["position"], row["last"]),
            *(number(row[measure]) for measure in DIAGNOSED),
            how_many(row["n"]),
        ]
        for row in rows
    ]
    head = ["step", "tokens", *(heading.lower() for heading, _, _ in DIAGNOSED.values()), "tokens counted"]
    return Table("Diagnostics as numbers" + (f": {run}" if run else ""), head, told, words=0)


def _setting(row: Record) -> list[str]:
    """Objective, beta and warm-up of a run or a task in words."""
    warm = MISSING if row["warmup"] is None else _warm(row["warmup"])
    return [objective_name(row["objective"]), named(row["beta"]), warm]


def _warm(steps: Any) -> str:
    if isinstance(steps, bool):
        return "yes" if steps else "no"
    return count(int(steps), "step") if steps else "none"
