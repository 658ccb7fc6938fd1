"""Files that are whole or absent: atomic writes, JSON, Parquet, and errors that say what to do.

Knows single files; what they are for is `directory`'s business.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from safedepth.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa  # type: ignore[import-untyped]

    Table: TypeAlias = pa.Table | pd.DataFrame

__all__ = [
    "DamagedTableError",
    "explained",
    "fingerprint",
    "from_parquet",
    "is_temporary",
    "read_json",
    "read_table",
    "to_json",
    "to_parquet",
    "write_atomically",
]

RESUME = "Nothing finished was lost: mend this, then run the same command again."
ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space",
    errno.EDQUOT: "your disk quota is used up. Free some space",
    errno.EACCES: "no permission. Make the folder writable or choose another --out",
    errno.EPERM: "no permission. Make the folder writable or choose another --out",
    errno.EROFS: "the disk is read-only. Choose another --out",
    errno.EEXIST: "a file is where a folder should be. Choose another --out",
    errno.ENOTDIR: "a file is where a folder should be. Choose another --out",
    errno.EISDIR: "a folder is where a file should be. Choose another --out",
}


class DamagedTableError(Exception):
    """Bytes that are not a whole Parquet table. Never reaches the user: the table is computed again."""


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turn the system's errors about `path` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        found = ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise RunError(f"Could not {action} {path}: {found}. {RESUME}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`: after a kill or power loss the file is the old one or the new one, whole.

    Raises:
        RunError: the disk is full, or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path, "write"):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def is_temporary(path: Path) -> bool:
    """Whether `path` is what a killed `write_atomically` leaves behind."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def fingerprint(path: Path) -> dict[str, Any]:
    """SHA-256 and size in bytes of one file."""
    with explained(path, "read"), path.open("rb") as file:
        return {"sha256": file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def to_json(value: Mapping[str, Any]) -> str:
    """Readable JSON; a NaN or an infinity is a ValueError, because a missing value is null."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The object stored at `path`.

    Raises:
        RunError: the file cannot be read or holds something else.
    """
    with explained(path, "read"):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise RunError(
            f"{path} is not valid JSON ({error}); expected the file a run wrote. "
            "Choose another --out, or delete the folder and begin again."
        ) from error
    if not isinstance(value, dict):
        raise RunError(
            f"{path} holds a JSON {type(value).__name__}; expected an object. Choose another --out."
        )
    return value


def to_parquet(table: Table) -> bytes:
    """A table as Parquet with page checksums, so that damage inside a page is noticed too."""
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def from_parquet(data: bytes) -> pd.DataFrame:
    """The table in `data`; integers with gaps stay integers.

    Raises:
        DamagedTableError: `data` is not a whole Parquet table.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Damage in the footer shows as nonsense in its JSON: an error of values, keys or types.
    errors = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        # Left alone, Arrow turns a missing k into NaN and every other k into a float; a table
        # that came from pandas carries its own column types.
        from_pandas = table.schema.pandas_metadata is not None
        whole = None if from_pandas else {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}.get
        frame: pd.DataFrame = table.to_pandas(types_mapper=whole)
    except errors as error:
        raise DamagedTableError((str(error) or type(error).__name__).splitlines()[0]) from error
    return frame


def read_table(path: Path, damaged: Callable[[DamagedTableError], None]) -> pd.DataFrame | None:
    """The table stored at `path`; None where there is none, or none that is whole, which `damaged` is told.

    Raises RunError where the file cannot be read.
    """
    if not path.is_file():
        return None
    with explained(path, "read"):
        data = path.read_bytes()
    try:
        return from_parquet(data)
    except DamagedTableError as error:
        damaged(error)
        return None


def _plain(value: Any) -> Any:
    """What JSON has no word for: paths as text, mappings as objects, numpy's values as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected something JSON can hold, found {type(value).__name__}: {value!r}")


def _sync_folder(path: Path) -> None:
    """Make a rename last through a power loss; Windows has no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
