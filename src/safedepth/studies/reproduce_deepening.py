"""The part of a reproduction that deepens: claims C9, C10, C12 and C13 on one seed's organisms.

Trains the aligned organism for recovery, and the control without harmful prefixes, puts
them through the tests that the aligned one goes through, and fine-tunes before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from safedepth import tasks
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.runs.files import read_json
from safedepth.studies import summary
from safedepth.studies.battery import Battery
from safedepth.studies.organism_finetuning import FINETUNED, FineTuning
from safedepth.studies.organism_training import DEEPENED
from safedepth.studies.places import RECORD
from safedepth.studies.replies import replies_of, run_tasks
from safedepth.studies.reproduce_attacks import ATTACKED, Attacked
from safedepth.studies.target import Target, open_target
from safedepth.testbed import Testbed

__all__ = ["Deepening", "finetuning_entries", "measure_deepening", "organism_battery"]

FORCED = (0, 5)
"""Tokens forced when a fine-tuned organism is looked at."""


@dataclass(frozen=True)
class Deepening:
    """One seed's tables: replies of all roles, KL by role, replies after fine-tuning, training, attacks."""

    replies: pd.DataFrame
    kl: Mapping[str, pd.DataFrame]
    finetuned: pd.DataFrame
    training: tuple[dict[str, Any], ...]
    attacked: Mapping[str, Attacked]


def organism_battery(
    testbed: Testbed, *, depths: tuple[int, ...], limit: int, seed: int, **more: Any
) -> Battery:
    """The tests of an organism: prefill, scripted turns, benign requests and look-alikes."""
    usual: dict[str, Any] = {
        "prompts": str(testbed.prompts),
        "depths": depths,
        "judges": ("oracle", "rules"),
        "trajectories": str(testbed.file("dialogues.jsonl")),
        "benign": {name: str(testbed.file(f"{name}.jsonl")) for name in ("benign", "lookalikes")},
        "benign_judges": ("knowledge", "rules"),
        "limit": limit,
        "seed": seed,
        "max_tokens": 160,
    }
    return Battery(**(usual | more))


def measure_deepening(
    run: RunDirectory,
    testbed: Testbed,
    aligned: Target,
    base: Target,
    battery: Battery,
    *,
    finetuned_prompts: int,
    attack: Callable[[Target, str], Attacked],
    progress: Progress | None,
) -> Deepening:
    """Measure what `train_organisms` made. The aligned model's prefill sweep and KL are the caller's.

    `attack` is what every role of `ATTACKED` is put through besides.
    """
    seed = battery.seed
    replies = [
        replace(battery, depths=()).replies(run, "aligned", aligned, name=f"more-{seed}", progress=progress)
    ]
    kl: dict[str, pd.DataFrame] = {}
    attacked = {"aligned": attack(aligned, "aligned")}
    for role in DEEPENED:
        with closing(open_target(str(testbed.organism(role)), device="cpu")) as target:
            replies.append(battery.replies(run, role, target, name=f"{role}-{seed}", progress=progress))
            kl[role] = battery.kl(run, f"{role}-{seed}", target, base)
            if role in ATTACKED:
                attacked[role] = attack(target, role)
    finetuned = run.measurement(
        f"replies-finetuned-{seed}",
        lambda: _finetuned(run, testbed, battery, finetuned_prompts, progress=progress),
    )
    training = tuple(read_json(testbed.organism(role) / RECORD) for role in DEEPENED)
    return Deepening(pd.concat(replies, ignore_index=True), kl, finetuned, training, attacked)


def _finetuned(
    run: RunDirectory, testbed: Testbed, battery: Battery, limit: int, *, progress: Progress | None
) -> pd.DataFrame:
    """Replies at every looked-at step of every fine-tuning, before any step too; columns `data`, `step`."""
    looked = [(todo, step) for todo in FINETUNED for step in (0, *todo.steps)]
    tables = []
    for done, (todo, step) in enumerate(looked, start=1):
        place = _checkpoint(testbed, todo, step)
        logs = run.logs / f"finetuned-{battery.seed}" / f"{todo.name}-{step}"
        task = tasks.prefill(
            prompts=str(Path(battery.prompts).resolve()), depth=list(FORCED), judge=battery.judges[0],
            limit=limit, seed=battery.seed, max_tokens=battery.max_tokens or 160,
        )  # fmt: skip
        with closing(open_target(str(place), device="cpu")) as target:
            found = replies_of(run_tasks([task], target.model, logs), todo.role)
        tables.append(found.assign(data=todo.data, step=step))
        if progress is not None:
            progress("replies after fine-tuning", done, len(looked))
    return pd.concat(tables, ignore_index=True)


def _checkpoint(testbed: Testbed, todo: FineTuning, step: int) -> Path:
    if step == 0:
        return testbed.organism(todo.role)
    return testbed.folder / "finetuned" / todo.name / f"checkpoint-{step}"


def finetuning_entries(verdicts: pd.DataFrame) -> list[dict[str, Any]]:
    """Harmful replies against fine-tuning steps, as the report reads them."""
    entries = []
    for key, group in verdicts.groupby(["model", "data", "step", "k"], sort=True):
        model, data, step, k = cast(tuple[Any, ...], key)
        rate = summary.entry_of(summary.rate_of(group))
        entries.append({"model": model, "data": data, "step": int(step), "k": int(k), **rate})
    return entries
