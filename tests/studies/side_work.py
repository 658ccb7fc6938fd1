"""What the tests let a second process do; light, because that process imports it."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

from safedepth.errors import DataError


def count(name: str, times: int, *, progress: Any) -> None:
    """Tell of every step."""
    for done in range(1, times + 1):
        progress(name, done, times)


def write(path: Path, text: str, *, progress: Any) -> None:
    """Leave a file."""
    path.write_text(text)


def fail(message: str, *, progress: Any) -> None:
    """A bug."""
    raise ZeroDivisionError(message)


def mistake(message: str, *, progress: Any) -> None:
    """A mistake of the user's."""
    raise DataError(message)


def vanish(status: int, *, progress: Any) -> None:
    """End without a word, as a kill does."""
    os._exit(status)


def tick(path: Path, *, progress: Any) -> None:
    """Go on without end, telling of it."""
    for ticks in itertools.count():
        path.write_text(str(ticks))
        progress("ticking", 0, 1)
        time.sleep(0.05)
