"""Making a model begin its answer with given tokens: what every prefilling attack shares.

With our own provider the tokens are forced exactly. A server that continues an
assistant message gets their text; a provider that would open a new assistant turn
instead is refused, because through it a prefilling attack silently tests nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, GenerateConfig, ModelOutput, get_model
from inspect_ai.solver import Generate, TaskState

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.models import load_chat
from safedepth.provider.api import SafedepthAPI

__all__ = [
    "CONTINUING_PROVIDERS",
    "Reply",
    "answer_as_forced",
    "ask",
    "continues_messages",
    "leave_out",
    "record",
    "reply_seed",
    "target_chat",
]

CONTINUING_PROVIDERS: tuple[str, ...] = ("safedepth", "vllm", "sglang")
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
    state: TaskState, generate: Generate, ids: Sequence[int], *, tokenizer: str | None, **decoding: Any
) -> TaskState:
    """Generate with the answer's first tokens forced to be `ids`; none forces nothing.

    The forced text and ids go into the state's metadata as `forced` and `forced_ids`;
    the completion is the continuation alone. `decoding` are fields of `GenerateConfig` that
    differ from the task's.
    """
    forced = _forced_message(ids, tokenizer)
    state.metadata["forced"], state.metadata["forced_ids"] = forced[0].text if forced else "", list(ids)
    state.messages.extend(forced)
    return await generate(state, seed=int(state.metadata["reply_seed"]), **decoding)


def _forced_message(ids: Sequence[int], tokenizer: str | None) -> list[ChatMessage]:
    """The assistant's message to be continued; none where nothing is forced."""
    if not ids:
        return []
    text = target_chat(tokenizer).decode(ids)
    return [ChatMessageAssistant(content=text, metadata={"prefill_ids": list(ids)})]


@dataclass(frozen=True)
class Reply:
    """One of several replies of a sample: what was asked last, what was forced, what came."""

    output: ModelOutput
    prompt: str
    forced: str = ""
    forced_tokens: int = 0
    variant: str | None = None
    turn: int | None = None
    k: int | None = None
    left_out: str | None = None

    def entry(self) -> dict[str, Any]:
        """As the sample's metadata holds it."""
        said = self.output.completion if self.output.choices else ""
        stop = self.output.stop_reason if self.output.choices else ""
        plain = {name: getattr(self, name) for name in Reply.__dataclass_fields__ if name != "output"}
        return plain | {"continuation": said, "stop_reason": stop}


async def ask(
    messages: Sequence[ChatMessage],
    *,
    seed: int,
    ids: Sequence[int] = (),
    tokenizer: str | None = None,
    variant: str | None = None,
    turn: int | None = None,
    k: int | None = None,
    direct: bool = False,
    **decoding: Any,
) -> Reply:
    """One more reply of the sample's model to `messages`, with `ids` forced; the state is left as it is.

    `decoding` are fields of `GenerateConfig` that differ from the task's. `direct` goes past
    Inspect's bookkeeping of a call (retries, limits, usage), which takes longer than a small model
    does and has nothing to do for a local one; `decoding` must then say everything.
    """
    conversation: list[ChatMessage] = [*messages, *_forced_message(ids, tokenizer)]
    forced = conversation[len(messages) :]
    config = GenerateConfig(seed=seed, **decoding)
    model = get_model()
    if direct and isinstance(model.api, SafedepthAPI):
        output = await model.api.generate(conversation, [], "none", config)
    else:
        output = await model.generate(conversation, config=config)
    asked = [message.text for message in messages if message.role == "user"]
    return Reply(
        output,
        prompt=asked[-1] if asked else "",
        forced=forced[0].text if forced else "",
        forced_tokens=len(ids),
        variant=variant,
        turn=turn,
        k=k,
    )


def record(state: TaskState, replies: Sequence[Reply]) -> TaskState:
    """Make `replies` the sample's replies; each is judged, and the last one is the sample's output."""
    state.metadata["replies"] = [reply.entry() for reply in replies]
    if replies:
        state.output = replies[-1].output
    state.completed = True
    return state


def leave_out(state: TaskState, reason: str) -> TaskState:
    """Ask the model nothing; judges leave the reply unscored with this reason."""
    state.metadata["forced"], state.metadata["forced_ids"] = "", []
    state.metadata["left_out"] = reason
    state.completed = True
    return state
