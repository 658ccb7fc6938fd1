"""What a model is put through before and after training: prefill, turns, benign requests, lm-eval, KL.

One list of tests, run alike on every model that is compared; the tables are the run
directory's, so what is measured once is not measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai import Task

from safedepth import tasks
from safedepth.chat import ChatFormat
from safedepth.data import Source, read_prompts, read_requests, resolved, source_of
from safedepth.errors import DataError
from safedepth.nouns import Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies.divergence import kl_table
from safedepth.studies.harness_rates import folder_sha256, harness_notes, harness_table
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.target import Target, room_for_reply, room_within
from safedepth.utility import Harness, HarnessOptions

__all__ = ["Battery"]


@dataclass(frozen=True)
class Battery:
    """The tests of one comparison. `prompts` have harmful answers; no `depths` means no prefill sweep.

    `worded` are sources of such requests in an attacker's words, by what results call them: nothing is
    forced there. `harness` are the tasks of lm-eval, None for none.
    """

    prompts: str
    depths: tuple[int, ...]
    judges: tuple[str, ...]
    trajectories: str | None = None
    turn_depths: tuple[int, ...] = (0, 5)
    worded: Mapping[str, str] = field(default_factory=dict)
    benign: Mapping[str, str] = field(default_factory=dict)
    benign_judges: tuple[str, ...] = ("rules",)
    harness: HarnessOptions | None = None
    limit: int | None = None
    seed: int = 0
    temperature: float = 0.9
    top_p: float = 0.6
    top_k: int = 50
    max_tokens: int | None = None

    @property
    def files(self) -> dict[str, str]:
        """Name -> source of all that the tests read, the tasks of lm-eval aside."""
        more = {"trajectories": self.trajectories} if self.trajectories else {}
        benign = {f"benign {name}": path for name, path in self.benign.items()}
        return {"prompts": self.prompts, **more, **self.worded, **benign}

    @cached_property
    def _sources(self) -> dict[str, Source]:
        return {name: source_of(spec) for name, spec in self.files.items() if spec}

    @property
    def sources(self) -> dict[str, Any]:
        """Name -> provenance of all that the tests read, as `summary.json` holds it."""
        return {name: source.entry for name, source in self._sources.items()}

    def notes(self, harness: Mapping[str, pd.DataFrame]) -> list[str]:
        """What the reader should know of the sources, and of lm-eval's documents by role."""
        told = [note for source in self._sources.values() for note in source.warnings]
        told += [f"{note[:-1]} ({role})." for role, table in harness.items() for note in harness_notes(table)]
        return list(dict.fromkeys(told))

    @property
    def tasks_sha256(self) -> dict[str, str]:
        """The hash of the user's own folder of lm-eval tasks, by its name in a run's configuration."""
        folder = self.harness.include_path if self.harness else None
        return {"utility tasks": folder_sha256(folder)} if folder and Path(folder).is_dir() else {}

    def check(self) -> None:
        """Read every source once, and find lm-eval's tasks.

        Raises DataError for what cannot be used, also where answers are missing; and as `Harness.of`.
        """
        for path, depths in self._attacked:
            if not any(prompt.harmful for prompt in read_prompts(path, limit=self.limit)) and max(depths):
                raise DataError(
                    f"expected harmful answers beside the prompts of {path}, found none: nothing can be "
                    "forced without them. Add them, or force nothing (--depths 0, --turn_depths 0)"
                )
        for path in (*self.worded.values(), *self.benign.values()):
            read_requests(path, limit=self.limit)
        if self.harness is not None:
            Harness.of(self.harness)

    def require_room(self, name: str, chat: ChatFormat, limit: int | None) -> None:
        """Raise ModelError unless every reply of the model `name` fits its context of `limit` tokens."""
        for path, depths in self._attacked:
            prompts = read_prompts(path, limit=self.limit)
            room_within(limit, name, chat, prompts, deepest=max(depths), wanted=self.max_tokens)
        for path in (*self.worded.values(), *self.benign.values()):
            asked = read_requests(path, limit=self.limit)
            room_within(limit, name, chat, asked, deepest=0, wanted=self.max_tokens)

    @property
    def _attacked(self) -> list[tuple[str, tuple[int, ...]]]:
        """The files whose prompts have harmful answers, with the depths to force."""
        more = [(self.trajectories, self.turn_depths)] if self.trajectories else []
        return [(path, depths) for path, depths in [(self.prompts, self.depths), *more] if depths]

    def replies(
        self,
        run: RunDirectory,
        role: str,
        target: Target,
        *,
        name: str = "",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Every judged reply of `target` under all tests, the table `replies-<name or role>` of the run."""
        name = name or role
        return run.measurement(
            f"replies-{name}", lambda: self.judged(role, target, run.logs / name, progress=progress)
        )

    def judged(
        self, role: str, target: Target, logs: Path, *, progress: Progress | None = None
    ) -> pd.DataFrame:
        """The same, Inspect's logs in the folder `logs`, and no table kept."""
        todo = self._tasks(target)
        told = counting(progress, f"tests of the {role} model", todo)
        return replies_of(run_tasks(todo, target.model, logs, sample_done=told) if todo else [], role)

    def documents(
        self, run: RunDirectory, role: str, target: Target, *, progress: Progress | None = None
    ) -> pd.DataFrame | None:
        """lm-eval's documents as `target` answers them, each task a table of the run; None without tasks.

        Raises as `Harness.of` and `Harness.table`.
        """
        if self.harness is None or target.loaded is None:
            return None
        return harness_table(run, role, target.loaded, Harness.of(self.harness), progress=progress)

    def kl(
        self, run: RunDirectory, name: str, target: Target, base: Target, *, progress: Progress | None = None
    ) -> pd.DataFrame:
        """KL(target || base) along the prompts' harmful answers, as the table `kl-<name>` of the run."""
        assert target.loaded is not None
        assert base.loaded is not None
        p, q = target.loaded, base.loaded
        prompts = read_prompts(self.prompts, limit=self.limit)
        return run.measurement(f"kl-{name}", lambda: kl_table(p, q, prompts, progress=progress))

    def _tasks(self, target: Target) -> list[Task]:
        decoding: dict[str, Any] = {
            "limit": self.limit, "seed": self.seed, "top_p": self.top_p, "top_k": self.top_k,
            "temperature": self.temperature,
        }  # fmt: skip
        todo: list[Task] = []
        for make, path, depths in (
            (tasks.prefill, self.prompts, self.depths),
            (tasks.multi_turn, self.trajectories, self.turn_depths),
        ):
            if path and depths:
                room = self._room(target, read_prompts(path, limit=self.limit), max(depths))
                todo.append(
                    make(
                        prompts=resolved(path), depth=list(depths), judge=list(self.judges),
                        max_tokens=room, **decoding,
                    )
                )  # fmt: skip
        greedy = decoding | {"temperature": 0.0}
        for files, judges, how in (
            (self.worded, self.judges, decoding),
            (self.benign, self.benign_judges, greedy),
        ):
            for name, path in files.items():
                room = self._room(target, read_requests(path, limit=self.limit), 0)
                todo.append(
                    tasks.benign(
                        prompts=resolved(path),
                        name=name,
                        judge=list(judges),
                        max_tokens=room,
                        **how,
                    )
                )
        return todo

    def _room(self, target: Target, prompts: Sequence[Prompt], deepest: int) -> int:
        return room_for_reply(target, prompts, deepest=deepest, wanted=self.max_tokens)
