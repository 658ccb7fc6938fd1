"""Messages, progress, and where they go: what every command prints through."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from safedepth.nouns import Progress

__all__ = [
    "INTERRUPTED",
    "console",
    "escaped",
    "is_main_process",
    "process_of",
    "progress_bars",
    "quiet_libraries",
    "say",
    "speaker",
]

INTERRUPTED = 130
ENDED = 143

KEPT = "What is finished is kept; the same command goes on from there."


class _Ended(KeyboardInterrupt):
    """SIGTERM: by a batch system, or by a launcher one of whose other processes ended."""


@contextmanager
def progress_bars(*, shown: bool = True) -> Iterator[Progress]:
    """A progress bar a kind of work; Ctrl-C or SIGTERM under it ends the command and says how to go on."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _told_to_end(), Bars(*columns, console=console(error=True), disable=not shown) as bars:
        known: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        try:
            yield tell
        except _Ended:
            bars.stop()
            why = " Another process ended before it was done, perhaps." if process_of()[1] > 1 else ""
            say(f"{speaker()}Ended from outside (SIGTERM).{why} {KEPT}", error=True)
            raise typer.Exit(ENDED) from None
        except KeyboardInterrupt:
            bars.stop()
            if shown:
                say(f"Interrupted. {KEPT}", error=True)
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C is taken, once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def process_of() -> tuple[int, int]:
    """Number of this process, from 0, and how many a launcher started together."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process tells of progress and results."""
    return process_of()[0] == 0


def speaker() -> str:
    """Which of several processes is speaking, to put before what it says; empty where it is the main one."""
    rank, count = process_of()
    return f"process {rank} of {count}: " if rank else ""


def quiet_libraries() -> None:
    """Our own progress is enough; libraries keep their warnings and lose their bars."""
    import sys

    from transformers.utils import logging

    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when it is imported
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    logging.disable_progress_bar()


def console(*, error: bool = False) -> Any:
    """Where to print: standard output, or standard error."""
    from rich.console import Console

    return Console(stderr=error)


def say(text: str, *, error: bool = False) -> None:
    """Print one message, with Rich's markup."""
    console(error=error).print(text, soft_wrap=True)


def escaped(text: str) -> str:
    """Text in which nothing is markup."""
    from rich.markup import escape

    return escape(text)
