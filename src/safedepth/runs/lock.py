"""One writer at a time: a lock on a run directory that cannot go stale.

The lock belongs to an open file, not to a file that exists, so the system lets go
of it when its holder ends, be it by kill -9. The name of the holder is written
into the file for the error message alone.
"""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path
from typing import IO

from safedepth.errors import RunError

__all__ = ["LOCK", "acquire"]

LOCK = ".lock"


def acquire(folder: Path) -> IO[str]:
    """The lock of `folder`, held until the file returned is closed.

    Raises:
        RunError: another process holds it; the message names that process.
    """
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        _lock(file)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "not named"
        file.close()
        raise RunError(
            f"Another process ({holder}) is writing {folder}. Wait for it to end, or choose another --out."
        ) from error
    except OSError as error:
        # Some network file systems have no locks; the run is still worth doing there.
        warnings.warn(
            f"{folder}: this file system offers no locks ({error.strerror}). "
            "Make sure that no second process writes the same run.",
            stacklevel=3,
        )
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def _lock(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 20)  # far behind the holder's name, which others must be able to read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
