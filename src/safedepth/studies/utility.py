"""What a model is worth on a downstream task (claim C17): one table of scored replies, and its mean.

Utility is an average with an interval, not a rate of harm: a table of its own, beside those of
`replies`. Runs the Inspect task `safedepth/downstream`; the metrics are in `judges.utility`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from inspect_ai.log import EvalSample

from safedepth import tasks
from safedepth.data.downstream import read_task
from safedepth.judges.utility import METRICS, metric_for
from safedepth.studies.replies import run_tasks
from safedepth.studies.summary import mean_of
from safedepth.studies.target import Target, room_for_reply

__all__ = ["COLUMNS", "utility_rate", "utility_table"]

COLUMNS = ("task", "metric", "prompt_id", "value", "scored", "reason", "reply")


def utility_table(
    target: Target,
    data: str | Path,
    logs: Path,
    *,
    metric: str | None = None,
    task: str | None = None,
    split: str = "test",
    config: str | None = None,
    revision: str | None = None,
    skip_empty: bool = False,
    system: bool = True,
    limit: int | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    max_tokens: int | None = None,
    sample_done: Callable[[], None] | None = None,
) -> pd.DataFrame:
    """One row for every request of a downstream task's test rows, in order of `prompt_id`.

    Args:
        target: the model; a local one gets as many new tokens as its context has room for, up to 512.
        data: a file or hub id, read by `data.downstream.read_task` with the arguments of its name.
        logs: folder of Inspect's logs, from which the same call goes on where it was stopped.
        metric: a name of `METRICS`; None is the paper's for a public task.
        temperature: 0 is greedy; the paper has 0.6 with top-p 0.9 and top-k 50.
        sample_done: called after every reply.

    Returns:
        Columns `COLUMNS`: `value` in [0, 1] and missing where `scored` is false, with the `reason`.

    Raises:
        DataError, JudgeError: as `read_task`, and for an answer or a name that gives no metric.
        ModelError: the context is too short.
        RunError: replies could not be had.
    """
    read: dict[str, Any] = {
        "task": task, "split": split, "config": config, "revision": revision, "skip_empty": skip_empty,
        "system": system, "limit": limit,
    }  # fmt: skip
    source = str(Path(data).resolve()) if Path(data).exists() else str(data)
    rows = read_task(source, **read)
    chosen = metric_for(rows.task, metric)
    room = room_for_reply(target, rows.requests, deepest=0, wanted=max_tokens)
    todo = tasks.downstream(
        data=source, metric=chosen.name, seed=seed, temperature=temperature, top_p=top_p, top_k=top_k,
        max_tokens=room, **read,
    )  # fmt: skip
    (log,) = run_tasks([todo], target.model, logs, sample_done=sample_done)
    entries = [_entry(sample, rows.task, chosen.name) for sample in log.samples or []]
    table = pd.DataFrame(entries, columns=list(COLUMNS)).astype({"value": "Float64", "scored": "bool"})
    return table.sort_values("prompt_id", kind="stable", ignore_index=True)


def _entry(sample: EvalSample, task: str, metric: str) -> dict[str, Any]:
    assert sample.scores is not None
    score = sample.scores["utility"]
    value = score.as_float()
    scored = not math.isnan(value)
    return {
        "task": task,
        "metric": metric,
        "prompt_id": sample.metadata["prompt_id"],
        "value": value if scored else pd.NA,
        "scored": scored,
        "reason": "" if scored else str(score.reason or "unscored"),
        "reply": sample.output.completion if sample.output.choices else "",
    }


def utility_rate(table: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """The mean of a `utility_table` as `summary.json` holds it: value, low, high, n, unscored, metric.

    A share (exact match, accuracy) has Wilson's interval; an average (ROUGE-1) a bootstrap over
    requests, drawn from `seed`. With nothing scored value and interval are None.
    """
    (name,) = table["metric"].unique()
    values = table.loc[table["scored"], "value"].to_numpy(dtype=np.float64)
    found = mean_of(values, share=METRICS[name].counts, seed=seed)
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "unscored": len(table) - found.n,
        "metric": name,
    }
