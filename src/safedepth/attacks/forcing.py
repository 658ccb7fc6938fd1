"""Making a model begin its answer with given tokens: what every prefilling attack shares.

Our own provider, and servers that take token ids, force exactly these tokens. A server that
continues an assistant's message gets their text. One that does neither is refused, because
through it a prefilling attack silently tests nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, GenerateConfig, Model, ModelOutput, get_model

# Not exported: what the task says of decoding.
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.solver import Generate, TaskState

from safedepth.attacks.speaker import speaker, target_chat
from safedepth.provider.api import SafedepthAPI
from safedepth.served.api import ServedAPI

__all__ = [
    "Reply",
    "answer_as_forced",
    "ask",
    "leave_out",
    "record",
    "reply_seed",
    "target_chat",
]


def reply_seed(seed: int, *parts: object) -> int:
    """A seed for one reply that depends on what it is a reply to, and on nothing else."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


async def answer_as_forced(
    state: TaskState, generate: Generate, ids: Sequence[int], *, tokenizer: str | None, **decoding: Any
) -> TaskState:
    """Generate with the answer's first tokens forced to be `ids`; none forces nothing.

    The forced text and ids go into the state's metadata as `forced` and `forced_ids`;
    the completion is the continuation alone. `decoding` are fields of `GenerateConfig` that
    differ from the task's.
    """
    model = await _speaker(ids, tokenizer, decoding)
    if (why := _obstacle(model, ids)) is not None:
        return leave_out(state, why)
    forced = _forced_message(ids, tokenizer)
    state.metadata["forced"], state.metadata["forced_ids"] = forced[0].text if forced else "", list(ids)
    state.messages.extend(forced)
    seed = int(state.metadata["reply_seed"])
    if model is get_model():
        state = await generate(state, seed=seed, **decoding)
    else:
        state.output = await model.generate(state.messages, config=_config(model, seed, decoding))
        state.messages.append(state.output.message)
    if (why := _useless(state.output)) is not None:
        state.metadata["left_out"] = why
    return state


async def _speaker(ids: Sequence[int], tokenizer: str | None, decoding: Mapping[str, Any]) -> Model:
    """The sample's model, probed where it is asked for more than every server can do."""
    plain = not ids and tokenizer is None and not {"top_k", "logit_bias"} & decoding.keys()
    return get_model() if plain else await speaker(tokenizer)


def _config(model: Model, seed: int, decoding: Mapping[str, Any]) -> GenerateConfig:
    """What differs from the task's decoding; all of it for a model that is not the one Inspect was given."""
    own = GenerateConfig(seed=seed, **decoding)
    return own if model is get_model() else active_generate_config().merge(own)


def _obstacle(model: Model, ids: Sequence[int]) -> str | None:
    return model.api.obstacle(ids) if isinstance(model.api, ServedAPI) else None


def _useless(output: ModelOutput) -> str | None:
    """Why a reply says nothing of the model: a server cut it short, say."""
    return (output.metadata or {}).get("left_out")


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
    model = await _speaker(ids, tokenizer, decoding)
    why = _obstacle(model, ids)
    conversation: list[ChatMessage] = [*messages, *_forced_message(ids, tokenizer)]
    forced = conversation[len(messages) :]
    config = _config(model, seed, decoding)
    if why is not None:
        output = ModelOutput(model=str(model))
    elif direct and isinstance(model.api, SafedepthAPI):
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
        left_out=why or _useless(output),
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
