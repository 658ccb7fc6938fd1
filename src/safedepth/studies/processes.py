"""Several processes at one study: who this one is, which GPU is its own, and how they agree.

`accelerate launch` and `torchrun` start them, torch.distributed connects them. Work is
dealt in pieces that do not depend on how many there are (`runs.Chunks`); here they only
tell each other what the main one found, and that all are done. A process that dies is
noticed at once, because its connections close; the others end, and say so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from torch import distributed

from safedepth.errors import DataError, RunError, SafedepthError

__all__ = ["Processes", "dealt", "several_processes"]

T = TypeVar("T")

WAIT = timedelta(hours=1)
"""How long one process waits for another that is alive and has more to do."""

TRAINING = timedelta(minutes=20)
"""How long a collective operation of a training may take, the loading of a large model among them."""

USER_ERROR = 2

LEFT = (
    "Another process ended before its work was done, so this one ends too; the message of that one says why. "
    "What is finished is kept: the same command goes on from there, with any number of processes."
)


@dataclass(frozen=True)
class Processes:
    """This process among `count`; `rank` 0 is the main one, `local` its number on this machine."""

    rank: int = 0
    count: int = 1
    local: int = 0
    group: Any = None

    @property
    def main(self) -> bool:
        """Whether this is the one that owns the run directory, and tells of results."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """Where this process computes: on its own GPU, unless the processor was asked for.

        Raises DataError where one GPU was named for all.
        """
        if self.count == 1 or asked == "cpu":
            return asked
        if asked not in ("auto", "cuda"):
            raise DataError(
                f"expected --device auto, cuda or cpu for {self.count} processes, found {asked!r}: each "
                "takes a GPU of its own"
            )
        if asked == "auto" and not torch.cuda.is_available():
            return "cpu"
        return f"cuda:{self.local}"

    def from_main(self, action: Callable[[], T]) -> T:
        """What `action` gives in the main process, in every process.

        Its SafedepthError is raised there; the others end without a word (SystemExit).
        """
        found: T = self._told(action if self.main else None)[0]
        return found

    def agreed(self, action: Callable[[], T]) -> T:
        """What `action` gives in each process, once it has given something in all of them.

        A SafedepthError of any is raised in the main one; the others end without a word (SystemExit).
        """
        found: T = self._told(action)[self.rank]
        return found

    def wait(self) -> None:
        """Wait until all are here. Raises RunError where one has ended."""
        self._told(None)

    def _told(self, action: Callable[[], T] | None) -> list[Any]:
        """What the action gave in every process, None where there was none; errors as `agreed` says."""
        value, error = None, None
        try:
            value = action() if action is not None else None
        except SafedepthError as raised:
            if self.count == 1:
                raise
            error = raised
        if self.count == 1:
            return [value]
        found = self._exchanged((value, None if error is None else str(error)))
        failed = [(rank, message) for rank, (_, message) in enumerate(found) if message is not None]
        if failed:
            if not self.main:
                self._wait_for_the_end()
                raise SystemExit(USER_ERROR)
            rank, message = failed[0]
            raise error or RunError(f"process {rank} of {self.count}: {message}")
        return [value for value, _ in found]

    def _exchanged(self, own: Any) -> list[Any]:
        found: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(found, own, group=self.group)
        except RuntimeError as error:  # gloo's, whose connection to another process is closed
            raise RunError(LEFT) from error
        return found

    def _wait_for_the_end(self) -> None:
        """Let the main process say what is wrong: whoever ends first makes the launcher stop the others."""
        try:
            distributed.barrier(group=self.group)
        except RuntimeError:
            return

    @classmethod
    @contextmanager
    def joined(cls, *, device: str) -> Iterator[Processes]:
        """The processes that a launcher started, connected; a single one where none did.

        `device` "cpu" keeps GPUs out of it.
        """
        if not several_processes():
            yield cls()
            return
        PartialState(cpu=device == "cpu", timeout=TRAINING)
        group = distributed.new_group(backend="gloo", timeout=WAIT)
        local = int(os.environ.get("LOCAL_RANK", "0"))
        yield cls(distributed.get_rank(), distributed.get_world_size(), local, group)
        distributed.destroy_process_group()  # not after an error: the others may be gone


def several_processes() -> bool:
    """Whether a launcher started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def dealt(work: Sequence[T], processes: Processes) -> list[T]:
    """This process's share of the work: a stretch of it, so that what lies together stays together."""
    start, end = (len(work) * rank // processes.count for rank in (processes.rank, processes.rank + 1))
    return list(work[start:end])
