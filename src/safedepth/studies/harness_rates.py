"""lm-eval's tables in a run: measured once a task, and each number with its interval.

The tables are `utility.harness`'s, one row a document; a share has Wilson's interval, every other
average a bootstrap over documents.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from safedepth.data import files_sha256
from safedepth.measure.statistics import bootstrap
from safedepth.models import LoadedModel
from safedepth.nouns import Estimate, Progress
from safedepth.runs import RunDirectory
from safedepth.studies.summary import mean_of
from safedepth.utility import Harness

__all__ = [
    "folder_sha256",
    "harness_entries",
    "harness_notes",
    "harness_table",
    "measure_name",
    "measures_of",
]

KEYS = ["task", "metric", "filter"]
JUDGE = "lm-eval"


def harness_table(
    run: RunDirectory, role: str, loaded: LoadedModel, harness: Harness, *, progress: Progress | None = None
) -> pd.DataFrame:
    """All documents of all tasks for one model: each task is a table of the run, and measured once.

    Columns are those of `utility.COLUMNS`. Raises as `Harness.table`.
    """
    tables = [
        run.measurement(
            f"harness-{role}-{_slug(task)}",
            lambda task=task: harness.table(loaded, task, progress=progress),  # type: ignore[misc]
        )
        for task in harness.options.tasks
    ]
    return pd.concat(tables, ignore_index=True)


def _slug(task: str) -> str:
    """A task's name as a table's: what cannot stand in one makes way for a hash."""
    plain = re.sub(r"[^a-z0-9_-]", "-", task.lower())
    return plain if plain == task else f"{plain}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


def folder_sha256(folder: str | Path) -> str:
    """The hash of a folder of tasks: of the sorted names and hashes of its files."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return files_sha256({path.relative_to(folder).as_posix(): path for path in files})


def measures_of(table: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Every (task, metric, filter) of a table with its rows, in the order they came."""
    for values, rows in table.groupby(KEYS, sort=False):
        yield dict(zip(KEYS, cast(tuple[str, ...], values), strict=True)), rows


def measure_name(named: Mapping[str, str]) -> str:
    """A metric with the filter that found the answer, where one was chosen."""
    chosen = named["filter"]
    return named["metric"] if chosen in ("none", "") else f"{named['metric']} ({chosen})"


def harness_entries(table: pd.DataFrame, *, model: str, seed: int) -> list[dict[str, Any]]:
    """One entry for every (task, metric, filter), as `summary.json` holds them.

    A number that is no average over documents stands without an interval, and its `n` is 0.
    """
    entries = []
    for named, rows in measures_of(table):
        found = estimate_of(rows, seed=seed)
        first = rows.iloc[0]
        entries.append(
            {
                "model": model, "task": named["task"], "metric": measure_name(named),
                "higher_is_better": bool(first["higher_is_better"]), "value": found.value, "low": found.low,
                "high": found.high, "n": found.n, "unscored": 0, "few_shot": int(rows["few_shot"].max()),
                "version": str(first["version"]),
            }
        )  # fmt: skip
    return entries


def estimate_of(rows: pd.DataFrame, *, seed: int) -> Estimate:
    """lm-eval's number for the rows of one (task, metric, filter), with a 95 % interval over documents."""
    documents = rows[rows["doc_id"].notna()]
    if documents.empty:
        value = rows["value"].iloc[0]
        return Estimate(None if pd.isna(value) else float(value), None, None, 0)
    values = documents["value"].to_numpy(dtype=np.float64)
    weights = documents["weight"].to_numpy(dtype=np.float64)
    n = len(values)
    if np.allclose(weights, 1 / n) and np.isin(values, (0.0, 1.0)).all():
        return mean_of(values, share=True, seed=seed)
    value = float(values @ weights / weights.sum())  # the weights sum to 1, but for rounding
    both = np.stack([values * weights, weights], axis=1)
    found = bootstrap(both, lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()), seed=seed)
    return Estimate(value, found.low, found.high, n)


def harness_notes(table: pd.DataFrame) -> list[str]:
    """What the reader should know of how the numbers came about."""
    notes = []
    for task, rows in table.groupby("task", sort=False):
        notes += [f"lm-eval, {task}: {note}." for note in dict.fromkeys(rows["note"]) if note]
        bare = dict.fromkeys(rows.loc[rows["doc_id"].isna(), "metric"])
        if bare:
            notes.append(
                f"lm-eval, {task}: {', '.join(bare)} is no average over documents; it has no interval."
            )
    return notes
