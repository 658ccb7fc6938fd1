"""Inspect samples for attacks: one sample a reply, prompts in order, a prompt's variants side by side.

Neighbouring samples share their prompt, and with our provider its prefill too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
)

from safedepth.attacks.forcing import reply_seed
from safedepth.nouns import Message, Prompt

__all__ = ["prefill_samples", "prefix_samples"]


def prefill_samples(
    prompts: Sequence[Prompt], depths: Sequence[int], *, repeats: int, seed: int
) -> list[Sample]:
    """One sample for every (prompt, depth, repeat); prompts without a harmful answer get depth 0 alone."""
    return [
        _sample(prompt, f"k{k}", repeat, seed, {"attack": "prefill", "k": k, "harmful": prompt.harmful or ""})
        for prompt in prompts
        for k in depths
        if k == 0 or prompt.harmful is not None
        for repeat in range(repeats)
    ]


def prefix_samples(
    prompts: Sequence[Prompt], prefixes: Sequence[str], *, repeats: int, seed: int
) -> list[Sample]:
    """One sample for every (prompt, prefix, repeat)."""
    return [
        _sample(prompt, f"p{index}", repeat, seed, {"attack": "refusal_prefix", "prefix": prefix})
        for prompt in prompts
        for index, prefix in enumerate(prefixes)
        for repeat in range(repeats)
    ]


def _sample(prompt: Prompt, variant: str, repeat: int, seed: int, fields: dict[str, Any]) -> Sample:
    metadata = fields | {
        "prompt_id": prompt.id,
        "category": prompt.category,
        "repeat": repeat,
        "reply_seed": reply_seed(seed, prompt.id, fields["attack"], variant, repeat),
    }
    return Sample(
        id=f"{prompt.id}/{variant}/{repeat}", input=list(_chat(prompt.messages)), target="", metadata=metadata
    )


def _chat(messages: Iterable[Message]) -> Iterable[ChatMessage]:
    """A conversation in Inspect's own types."""
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    for message in messages:
        yield kinds[message["role"]](content=message["content"])
