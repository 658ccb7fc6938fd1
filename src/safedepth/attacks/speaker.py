"""Which model speaks in a sample, and in whose tokens depths are counted.

A local model, and one that a study connected to its servers, speak for themselves. Any other
that Inspect was given is probed once, and asked through what the probe found it can do.
"""

import asyncio
from functools import cache
from weakref import WeakKeyDictionary

from inspect_ai.model import Model, get_model

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.models import load_chat
from safedepth.provider.api import SafedepthAPI
from safedepth.served.api import ServedAPI, served_model
from safedepth.served.clients import Server
from safedepth.served.probe import probe

__all__ = ["speaker", "target_chat"]

_found: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str | None], asyncio.Task[Model]]] = (
    WeakKeyDictionary()
)


def target_chat(tokenizer: str | None) -> ChatFormat:
    """The chat format that counts tokens for the model under test.

    Raises ModelError for a model behind a server whose `tokenizer` was not named.
    """
    model = get_model()
    if isinstance(model.api, SafedepthAPI):
        return model.api.loaded.chat
    if isinstance(model.api, ServedAPI) and model.api.chat is not None:
        return model.api.chat
    if tokenizer is None:
        raise ModelError(
            f"Depths are counted in tokens, and {model} is reached through a server. Name its tokenizer with "
            "--tokenizer PATH_OR_HUB_ID."
        )
    return _lent_chat(tokenizer)


@cache
def _lent_chat(tokenizer: str) -> ChatFormat:
    return load_chat(tokenizer)


async def speaker(tokenizer: str | None) -> Model:
    """The sample's own model, or what asks it as the probe found it can be asked.

    Raises ModelError where a server cannot be probed; every sample is told the same, and it is
    not asked again.
    """
    model = get_model()
    if isinstance(model.api, SafedepthAPI | ServedAPI):
        return model
    tasks = _found.setdefault(asyncio.get_running_loop(), {})
    key = (str(model), tokenizer)
    if key not in tasks:
        tasks[key] = asyncio.ensure_future(_connected(model, tokenizer))
    return await asyncio.shield(tasks[key])


async def _connected(model: Model, tokenizer: str | None) -> Model:
    chat = None if tokenizer is None else _lent_chat(tokenizer)
    found = await probe(model, chat=chat)
    # Known only now: Inspect starts some servers when they are first asked.
    return served_model(str(model), [Server(str(model), model.api.base_url, found)], chat)
