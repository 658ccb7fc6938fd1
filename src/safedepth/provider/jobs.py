"""What goes into the engine and what comes out of it: token ids and plain numbers.

Nothing here knows torch, text or Inspect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from safedepth.errors import ModelError

__all__ = ["Completion", "Job", "Sampling", "StopReason", "TokenLogprob"]

StopReason = Literal["stop", "max_tokens", "model_length"]
"""A stop token or the job's own stop rule; the job's limit; the end of the model's context."""


@dataclass(frozen=True)
class Sampling:
    """How a job's tokens are picked, as Hugging Face applies it: temperature, top-k, top-p.

    `temperature` 0 is greedy. `top_k` None is the whole vocabulary, `top_p` 1 all of
    what top-k leaves. `bias`, pairs of a token's id and a number, is added to the logits
    before all of these (-100 leaves a token out, in practice). `seed` and `draw` name the
    random stream (`draw` tells apart several samples for one seed). Sampling stops at any
    of `stop_ids`, which is not part of the completion.

    `logprobs` is None for no log-probabilities, else how many alternatives to report
    with that of each generated token; `prompt_logprobs` the same for the prompt.
    Both are the model's own, before bias, temperature, top-k and top-p.

    Raises ModelError for values that mean nothing.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0
    draw: int = 0
    stop_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        allowed = (
            ("max_tokens", self.max_tokens >= 0, "0 or more"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_p", 0 <= self.top_p <= 1, "between 0 and 1"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more, or None"),
            ("logprobs", self.logprobs is None or self.logprobs >= 0, "0 or more, or None"),
            (
                "prompt_logprobs",
                self.prompt_logprobs is None or self.prompt_logprobs >= 0,
                "0 or more, or None",
            ),
            (
                "bias",
                all(index >= 0 and isfinite(value) for index, value in self.bias)
                and len(dict(self.bias)) == len(self.bias),
                "finite numbers, one for a token",
            ),
        )
        for name, fits, expected in allowed:
            if not fits:
                raise ModelError(f"expected {name} to be {expected}, found {getattr(self, name)}")

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token can come out."""
        return self.temperature == 0 or self.top_k == 1 or self.top_p == 0


@dataclass(frozen=True)
class Job:
    """Token ids to continue. `ends`, where given, is shown the generated ids after each token.

    `ends` runs on the engine's thread, for stop rules that need text; true ends the
    job with the reason "stop", the last token included.
    """

    ids: tuple[int, ...]
    sampling: Sampling
    ends: Callable[[Sequence[int]], bool] | None = None

    @property
    def stream(self) -> int:
        """The key of this job's random numbers, 128 bits.

        A hash of the ids, the seed and the decoding parameters: prompts, depths and
        settings that share a seed must not share luck, or intervals that take them as
        independent would be too narrow. The length limit has no part in it, so a
        longer run begins with the shorter one.
        """
        chosen = self.sampling
        name: tuple[object, ...] = (
            chosen.seed, chosen.draw, chosen.temperature, chosen.top_p, chosen.top_k, self.ids,
        )  # fmt: skip
        if chosen.bias:  # appended, so that the streams of jobs without it are those of earlier versions
            name = (*name, chosen.bias)
        return int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=16).digest(), "little")


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural log-probability, and the likeliest tokens at its place, best first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    def keep(self, top: int) -> TokenLogprob:
        """The same with no more than `top` alternatives."""
        return TokenLogprob(self.id, self.logprob, self.top[:top])


@dataclass(frozen=True)
class Completion:
    """The generated ids without the stop token, why they end, and log-probs where asked for.

    `logprobs` has one entry per id; `prompt_logprobs` one per prompt token but the
    first, which has no predecessor.
    """

    ids: tuple[int, ...]
    stop_reason: StopReason
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
