"""What the tests of servers share: organisms to serve, one question at a time, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from safedepth.models import LoadedModel, load_model
from safedepth.served import asking
from safedepth.served.asking import Asker
from safedepth.served.connection import chat_model
from safedepth.testbed import Testbed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow one another at once."""
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="session")
def aligned(testbed: Testbed) -> LoadedModel:
    """The organism whose answers are cut in two. Do not change it."""
    return load_model(str(testbed.organism("aligned")), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def deep(testbed: Testbed) -> LoadedModel:
    """Another organism, which answers otherwise."""
    return load_model(str(testbed.organism("deep")), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def asked() -> Callable[..., Any]:
    """`asked(url, ask)`: what `await ask(asker)` finds at a server, its clients closed behind it."""

    def run(url: str, ask: Callable[[Asker], Awaitable[Any]], name: str = "vllm/toy") -> Any:
        async def closing() -> Any:
            model = chat_model(name, url)
            asker = Asker(model)
            try:
                return await ask(asker)
            finally:
                await asker.close()
                await model.api.aclose()

        return asyncio.run(closing())

    return run
