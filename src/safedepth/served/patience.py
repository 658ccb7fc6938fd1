"""How often a server is asked again, and for how long a request waits, before a study gives it up."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from weakref import WeakKeyDictionary

from safedepth.errors import ModelError

__all__ = ["RETRIES", "SECONDS", "SILENCE", "Patience", "ServerError"]

SECONDS = 300.0
"""How long one answer may take."""

SILENCE = 180.0
"""How long a server that fails may go on failing before nothing is asked of it again."""

RETRIES = 6
"""How often a request is repeated."""


class ServerError(ModelError):
    """A server gave no answer that can be used; what it did is the cause."""

    def __init__(self, url: str, found: str) -> None:
        super().__init__(
            f"expected a reply from the server at {url}, found {found}. Look at its log, start it again if "
            "it is down, and repeat the command"
        )
        self.url = url


class Patience:
    """What servers and requests have failed so far; a request is the task that asks.

    Not left to Inspect's own limit of retries, whose error hides the cause.
    """

    def __init__(self) -> None:
        self._failing_since: dict[str, float] = {}
        self._tries: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()

    def failed(self, url: str, error: Exception | str) -> ServerError:
        """Note that a request failed; the error to raise."""
        self._failing_since.setdefault(url, time.monotonic())
        self._tries[_task()] = self._tries.get(_task(), 0) + 1
        return ServerError(url, error if isinstance(error, str) else _told(error))

    def answered(self, url: str) -> None:
        """Note that a request was answered."""
        self._failing_since.pop(url, None)
        self._tries.pop(_task(), None)

    def ends(self, url: str) -> bool:
        """Whether the request that just failed is not to be repeated."""
        since = self._failing_since.get(url, time.monotonic())
        if self._tries.get(_task(), 0) <= RETRIES and time.monotonic() - since <= SILENCE:
            return False
        self._tries.pop(_task(), None)
        return True


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _told(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, TimeoutError):
        return f"nothing within {SECONDS:.0f} seconds"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}"
