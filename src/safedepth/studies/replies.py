"""Running Inspect over a model and turning its logs into one table of judged replies.

Inspect keeps the logs, resumes what was interrupted and runs samples side by side;
this module only says what to run and reads what came out.
"""

import asyncio
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from shutil import disk_usage, rmtree
from typing import Any

import pandas as pd
from inspect_ai import Task, eval_set
from inspect_ai.hooks import Hooks, SampleEnd, hooks
from inspect_ai.log import EvalLog, EvalSample, read_eval_log
from inspect_ai.model import Model

from safedepth.errors import ModelError, RunError
from safedepth.judges.judged import verdicts_of
from safedepth.nouns import Progress
from safedepth.provider.api import SafedepthAPI
from safedepth.served.api import ServedAPI

__all__ = ["COLUMNS", "counting", "replies_of", "run_tasks"]

COLUMNS = (
    "model", "attack", "turn", "k", "prefix", "variant", "repeat", "prompt_id", "category", "prompt",
    "forced", "forced_tokens", "continuation", "stop_reason", "judge", "scope", "outcome", "score", "reason",
)  # fmt: skip

FULL_DISK = 2**20
"""Free bytes below which a failure is put down to the disk: Inspect cannot log that it could not log."""

_listeners: list[Callable[[], None]] = []


@cache
def _listen() -> None:
    """Hear of finished samples; asked for late, because Inspect prints the hooks it finds at its start."""

    @hooks(name="safedepth_progress", description="Tells a running study of every finished sample.")
    class SampleCounter(Hooks):
        def enabled(self) -> bool:
            return bool(_listeners)

        async def on_sample_end(self, data: SampleEnd) -> None:
            for listener in _listeners:
                listener()


@contextmanager
def _told(listener: Callable[[], None]) -> Iterator[None]:
    _listen()
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def counting(progress: Progress | None, what: str, tasks: Sequence[Task]) -> Callable[[], None]:
    """What `run_tasks` is to call after every sample of these tasks: tells how many are done."""
    total, done = sum(len(task.dataset) for task in tasks), 0

    def sample_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(what, done, total)

    return sample_done


def run_tasks(
    tasks: Sequence[Task],
    model: Model,
    logs: Path,
    *,
    sample_done: Callable[[], None] | None = None,
    roles: Mapping[str, Model] | None = None,
) -> list[EvalLog]:
    """Run the tasks on the model, resuming what `logs` holds, and return the finished logs.

    `roles` are other models that take part, by Inspect's name of the role ("attacker").

    Raises RunError where samples failed (the model could not be asked, say), and
    KeyboardInterrupt on Ctrl-C; what succeeded is kept, and the same call goes on with
    the rest. Raises RunError, and keeps nothing, where the model behind a server has changed.
    """
    # Inspect's own limit of 20 at first keeps a prompt's depths apart; the engine wants to see them together.
    together = model.api.max_connections()
    ours = isinstance(model.api, SafedepthAPI | ServedAPI)
    with _told(sample_done or (lambda: None)):
        success, found = eval_set(
            list(tasks), str(logs), model=model, display="none", log_level="error", score_display=False,
            retry_attempts=0, retry_immediate=False, continue_on_fail=True, max_samples=together,
            max_tasks=len(tasks), log_buffer=20, log_realtime=False, acp_server=False, ctl_server=False,
            max_connections=together if ours else None, model_roles=dict(roles) if roles else None,
        )  # fmt: skip
    finished = [read_eval_log(log.location) for log in found]
    if len(finished) < len(tasks) or any(log.status == "cancelled" for log in finished):
        raise KeyboardInterrupt  # Inspect takes Ctrl-C for itself, keeps what is done, and returns no logs
    complete = all(
        log.status == "success" and len(log.samples or []) == (log.eval.dataset.samples or 0)
        for log in finished
    )
    if not success or not complete:
        with suppress(ModelError):  # a server that is down cannot be asked whether it changed
            _require_unchanged(model, logs)
        raise RunError(_failure(finished, logs))
    _require_unchanged(model, logs)
    return finished


def _require_unchanged(model: Model, logs: Path) -> None:
    """Ask the servers' canaries again; after a change nobody can tell whose the replies are."""
    if not isinstance(model.api, ServedAPI):
        return
    try:
        asyncio.run(model.api.require_unchanged())
    except RunError:
        rmtree(logs)
        raise


def _failure(logs: Sequence[EvalLog], folder: Path) -> str:
    errors = [sample.error for log in logs for sample in log.samples or [] if sample.error is not None]
    errors += [log.error for log in logs if log.error is not None]
    total = sum(log.eval.dataset.samples or 0 for log in logs)
    done = sum(sample.error is None for log in logs for sample in log.samples or [])
    cause = (
        _words(errors[0].message) if errors else "Inspect ended the evaluation without an error of its own"
    )
    if disk_usage(folder).free < FULL_DISK:
        cause = f"the disk that holds {folder} is full"
    return (
        f"{total - done} of {total} replies could not be had: {cause}\n"
        f"What succeeded is kept in {folder}; the same command goes on with the rest."
    )


def _words(message: str) -> str:
    """What an error says, out of the `Name('words')` that Inspect makes of it."""
    _, opened, rest = message.partition("(")
    try:
        words: object = literal_eval(rest.removesuffix(")")) if opened else message
    except (SyntaxError, ValueError):
        return message
    return words if isinstance(words, str) else message


def replies_of(logs: Sequence[EvalLog], model: str) -> pd.DataFrame:
    """One row for every (reply, judge, scope) of finished logs, in a fixed order; columns are `COLUMNS`."""
    rows = [row for log in logs for sample in log.samples or [] for row in _judged_rows(sample, model)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in ("turn", "k"):
        table[column] = table[column].astype("Int64")
    table["score"] = table["score"].astype("Float64")
    order = ["attack", "prompt_id", "turn", "k", "prefix", "variant", "repeat", "judge", "scope"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def _judged_rows(sample: EvalSample, model: str) -> Iterator[dict[str, Any]]:
    replies = sample.metadata.get("replies")
    said = [_only_reply(sample)] if replies is None else replies
    verdicts = [verdict for score in (sample.scores or {}).values() for verdict in verdicts_of(score)]
    for verdict in verdicts:
        reply = said[verdict.reply]
        yield {
            "model": model,
            "attack": sample.metadata["attack"],
            "turn": reply["turn"],
            "k": reply["k"],
            "prefix": sample.metadata.get("prefix"),
            "variant": reply["variant"],
            "repeat": sample.metadata["repeat"],
            "prompt_id": sample.metadata["prompt_id"],
            "category": sample.metadata["category"],
            "prompt": reply["prompt"],
            "forced": reply["forced"],
            "forced_tokens": reply["forced_tokens"],
            "continuation": reply["continuation"],
            "stop_reason": reply["stop_reason"],
            "judge": verdict.judge,
            "scope": verdict.scope.value,
            "outcome": verdict.outcome.value,
            "score": verdict.score,
            "reason": verdict.reason,
        }


def _only_reply(sample: EvalSample) -> dict[str, Any]:
    """The reply of a sample that has one, as entries of samples with many are written."""
    asked = [message.text for message in sample.messages if message.role == "user"]
    known = {name: sample.metadata.get(name) for name in ("turn", "k", "variant")}
    return known | {
        "prompt": asked[-1] if asked else "",
        "forced": sample.metadata.get("forced", ""),
        "forced_tokens": len(sample.metadata.get("forced_ids", [])),
        "continuation": sample.output.completion if sample.output.choices else "",
        "stop_reason": sample.output.stop_reason if sample.output.choices else "",
    }
