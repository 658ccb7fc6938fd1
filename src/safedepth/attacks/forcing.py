"""Making a model begin its answer with given tokens: what every prefilling attack shares.

With our own provider the tokens are forced exactly. A server that continues an
assistant message gets their text; a provider that would open a new assistant turn
instead is refused, because through it a prefilling attack silently tests nothing.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

from inspect_ai.model import ChatMessageAssistant, get_model
from inspect_ai.solver import Generate, TaskState

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.models import load_chat
from safedepth.provider.api import SafedepthAPI

__all__ = [
    "CONTINUING_PROVIDERS",
    "answer_as_forced",
    "continues_messages",
    "leave_out",
    "reply_seed",
    "target_chat",
]

CONTINUING_PROVIDERS = ("safedepth", "vllm", "sglang")
"""Inspect providers that continue a last assistant message instead of opening a new turn."""


def continues_messages(model_name: str) -> bool:
    """Whether an Inspect model name ("provider/model") belongs to a provider known to continue."""
    return model_name.partition("/")[0] in CONTINUING_PROVIDERS


def reply_seed(seed: int, *parts: object) -> int:
    """A seed for one reply that depends on what it is a reply to, and on nothing else."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def target_chat(tokenizer: str | None) -> ChatFormat:
    """The chat format that counts tokens for the model under test.

    Raises ModelError for a provider that does not continue messages, and for a server
    whose `tokenizer` was not named.
    """
    model = get_model()
    if isinstance(model.api, SafedepthAPI):
        return model.api.loaded.chat
    if not continues_messages(str(model)):
        raise ModelError(
            f"A prefilling attack needs a provider that continues the assistant's message; {model} is not "
            f"known to. Expected one of: {', '.join(CONTINUING_PROVIDERS)}."
        )
    if tokenizer is None:
        raise ModelError(
            f"Depths are counted in tokens, and {model} is reached through a server. Name its tokenizer with "
            "--tokenizer PATH_OR_HUB_ID."
        )
    return _lent_chat(tokenizer)


@cache
def _lent_chat(tokenizer: str) -> ChatFormat:
    return load_chat(tokenizer)


async def answer_as_forced(
    state: TaskState, generate: Generate, ids: Sequence[int], *, tokenizer: str | None
) -> TaskState:
    """Generate with the answer's first tokens forced to be `ids`; none forces nothing.

    The forced text and ids go into the state's metadata as `forced` and `forced_ids`;
    the completion is the continuation alone.
    """
    forced = target_chat(tokenizer).decode(ids) if ids else ""
    state.metadata["forced"], state.metadata["forced_ids"] = forced, list(ids)
    if ids:
        state.messages.append(ChatMessageAssistant(content=forced, metadata={"prefill_ids": list(ids)}))
    return await generate(state, seed=int(state.metadata["reply_seed"]))


def leave_out(state: TaskState, reason: str) -> TaskState:
    """Ask the model nothing; judges leave the reply unscored with this reason."""
    state.metadata["forced"], state.metadata["forced_ids"] = "", []
    state.metadata["left_out"] = reason
    state.completed = True
    return state
