"""Inspect's own models of a served one, by server: chats and completions, made where they are used.

A client belongs to the event loop that it was first used in, and a study runs several. Those of a
loop are closed when Inspect's run in it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary, WeakSet

from inspect_ai.hooks import Hooks, RunEnd, hooks
from inspect_ai.model import ModelAPI

from safedepth.served.capabilities import Capabilities
from safedepth.served.connection import chat_model, completions_model

__all__ = ["Clients", "Server"]


@dataclass(frozen=True)
class Server:
    """One server: the model's name as Inspect knows it, where it is, and what the probe found.

    `url` is None where Inspect itself knows where to ask.
    """

    name: str
    url: str | None
    capabilities: Capabilities

    @property
    def place(self) -> str:
        """The address, for people."""
        return self.capabilities.url


class Clients:
    """What asks `servers`; servers are counted from 0."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = tuple(servers)
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, bool], ModelAPI]] = (
            WeakKeyDictionary()
        )
        _listen()
        _all.add(self)

    def of(self, number: int, *, completions: bool) -> ModelAPI:
        """The provider that asks a server for completions, or for chats, in the running loop."""
        made = self._made.setdefault(asyncio.get_running_loop(), {})
        key = (number, completions)
        if key not in made:
            server = self._servers[number]
            made[key] = (completions_model if completions else chat_model)(server.name, server.url).api
        return made[key]

    async def close(self) -> None:
        """Close those of the running loop; they are made anew when somebody asks."""
        for api in self._made.pop(asyncio.get_running_loop(), {}).values():
            await api.aclose()


_all: WeakSet[Clients] = WeakSet()


@cache
def _listen() -> None:
    """Hear of the end of runs; asked for late, because Inspect prints the hooks it finds at its start."""

    @hooks(name="safedepth_clients", description="Closes the clients of served models.")
    class Closing(Hooks):
        async def on_run_end(self, data: RunEnd) -> None:
            for clients in tuple(_all):
                await clients.close()
