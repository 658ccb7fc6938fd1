"""`Chunks`: a measurement in pieces, each stored when it is done, so that many processes can share the work.

    chunks/NAME/00003-of-00012.parquet

A piece is whole or absent. What a piece holds must not depend on who computes it: then
the table of all pieces in order is the same for any number of processes, and a run that
was killed goes on from the pieces that are there. Needs no lock: no two processes are
given the same piece.
"""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from safedepth.errors import RunError
from safedepth.runs.files import (
    RESUME,
    explained,
    read_table,
    to_parquet,
    write_atomically,
)

if TYPE_CHECKING:
    import pandas as pd

    from safedepth.runs.files import Table

__all__ = ["Chunks"]

FOLDER = "chunks"

PATIENCE = 60.0
"""Seconds until a file that another machine wrote must be seen here: network file systems take some."""


class Chunks:
    """The `count` pieces, numbered from 0, of the measurement `name` of the run in `folder`."""

    def __init__(self, folder: Path, name: str, count: int) -> None:
        self.name = name
        self.folder = folder / FOLDER / name
        self.count = count

    def missing(self) -> list[int]:
        """Numbers of the pieces that are still to be computed; a damaged one is among them."""
        return [index for index in range(self.count) if self._read(index) is None]

    def stored(self) -> int:
        """How many pieces are there."""
        return sum(1 for _ in self.folder.glob(f"*-of-{self.count:05}.parquet"))

    def store(self, index: int, table: Table) -> None:
        """Keep one piece. Raises RunError where it cannot be written."""
        if not 0 <= index < self.count:
            raise ValueError(f"expected a piece from 0 to {self.count - 1}, found {index}")
        data = to_parquet(table)
        with explained(self.folder, "create"):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(index), data)

    def merged(self, *, patience: float = PATIENCE) -> pd.DataFrame:
        """All pieces in order as one table.

        Raises RunError where one is not seen within `patience` seconds: the processes write to
        different disks, or it was deleted.
        """
        import pandas as pd

        end = time.monotonic() + patience
        pieces = []
        for index in range(self.count):
            while (piece := self._read(index)) is None:
                if time.monotonic() > end:
                    raise RunError(
                        f"Expected {self._path(index)}, which another process wrote, found no whole table "
                        f"there after {patience:g} s. Choose an --out that all machines share. {RESUME}"
                    )
                time.sleep(0.2)
            pieces.append(piece)
        return pd.concat(pieces, ignore_index=True)

    def remove(self) -> None:
        """Delete the pieces: the merged table is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05}-of-{self.count:05}.parquet"

    def _read(self, index: int) -> pd.DataFrame | None:
        path = self._path(index)
        told = "{} is damaged ({}); it is computed again"
        return read_table(path, lambda error: warnings.warn(told.format(path, error), stacklevel=5))
