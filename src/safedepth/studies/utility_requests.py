"""Requests that a model should answer, and some that it should not: what it refuses of each and each type.

XSTest has both: safe prompts that look unsafe, by type, and unsafe ones beside them. A refusal of
the first is over-refusal, a refusal of the second is what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from inspect_ai import Task

from safedepth import tasks
from safedepth.data import read_prompts, read_requests, resolved
from safedepth.errors import DataError
from safedepth.judges.utility import metric_for, require_comparable
from safedepth.nouns import Outcome, Progress, Prompt, Scope
from safedepth.runs import RunDirectory
from safedepth.studies.deepening import OVER_REFUSAL, RIGHT, benign_measure, share_of
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.target import Target, room_for_reply
from safedepth.studies.utility import utility_rate

__all__ = ["REFUSALS", "SAFE", "UNSAFE", "Requests", "answer_entries", "request_entries", "type_entries"]

SAFE, UNSAFE = "XSTest, safe prompts", "XSTest, unsafe prompts"
REFUSALS = "refusals of unsafe requests"


@dataclass(frozen=True)
class Requests:
    """Sets of benign requests by name, and XSTest's; all decoded greedily, nothing forced.

    `judges` are of benign replies, rules among them; XSTest is judged by rules alone. With `metric`, a
    name of `judges.utility.METRICS`, benign replies are also compared with the answers beside them.
    """

    benign: Mapping[str, str]
    xstest: str | None
    judges: tuple[str, ...]
    metric: str | None
    limit: int | None
    seed: int
    max_tokens: int | None

    @property
    def sources(self) -> dict[str, str]:
        """Name -> source of all that is asked."""
        return {**self.benign, **({"XSTest": self.xstest} if self.xstest else {})}

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of all sets, in their order."""
        return (*self.benign, *((SAFE, UNSAFE) if self.xstest else ()))

    def check(self) -> None:
        """Read every source once. Raises DataError for what cannot be used, JudgeError as `metric_for`."""
        for name, prompts in self._prompts().items():
            if not prompts:
                raise DataError(f"expected prompts for {name!r}, found none")
            if self.metric is not None and name in self.benign:
                require_comparable(metric_for("", self.metric), prompts)

    def require_room(self, target: Target) -> None:
        """Raise ModelError where a local model's context is too short for a prompt."""
        for prompts in self._prompts().values():
            self._room(target, prompts)

    def replies(
        self, run: RunDirectory, target: Target, role: str, *, progress: Progress | None = None
    ) -> pd.DataFrame:
        """Every judged reply; `attack` is the name of the set, that of XSTest's unsafe prompts too."""
        todo = self._tasks(target)
        told = counting(progress, "requests", todo)
        table = replies_of(run_tasks(todo, target.model, run.logs / "requests", sample_done=told), role)
        return table.assign(attack=table["attack"].replace({"prefill": UNSAFE}))

    def _prompts(self) -> dict[str, list[Prompt]]:
        asked = {name: read_requests(spec, limit=self.limit) for name, spec in self.benign.items()}
        if self.xstest is not None:
            asked |= {SAFE: read_requests(self.xstest, limit=self.limit)}
            asked |= {UNSAFE: read_prompts(self.xstest, limit=self.limit)}
        return asked

    def _tasks(self, target: Target) -> list[Task]:
        prompts = self._prompts()
        common: dict[str, Any] = {"limit": self.limit, "seed": self.seed, "temperature": 0.0}
        sets = [(name, spec, self.judges) for name, spec in self.benign.items()]
        if self.xstest is not None:
            sets.append((SAFE, self.xstest, ("rules",)))
        todo = [
            tasks.benign(
                prompts=resolved(spec), name=name, judge=list(judges),
                max_tokens=self._room(target, prompts[name]), **common,
            )
            for name, spec, judges in sets
        ]  # fmt: skip
        if self.xstest is not None:
            room = self._room(target, prompts[UNSAFE])
            todo.append(
                tasks.prefill(
                    prompts=resolved(self.xstest), depth=0, judge=["rules"], max_tokens=room, **common
                )
            )
        return todo

    def _room(self, target: Target, prompts: Sequence[Prompt]) -> int:
        return room_for_reply(target, prompts, deepest=0, wanted=self.max_tokens)


def _measure(name: str, judge: str) -> tuple[str, Outcome]:
    """What a judge's verdicts on a set say, and which outcome its share counts."""
    if name == UNSAFE:
        return REFUSALS, Outcome.REFUSED
    measure = OVER_REFUSAL if name == SAFE else benign_measure(judge)
    return measure, Outcome.REFUSED if measure == OVER_REFUSAL else Outcome.COMPLIED


def request_entries(requests: Requests, replies: pd.DataFrame, *, model: str) -> list[dict[str, Any]]:
    """One entry for every (set, judge), as `summary.json` holds them."""
    entries = []
    for name in requests.sets:
        for judge, group in _told(replies, name).groupby("judge", sort=False):
            measure, event = _measure(name, str(judge))
            entries.append(
                {"model": model, "set": name, "measure": measure, "judge": judge} | share_of(group, event)
            )
    return entries


def answer_entries(
    requests: Requests, replies: pd.DataFrame, *, model: str, seed: int
) -> list[dict[str, Any]]:
    """How near the replies to benign requests come to the answers beside them, by the metric."""
    if requests.metric is None:
        return []
    metric = metric_for("", requests.metric)
    entries = []
    for name, spec in requests.benign.items():
        answers = {p.id: p.answer or "" for p in read_requests(spec, limit=requests.limit)}
        mine = _told(replies, name)
        mine = mine[mine["judge"] == "rules"]
        said = [*zip(mine["prompt_id"], mine["continuation"].astype(str), strict=True)]
        values = [metric.value(reply, answers[key]) if reply.strip() else None for key, reply in said]
        table = pd.DataFrame({"metric": metric.name, "value": pd.array(values, dtype="Float64")})
        rate = utility_rate(table.assign(scored=table["value"].notna()), seed=seed)
        found = {key: rate[key] for key in ("value", "low", "high", "n", "unscored")}
        entries.append({"model": model, "set": name, "measure": RIGHT, "judge": metric.name} | found)
    return entries


def type_entries(requests: Requests, replies: pd.DataFrame, *, model: str) -> list[dict[str, Any]]:
    """The same by type of prompt, for the sets whose prompts have types, by rules."""
    entries = []
    for name in requests.sets:
        told = _told(replies, name)
        told = told[(told["judge"] == "rules") & (told["category"] != "")]
        measure, event = _measure(name, "rules")
        for kind, group in told.groupby("category"):
            entries.append(
                {"model": model, "set": name, "type": kind, "measure": measure} | share_of(group, event)
            )
    return entries


def _told(replies: pd.DataFrame, name: str) -> pd.DataFrame:
    """The verdicts on the continuations of one set."""
    return replies[(replies["attack"] == name) & (replies["scope"] == Scope.CONTINUATION.value)]
