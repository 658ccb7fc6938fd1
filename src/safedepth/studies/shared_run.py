"""A run directory that several processes fill together: the main one owns it, all store pieces.

What is missing is looked up once, by the main process, and dealt; when all are done it
puts the pieces together in order. It refuses to know what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.errors import RunError
from safedepth.runs import Chunks, RunDirectory
from safedepth.runs.chunks import PATIENCE
from safedepth.studies.processes import Processes

__all__ = ["SharedRun", "shared_run"]

Tables = Mapping[str, Sequence[Chunks]]
"""Measurement -> the chunks that it is put together from, in order."""


@dataclass(frozen=True)
class SharedRun:
    """The run in `path`; `directory` is open for writing in the main process and None in the others."""

    path: Path
    processes: Processes
    directory: RunDirectory | None

    def missing(self, tables: Tables) -> list[tuple[str, int]]:
        """(name of the chunks, number) of every piece that is still to be computed; the same in all."""

        def looked_up() -> list[tuple[str, int]]:
            assert self.directory is not None
            return [
                (chunks.name, index)
                for name, parts in tables.items()
                if self.directory.load(name) is None
                for chunks in parts
                for index in chunks.missing()
            ]

        return self.processes.from_main(looked_up)

    def merged(self, tables: Tables) -> dict[str, pd.DataFrame]:
        """Every measurement whole, once all processes are here; empty in any but the main one."""
        self.processes.wait()
        if self.directory is None:
            return {}
        found = {}
        for name, parts in tables.items():
            found[name] = self.directory.measurement(
                name,
                lambda parts=parts: pd.concat([part.merged() for part in parts], ignore_index=True),  # type: ignore[misc]
            )
            for part in parts:
                part.remove()
        return found


@contextmanager
def shared_run(processes: Processes, out: Path, wanted: Mapping[str, Any]) -> Iterator[SharedRun]:
    """The run in `out` with the configuration `wanted`, begun or resumed.

    Raises RunError as `RunDirectory.open`, and where a process does not see the folder of the main one.
    """
    opened: list[RunDirectory] = []

    def begun() -> str:
        opened.append(RunDirectory.open(out, wanted))
        return str(opened[0].begun["created"])

    try:
        created = processes.from_main(begun)
        processes.agreed(lambda: _require_seen(processes, out, created))
        yield SharedRun(out, processes, opened[0] if opened else None)
    finally:
        for run in opened:
            run.close()


def _require_seen(processes: Processes, out: Path, created: str) -> None:
    """Raise RunError unless this process sees the run that the main one opened."""
    end = time.monotonic() + PATIENCE
    while not processes.main:
        try:
            if RunDirectory.read(out).begun["created"] == created:
                return
        except RunError:
            pass
        if time.monotonic() > end:
            raise RunError(
                f"expected {out} to be one folder for all processes, found another or none on this machine. "
                "Choose an --out on a disk that all machines share"
            )
        time.sleep(0.2)
