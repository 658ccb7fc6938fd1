"""`RunDirectory`: begin, resume, look at and finish one run on disk.

Knows which files a run has and in which order they may appear; refuses to know
what the tables and the summary mean.
"""

from __future__ import annotations

import json
import platform
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from safedepth.errors import RunError
from safedepth.runs.files import (
    RESUME,
    DamagedTableError,
    explained,
    fingerprint,
    is_temporary,
    read_json,
    read_table,
    to_json,
    to_parquet,
    write_atomically,
)
from safedepth.runs.lock import LOCK, acquire
from safedepth.runs.record import difference, now, versions

if TYPE_CHECKING:
    import pandas as pd

    from safedepth.runs.files import Table

__all__ = ["RunDirectory"]

CONFIG, RUN, SUMMARY, MANIFEST = "config.json", "run.json", "summary.json", "manifest.json"


class RunDirectory:
    """One run on disk. `open` it to write (one process at a time), `read` it to look.

    An opened run holds a lock until `close`, or until its process ends however it
    ends; use it as a context manager. `path` is the folder, `config` the full
    configuration as JSON holds it.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], lock: IO[str] | None) -> None:
        """For `open` and `read` alone; `lock` is None where the run is only looked at."""
        self.path = path
        self.config = config
        self._lock = lock

    @classmethod
    def open(cls, path: Path | str, config: Mapping[str, Any]) -> Self:
        """Create the run, or resume it where `config` is the one it was begun with.

        Raises:
            RunError: the folder cannot be written, is not a run, belongs to another
                configuration, or is being written by another process.
        """
        path = Path(path)
        wanted = json.loads(to_json(config))
        with explained(path, "create the run folder"):
            path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign_folder(path)
            lock = acquire(path)
        try:
            _begin_or_resume(path, wanted)
        except BaseException:
            lock.close()
            raise
        return cls(path, wanted, lock)

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Open a run for looking only, finished or not; results cannot be written.

        Raises:
            RunError: there is no such folder, or it holds no run.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"Expected the folder of a run, found no folder at {path}. Check the path.")
        if not (path / CONFIG).is_file():
            raise RunError(
                f"{path} is not a run: it holds no {CONFIG}. Expected a folder that "
                "'safedepth audit' or 'safedepth reproduce' wrote with --out."
            )
        return cls(path, read_json(path / CONFIG), lock=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock; what was stored stays."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def logs(self) -> Path:
        """Where Inspect's logs go."""
        return self.path / "logs"

    @property
    def is_finished(self) -> bool:
        """True once `finish` has written the manifest, which it does last."""
        return (self.path / MANIFEST).is_file()

    @property
    def begun(self) -> dict[str, Any]:
        """`created` (ISO 8601, UTC) and `versions` of the day the run was begun."""
        return read_json(self.path / RUN)

    def has(self, name: str) -> bool:
        """Whether a file of the measurement `name` is stored."""
        return self._table(name).is_file()

    def measurement(self, name: str, compute: Callable[[], Table]) -> pd.DataFrame:
        """The stored table `name`; where there is none, `compute` it and store it first.

        What is returned was read back from disk in either case, so an interrupted run
        continues with exactly the values an uninterrupted one would have. A damaged
        file is set aside with a warning and computed again.

        Raises:
            RunError: the table cannot be written, or the run was opened with `read`.
        """
        stored = self.load(name)
        if stored is None:
            table = to_parquet(compute())
            self._before_writing()
            write_atomically(self._table(name), table)
            stored = self.load(name)
        if stored is None:
            raise RunError(f"{self._table(name)} was damaged as soon as it was written. {RESUME}")
        return stored

    def load(self, name: str) -> pd.DataFrame | None:
        """The stored table, or None where there is none that can be read.

        A file that is not a whole Parquet table is reported with a warning; a run that
        is open for writing also renames it to `<name>.parquet.damaged-<n>`.
        """
        path = self._table(name)
        return read_table(path, lambda error: self._set_aside(path, error))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Store `summary.json`. A NaN or an infinity in it is a ValueError: missing values are null."""
        text = to_json(summary)
        self._before_writing()
        write_atomically(self.path / SUMMARY, text.encode())

    def summary(self) -> dict[str, Any]:
        """The stored summary.

        Raises:
            RunError: the run has not come as far as its summary.
        """
        if not (self.path / SUMMARY).is_file():
            raise RunError(
                f"The run in {self.path} has no {SUMMARY} yet: it was interrupted before its end. "
                "Run the command that began it again; it continues where it stopped."
            )
        return read_json(self.path / SUMMARY)

    def manifest(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None for a run that is not finished."""
        return read_json(self.path / MANIFEST) if self.is_finished else None

    def finish(self) -> None:
        """Write the manifest, the last file of a run: SHA-256 and size of every other file, and versions."""
        manifest = {
            "format": 1,
            "created": self.begun["created"],
            "finished": now(),
            "versions": versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "files": {name: fingerprint(self.path / name) for name in self._files()},
        }
        self._before_writing()
        write_atomically(self.path / MANIFEST, to_json(manifest).encode())

    def rewrite(self, files: Mapping[str, bytes]) -> None:
        """Replace files that follow from the others, such as the report, in any run that can be written.

        Needs no lock, for they can be made again at any time. A finished run's manifest
        is brought up to date, so that it stays true.
        """
        for name, data in files.items():
            with explained(self.path / name, "write"):
                (self.path / name).parent.mkdir(exist_ok=True)
            write_atomically(self.path / name, data)
        manifest = self.manifest()
        if manifest is not None:
            manifest["files"] |= {name: fingerprint(self.path / name) for name in files}
            write_atomically(self.path / MANIFEST, to_json(manifest).encode())

    def changed_files(self) -> list[str]:
        """Names of files that are missing or differ from the manifest; empty for an unfinished run."""
        recorded = (self.manifest() or {"files": {}})["files"]
        present = set(self._files())
        return [
            name
            for name, print_ in recorded.items()
            if name not in present or fingerprint(self.path / name) != print_
        ]

    def _before_writing(self) -> None:
        """Refuse a reader; and take the manifest away, since it vouches for every file."""
        if self._lock is None:
            raise RunError(
                f"The run in {self.path} is open for reading only; expected one from RunDirectory.open."
            )
        with explained(self.path / MANIFEST, "replace"):
            (self.path / MANIFEST).unlink(missing_ok=True)

    def _table(self, name: str) -> Path:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise ValueError(
                f"expected a measurement name of lower-case letters, digits, - and _, found {name!r}"
            )
        return self.path / "measurements" / f"{name}.parquet"

    def _set_aside(self, path: Path, error: DamagedTableError) -> None:
        message = f"{path} is damaged ({error})"
        if self._lock is not None:
            taken = sum(1 for _ in path.parent.glob(f"{path.name}.damaged-*"))
            aside = path.with_name(f"{path.name}.damaged-{taken + 1}")
            self._before_writing()
            with explained(path, "set aside"):
                path.rename(aside)
            message += f"; it was set aside as {aside.name} and is computed again"
        warnings.warn(message, stacklevel=6)

    def _files(self) -> list[str]:
        found = (path for path in self.path.rglob("*") if path.is_file() and not is_temporary(path))
        names = (path.relative_to(self.path).as_posix() for path in found)
        return sorted(name for name in names if name not in (MANIFEST, LOCK))


def _begin_or_resume(path: Path, wanted: Mapping[str, Any]) -> None:
    """Under the lock: write the configuration, or compare it with the one that is there."""
    if (path / CONFIG).exists():
        stored = read_json(path / CONFIG)
        if stored != wanted:
            raise RunError(difference(path, stored, wanted))
    else:
        begun = {"format": 1, "created": now(), "versions": versions()}
        write_atomically(path / RUN, to_json(begun).encode())
        write_atomically(path / CONFIG, to_json(wanted).encode())
    with explained(path, "prepare the run folder"):
        for leftover in path.rglob(".*.tmp"):
            if is_temporary(leftover):  # of a killed process: the lock is ours, nobody is writing it
                leftover.unlink()
        (path / "logs").mkdir(exist_ok=True)
        (path / "measurements").mkdir(exist_ok=True)


def _refuse_foreign_folder(path: Path) -> None:
    """A folder with files but no run is somebody else's."""
    if (path / CONFIG).exists():
        return
    foreign = [p.name for p in path.iterdir() if p.name not in (LOCK, RUN) and not is_temporary(p)]
    if foreign:
        raise RunError(
            f"{path} is not empty and holds no run (found {min(foreign)!r}, expected {CONFIG}). "
            "Choose another --out, or empty the folder."
        )
