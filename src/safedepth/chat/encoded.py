"""One conversation as token ids, and where its parts lie in them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Encoded"]


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation and where its parts lie.

    `ids[prompt]` is the conversation up to where the assistant speaks, `ids[prefill]`
    what is forced into its mouth, `ids[response]` the rest. The slices partition `ids`.
    """

    ids: tuple[int, ...]
    prompt_tokens: int
    prefill_tokens: int

    def __post_init__(self) -> None:
        spans = (self.prompt_tokens, self.prefill_tokens)
        if min(spans) < 0 or sum(spans) > len(self.ids):
            raise ValueError(f"spans of {spans[0]} and {spans[1]} tokens do not fit {len(self.ids)} ids")

    @property
    def prompt(self) -> slice:
        """The rendered conversation, generation prompt included."""
        return slice(0, self.prompt_tokens)

    @property
    def prefill(self) -> slice:
        """The forced tokens."""
        return slice(self.prompt_tokens, self.prompt_tokens + self.prefill_tokens)

    @property
    def response(self) -> slice:
        """What follows prompt and prefill."""
        return slice(self.prompt_tokens + self.prefill_tokens, len(self.ids))
