"""Inspect samples for attacks: one sample a reply, prompts in order, a prompt's variants side by side.

Neighbouring samples share their prompt, and with our provider its prefill too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from inspect_ai.dataset import Sample

from safedepth.attacks.forcing import reply_seed
from safedepth.judges.text import chat_messages
from safedepth.nouns import Prompt

__all__ = [
    "decoding_samples",
    "escalation_samples",
    "placed_samples",
    "prefill_samples",
    "prefix_samples",
    "request_samples",
    "turn_samples",
    "variant_sample",
]


def prefill_samples(
    prompts: Sequence[Prompt], depths: Sequence[int], *, repeats: int, seed: int
) -> list[Sample]:
    """One sample for every (prompt, depth, repeat); prompts without a harmful answer get depth 0 alone."""
    return [
        variant_sample(prompt, f"k{k}", repeat, seed, {"attack": "prefill", **forced})
        for prompt, k, forced in _at_depths(prompts, depths)
        for repeat in range(repeats)
    ]


def turn_samples(
    prompts: Sequence[Prompt], depths: Sequence[int], *, repeats: int, seed: int
) -> list[Sample]:
    """One sample for every (turn of a trajectory, depth, repeat), each prompt being one turn.

    The turns of a trajectory share its id (the prompt's without "/t<turn>") as
    `prompt_id`: they are not independent of one another.
    """
    return [
        variant_sample(prompt, f"k{k}", repeat, seed, {"attack": "multi_turn", **_place(prompt), **forced})
        for prompt, k, forced in _at_depths(prompts, depths)
        for repeat in range(repeats)
    ]


def prefix_samples(
    prompts: Sequence[Prompt], prefixes: Sequence[str], *, repeats: int, seed: int
) -> list[Sample]:
    """One sample for every (prompt, prefix, repeat)."""
    return [
        variant_sample(prompt, f"p{index}", repeat, seed, {"attack": "refusal_prefix", "prefix": prefix})
        for prompt in prompts
        for index, prefix in enumerate(prefixes)
        for repeat in range(repeats)
    ]


def request_samples(prompts: Sequence[Prompt], *, attack: str, repeats: int, seed: int) -> list[Sample]:
    """One sample for every (benign request, repeat), its target being the answer that is right, or empty.

    `attack` names the requests where attacks have their name: "benign", "lookalikes".
    """
    return [
        variant_sample(prompt, attack, repeat, seed, {"attack": attack}, target=prompt.answer or "")
        for prompt in prompts
        for repeat in range(repeats)
    ]


def placed_samples(
    prompts: Sequence[Prompt],
    depths: Sequence[int],
    variants: Sequence[str],
    *,
    attack: str,
    repeats: int,
    seed: int,
) -> list[Sample]:
    """One sample for every (prompt, depth, variant, repeat) of an attack that forces harmful tokens."""
    return [
        variant_sample(
            prompt, f"k{k}/{variant}", repeat, seed, {"attack": attack, "variant": variant, **forced}
        )
        for prompt, k, forced in _at_depths(prompts, depths)
        for variant in variants
        for repeat in range(repeats)
    ]


def decoding_samples(prompts: Sequence[Prompt], settings: int, *, repeats: int, seed: int) -> list[Sample]:
    """One sample for every (prompt, repeat), each with replies under `settings` decoding settings."""
    return _of_many(prompts, "decoding", settings, repeats, seed)


def escalation_samples(prompts: Sequence[Prompt], turns: int, *, repeats: int, seed: int) -> list[Sample]:
    """One sample for every (prompt, repeat), each a conversation of `turns` turns."""
    return _of_many(prompts, "escalation", turns, repeats, seed)


def _of_many(prompts: Sequence[Prompt], attack: str, wanted: int, repeats: int, seed: int) -> list[Sample]:
    """Samples with many replies; `replies_wanted` says how many."""
    return [
        variant_sample(prompt, attack, repeat, seed, {"attack": attack, "replies_wanted": wanted})
        for prompt in prompts
        for repeat in range(repeats)
    ]


def _at_depths(
    prompts: Sequence[Prompt], depths: Sequence[int]
) -> Iterable[tuple[Prompt, int, dict[str, Any]]]:
    """Every (prompt, depth) that can be had, with what `prefill` reads from the metadata."""
    for prompt in prompts:
        for k in depths:
            if k == 0 or prompt.harmful is not None:
                yield prompt, k, {"k": k, "harmful": prompt.harmful or ""}


def _place(prompt: Prompt) -> dict[str, Any]:
    """Which turn of which trajectory a prompt is."""
    return {"turn": prompt.turn, "prompt_id": prompt.id.removesuffix(f"/t{prompt.turn}")}


def variant_sample(
    prompt: Prompt, variant: str, repeat: int, seed: int, fields: dict[str, Any], *, target: str = ""
) -> Sample:
    """A sample with the metadata that all have; `fields` go before it."""
    metadata = {
        "prompt_id": prompt.id,
        "category": prompt.category,
        "repeat": repeat,
        "reply_seed": reply_seed(seed, prompt.id, fields["attack"], variant, repeat),
    }
    return Sample(
        id=f"{prompt.id}/{variant}/{repeat}",
        input=chat_messages(prompt.messages),
        target=target,
        metadata=metadata | fields,
    )
