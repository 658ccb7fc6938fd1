"""The part of a reproduction that attacks without forcing: suffixes and decoding (claims C5, C6, C11).

The aligned and the deepened organism are attacked alike. Suffixes are searched with a small
budget, which is enough for models this small; what counts is what the attack `suffix` gets
afterwards, not what the search believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth import tasks
from safedepth.data import read_prompts
from safedepth.data.suffixes import suffixes_text
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.runs.files import write_atomically
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.suffix_search import Suffixes, SuffixOptions, search_suffixes
from safedepth.studies.target import Target

__all__ = ["ATTACKED", "SUFFIX", "Attacked", "attack_organism", "together"]

ATTACKED = ("aligned", "deepened")
"""The roles that are attacked."""

SUFFIX = SuffixOptions(steps=10, width=64, topk=64, check_every=5, tokens=8, target_tokens=6, merges=7)
"""The search on organisms: the suffixes that break them are mostly found in the first five steps."""


@dataclass(frozen=True)
class Attacked:
    """One seed's tables of one role: judged replies, losses by step, and how each search ended."""

    replies: pd.DataFrame
    losses: pd.DataFrame
    searches: pd.DataFrame

    @property
    def found(self) -> Suffixes:
        """The searches as the report's block takes them."""
        return Suffixes((), self.losses, self.searches)


def attack_organism(
    run: RunDirectory,
    target: Target,
    role: str,
    prompts: Path,
    *,
    seed: int,
    searched: int,
    decoded: int,
    judges: tuple[str, ...],
    max_tokens: int,
    progress: Progress | None,
) -> Attacked:
    """Search suffixes for the first `searched` prompts, and decode the first `decoded` under 49 settings.

    What the run holds already is not done again.
    """
    folder = run.path / "search" / f"{role}-{seed}"

    @cache
    def found() -> Suffixes:
        asked = read_prompts(prompts, limit=searched)
        suffixes = search_suffixes(
            target, asked, SUFFIX, judge=judges[0], seed=seed, folder=folder, progress=progress
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "suffixes.jsonl", suffixes_text(suffixes.suffixes).encode())
        return suffixes

    losses = run.measurement(f"losses-{role}-{seed}", lambda: found().losses)
    searches = run.measurement(f"searches-{role}-{seed}", lambda: found().searches)

    def asked() -> pd.DataFrame:
        common: dict[str, Any] = {
            "prompts": str(prompts.resolve()), "judge": list(judges), "seed": seed, "max_tokens": max_tokens,
        }  # fmt: skip
        todo = [
            tasks.suffix(suffixes=str((folder / "suffixes.jsonl").resolve()), limit=searched, **common),
            tasks.decoding(limit=decoded, **common),
        ]
        told = counting(progress, f"attacks on the {role} model", todo)
        logs = run_tasks(todo, target.model, run.logs / f"attacks-{seed}" / role, sample_done=told)
        return replies_of(logs, role)

    return Attacked(run.measurement(f"replies-attacks-{role}-{seed}", asked), losses, searches)


def together(attacked: Mapping[int, Attacked]) -> Attacked:
    """All seeds of one role: replies with a column `seed`, searches and losses by prompt and seed."""

    def stacked(name: str) -> pd.DataFrame:
        tables: list[pd.DataFrame] = [getattr(one, name).assign(seed=s) for s, one in attacked.items()]
        return pd.concat(tables, ignore_index=True)

    losses, searches = stacked("losses"), stacked("searches")
    if len(attacked) > 1:
        losses["lane"] = losses["lane"] + "/" + losses["seed"].astype(str)
        searches["prompt_id"] = searches["prompt_id"] + "/" + searches["seed"].astype(str)
    return Attacked(stacked("replies"), losses.drop(columns="seed"), searches.drop(columns="seed"))
