"""What is being tested: a local checkpoint, or a model that Inspect reaches through a server.

MODEL on the command line is a path, a hub id, or an Inspect name such as
`vllm/meta-llama/Llama-3.1-8B-Instruct`. Hub organisations that share their name with
an Inspect provider (google, openai) are meant as Inspect names; `safedepth/google/...`
loads such a checkpoint locally.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from inspect_ai._util.registry import registry_find, registry_info
from inspect_ai.model import Model, get_model

from safedepth.attacks.forcing import continues_messages
from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.models import LoadedModel, context_length, load_model
from safedepth.nouns import Prompt
from safedepth.provider.api import forget_loaded, register_loaded

__all__ = ["Target", "is_served", "open_target", "room_after", "room_for_reply", "room_within"]

LOCAL = "safedepth"


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
    def continues(self) -> bool:
        """Whether it is known to continue an assistant's message, so that tokens can be forced."""
        return self.loaded is not None or continues_messages(str(self.model))

    @property
    def card(self) -> dict[str, Any]:
        """Provenance, as `summary.json` holds it."""
        return asdict(self.loaded.card) if self.loaded else {"name": str(self.model), "server": True}


def open_target(
    name: str, *, chat_template: str | None = None, dtype: str = "auto", device: str = "auto"
) -> Target:
    """Load a checkpoint or connect to a server, whatever `name` says.

    Raises ModelError or TemplateError as `load_model` does, and ModelError where
    Inspect cannot make the model (a provider's package or key that is missing, say).
    """
    provider, _, rest = name.partition("/")
    if is_served(name):
        try:
            return Target(name, get_model(name), None)
        except Exception as error:
            raise ModelError(f"Inspect could not make the model {name!r}: {error}") from error
    path = rest if provider == LOCAL and not Path(name).exists() else name
    loaded = load_model(path, chat_template=chat_template, dtype=dtype, device=device)
    register_loaded(path, loaded)
    return Target(path, get_model(f"{LOCAL}/{path}", memoize=False), loaded)


def is_served(name: str) -> bool:
    """Whether `name` means a model that Inspect reaches through a server."""
    return not Path(name).exists() and name.partition("/")[0] in _inspect_providers()


def _inspect_providers() -> set[str]:
    found = registry_find(lambda info: info.type == "modelapi")
    return {registry_info(item).name.rpartition("/")[2] for item in found} - {LOCAL}


def room_for_reply(
    loaded: LoadedModel, prompts: Sequence[Prompt], *, deepest: int, wanted: int | None
) -> int:
    """How many new tokens every reply may have: `wanted`, or up to 512 as far as the context allows.

    Raises ModelError naming the first prompt for which the context is too short.
    """
    limit = context_length(loaded.model)
    return room_within(limit, loaded.card.name, loaded.chat, prompts, deepest=deepest, wanted=wanted)


def room_after(loaded: LoadedModel, prompts: Sequence[Prompt], *, forced: int, wanted: int | None) -> int:
    """As `room_for_reply`, after `forced` tokens that are not the harmful answer's, or more than it has.

    Raises ModelError where nothing is left.
    """
    limit = context_length(loaded.model)
    if limit is None:
        return wanted or 512
    longest = max(len(loaded.chat.prompt_ids(prompt.messages)) for prompt in prompts)
    room = limit - longest - forced
    if room < 1:
        raise ModelError(
            f"{loaded.card.name} has a context of {limit} tokens; the longest prompt takes {longest} and "
            f"{forced} more are forced. Use shorter prompts, or force fewer tokens."
        )
    return min(wanted or 512, room)


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
        return wanted or 512
    room = limit - longest
    if room < (wanted or 1):
        raise ModelError(
            f"{name} has a context of {limit} tokens; prompt {where!r} with its forced answer "
            f"takes {longest} and {wanted or 1} more were asked for. "
            "Use shorter prompts, or smaller --depths or --max-tokens."
        )
    return wanted or min(512, room)
