"""Messages, progress, and where they go: what every command prints through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from safedepth.nouns import Progress

__all__ = ["INTERRUPTED", "console", "escaped", "progress_bars", "quiet_libraries", "say"]

INTERRUPTED = 130


@contextmanager
def progress_bars(*, shown: bool = True) -> Iterator[Progress]:
    """A progress bar a kind of work; Ctrl-C under it ends the command and says how to go on."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console(error=True), disable=not shown) as bars:
        known: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        try:
            yield tell
        except KeyboardInterrupt:
            bars.stop()
            say("Interrupted. What is finished is kept; the same command goes on from there.", error=True)
            raise typer.Exit(INTERRUPTED) from None


def quiet_libraries() -> None:
    """Our own progress is enough; libraries keep their warnings and lose their bars."""
    import os
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
