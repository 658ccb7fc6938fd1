"""What is being tested: a local checkpoint, or a model that Inspect reaches through one or more servers.

MODEL on the command line is a path, a hub id, or an Inspect name such as
`vllm/meta-llama/Llama-3.1-8B-Instruct`. Hub organisations that share their name with
an Inspect provider (google, openai) are meant as Inspect names; `safedepth/google/...`
loads such a checkpoint locally. A served model is probed before anything is asked of it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inspect_ai._util.registry import registry_find, registry_info
from inspect_ai.model import Model, get_model

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.models import LoadedModel, context_length, load_chat, load_model
from safedepth.nouns import Prompt
from safedepth.provider.api import forget_loaded, register_loaded
from safedepth.served.api import ServedAPI, served_model
from safedepth.served.clients import Server
from safedepth.served.connection import chat_model
from safedepth.served.probe import probe

__all__ = [
    "Target",
    "checkpoint_of",
    "is_served",
    "open_target",
    "places_of",
    "probed",
    "room_after",
    "room_for_reply",
    "room_within",
    "servers_of",
]

LOCAL = "safedepth"
ROOM = 512
"""New tokens that a reply may have where nobody says and the context allows."""


@dataclass(frozen=True)
class Target:
    """A model under test: how Inspect calls it, and the loaded checkpoint where it is local."""

    name: str
    model: Model
    loaded: LoadedModel | None

    def close(self) -> None:
        """Let a local model go, so that its memory is there for the next one; it cannot be asked any more."""
        if self.loaded is not None:
            self.model.api.close()
            forget_loaded(self.name)

    @property
    def served(self) -> ServedAPI | None:
        """Its servers with what the probe found; None for a local model, and for one that was not probed."""
        return self.model.api if isinstance(self.model.api, ServedAPI) else None

    @property
    def forced_as(self) -> str | None:
        """How the beginning of an answer is forced: as "tokens", as "text", or None: not at all."""
        return "tokens" if self.loaded is not None else self.served.forced_as if self.served else None

    @property
    def chat(self) -> ChatFormat | None:
        """What counts its tokens, where a tokenizer is known."""
        return self.loaded.chat if self.loaded else self.served.chat if self.served else None

    @property
    def context(self) -> int | None:
        """Tokens that prompt and reply may have together; None where no limit is known."""
        return (
            context_length(self.loaded.model) if self.loaded else self.served.context if self.served else None
        )

    @property
    def card(self) -> dict[str, Any]:
        """Provenance, as `summary.json` holds it."""
        if self.loaded:
            return asdict(self.loaded.card)
        card: dict[str, Any] = {"name": self.name, "server": True}
        if self.chat is not None:  # what prompts were written with, and depths counted in
            card |= {"template_source": self.chat.source, "template_sha256": self.chat.sha256}
        return card


def open_target(
    name: str,
    *,
    servers: Sequence[str] = (),
    tokenizer: str | None = None,
    chat_template: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Target:
    """Load a checkpoint, or connect to a server and probe it, whatever `name` says.

    `servers` are addresses under which the one model is served; none leaves it to Inspect where that
    is. `tokenizer` and `chat_template` render prompts for a server, and count tokens. Raises
    ModelError or TemplateError as `load_model` does, ModelError where Inspect cannot make the model
    (a provider's package or key that is missing, say), as `served.probe.probe`, and where two
    servers hold different models.
    """
    if is_served(name):
        chat = load_chat(tokenizer, chat_template=chat_template) if tokenizer else None
        return Target(name, served_model(name, asyncio.run(_all_probed(name, servers, chat)), chat), None)
    path = checkpoint_of(name, servers)
    loaded = load_model(path, chat_template=chat_template, dtype=dtype, device=device)
    register_loaded(path, loaded)
    return Target(path, get_model(f"{LOCAL}/{path}", memoize=False), loaded)


def checkpoint_of(name: str, servers: Sequence[str]) -> str:
    """The folder or hub id that `name` means where it is no served model.

    Raises ModelError where `servers` are named for it all the same.
    """
    if servers:
        raise ModelError(
            f"expected a model name as Inspect writes it (vllm/NAME, openai-api/SERVICE/NAME) for the server "
            f"{servers[0]}, found {name!r}, which is a checkpoint to be loaded here. Name the model as it is "
            "served, or leave --server out"
        )
    provider, _, rest = name.partition("/")
    return rest if provider == LOCAL and not Path(name).exists() else name


def places_of(servers: Sequence[str]) -> tuple[str | None, ...]:
    """The addresses to ask, each once; None, where there are none, leaves it to Inspect."""
    return tuple(dict.fromkeys(servers)) or (None,)


async def probed(name: str, place: str | None, chat: ChatFormat | None) -> Server:
    """One server with what it can do. Raises ModelError as `served.probe.probe`."""
    model = chat_model(name, place)
    try:
        return Server(name, place, await probe(model, chat=chat))
    finally:
        await model.api.aclose()


async def _all_probed(name: str, servers: Sequence[str], chat: ChatFormat | None) -> list[Server]:
    """Every server with what it can do, all asked at once."""
    return list(await asyncio.gather(*(probed(name, place, chat) for place in places_of(servers))))


def is_served(name: str) -> bool:
    """Whether `name` means a model that Inspect reaches through a server."""
    return not Path(name).exists() and name.partition("/")[0] in _inspect_providers()


def _inspect_providers() -> set[str]:
    found = registry_find(lambda info: info.type == "modelapi")
    return {registry_info(item).name.rpartition("/")[2] for item in found} - {LOCAL}


def servers_of(given: Sequence[str], name: str, *, first: bool = False) -> tuple[str, ...]:
    """The addresses of the model `name` among "URL" and "NAME=URL"; a bare URL is the first model's."""
    found = []
    for text in given:
        named, equals, url = text.partition("=http")
        if equals and not text.startswith("http"):
            found += [f"http{url}"] if named == name else []
        elif first:
            found.append(text)
    return tuple(found)


def room_for_reply(target: Target, prompts: Sequence[Prompt], *, deepest: int, wanted: int | None) -> int:
    """How many new tokens every reply may have: `wanted`, or up to 512 as far as the context allows.

    Raises ModelError naming the first prompt for which the context is too short.
    """
    if target.chat is None:
        return wanted or ROOM
    return room_within(target.context, target.name, target.chat, prompts, deepest=deepest, wanted=wanted)


def room_after(target: Target, prompts: Sequence[Prompt], *, forced: int, wanted: int | None) -> int:
    """As `room_for_reply`, after `forced` tokens that are not the harmful answer's, or more than it has.

    Raises ModelError where nothing is left.
    """
    if target.chat is None or target.context is None:
        return wanted or ROOM
    longest = max(len(target.chat.prompt_ids(prompt.messages)) for prompt in prompts)
    room = target.context - longest - forced
    if room < 1:
        raise ModelError(
            f"{target.name} has a context of {target.context} tokens; the longest prompt takes {longest} and "
            f"{forced} more are forced. Use shorter prompts, or force fewer tokens."
        )
    return min(wanted or ROOM, room)


def room_within(
    limit: int | None,
    name: str,
    chat: ChatFormat,
    prompts: Sequence[Prompt],
    *,
    deepest: int,
    wanted: int | None,
) -> int:
    """`room_for_reply` of a model that is not loaded, by its context length (None: no limit)."""
    longest, where = 0, ""
    for prompt in prompts:
        encoded = chat.encode(prompt.messages, prompt.harmful)
        answer = len(encoded.ids) - encoded.prompt_tokens
        needed = max(encoded.prompt_tokens + min(deepest, answer), len(encoded.ids) - (wanted or 1))
        if needed > longest:
            longest, where = needed, prompt.id
    if limit is None:
        return wanted or ROOM
    room = limit - longest
    if room < (wanted or 1):
        raise ModelError(
            f"{name} has a context of {limit} tokens; prompt {where!r} with its forced answer "
            f"takes {longest} and {wanted or 1} more were asked for. "
            "Use shorter prompts, or smaller --depths or --max-tokens."
        )
    return wanted or min(ROOM, room)
