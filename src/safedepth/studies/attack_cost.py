"""What an audit will cost, before it starts: replies, tokens at most, and the time they take here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inspect_ai import Task

from safedepth.provider import Engine, Job, Sampling
from safedepth.studies.target import Target

__all__ = ["Cost", "cost_of", "tokens_a_second"]

_ROWS, _TOKENS = 32, 8
"""Replies and tokens of the trial that the time is estimated from."""


@dataclass(frozen=True)
class Cost:
    """`replies` to be had, `tokens` that they may have at most, `seconds` for these if known."""

    replies: int
    tokens: int
    seconds: float | None

    @property
    def entry(self) -> dict[str, Any]:
        """As `summary.json` holds it."""
        return asdict(self)

    def __str__(self) -> str:
        """For the person at the terminal."""
        told = f"{self.replies:,} replies, at most {self.tokens:,} tokens"
        if self.seconds is None:
            return f"{told}; how long that takes depends on the server"
        return f"{told}; at most {_duration(self.seconds)} here, less where replies are short"


def cost_of(todo: Sequence[Task], *, speed: float | None) -> Cost:
    """The cost of Inspect tasks of which a model writes `speed` tokens a second (None: unknown)."""
    replies = tokens = 0
    for task in todo:
        mine = sum(int((sample.metadata or {}).get("replies_wanted", 1)) for sample in task.dataset)
        replies += mine
        tokens += mine * (task.config.max_tokens or 512)
    return Cost(replies, tokens, None if not speed else tokens / speed)


def tokens_a_second(target: Target) -> float | None:
    """How many tokens a second a local model writes in many short replies side by side; None for a server.

    Tries it: a warm-up, then a few tokens of a few replies.
    """
    if target.loaded is None:
        return None
    start = target.loaded.chat.prompt_ids([{"role": "user", "content": "Hello"}])
    jobs = [
        Job(tuple(start), Sampling(max_tokens=_TOKENS, seed=seed, temperature=1.0)) for seed in range(_ROWS)
    ]
    with Engine(target.loaded.model, slots=_ROWS) as engine:
        engine.complete(jobs[:2])
        begun = time.monotonic()
        made = engine.complete(jobs)
        taken = time.monotonic() - begun
    return max(1, sum(len(completion.ids) for completion in made)) / taken


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
