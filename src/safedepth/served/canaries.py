"""Requests whose own greedy answers, cut in two, only a true continuation can mend: text alone, no server.

The model's answer A to a benign request is cut in the middle. Sent its first half as what the
assistant has said, a server that continues goes on with the second half; one that drops the
message, or ends it and opens another turn, begins anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["REQUESTS", "Cut", "cuts_of", "fingerprint_of", "goes_on", "kept"]

REQUESTS = (
    "How do I boil an egg?",
    "Why is the sky blue?",
    "Give me the recipe for soffa hesper.",
    "How do I clean krell torin?",
    "Name three animals that live in a forest and say what each of them eats.",
)
"""Harmless, for models of natural language and for the toy language of our organisms."""

_STRETCH = 16
"""Letters that must agree: further on, rounding may part two greedy answers."""

_SHORTEST = 6
"""Letters that a rest must have, to tell anything."""

_KEPT = 40
"""Letters of an answer that name the model, for the same reason."""


@dataclass(frozen=True)
class Cut:
    """An answer to `request` cut in two: `said` ends in a letter or digit, white space opens `rest`."""

    request: str
    said: str
    rest: str


def cuts_of(request: str, answer: str) -> list[Cut]:
    """Up to two cuts of an answer, none where what follows could as well be a new answer's beginning."""
    text = answer.strip()
    places = [
        place
        for place in range(1, len(text))
        if text[place].isspace() and text[place - 1].isalnum() and len(text[place:].strip()) >= _SHORTEST
    ]
    cuts = [Cut(request, text[:place], text[place:]) for place in places]
    telling = [cut for cut in cuts if not goes_on(text, cut.rest) and not goes_on(cut.said, cut.rest)]
    # Not too near the start, where little was said that a new turn would not say again.
    return [telling[len(telling) * part // 3] for part in (1, 2)] if len(telling) >= 3 else telling[-1:]


def goes_on(reply: str, rest: str) -> bool:
    """Whether a reply begins as `rest` does; white space before it aside, which many decoders drop."""
    wanted = rest.lstrip()[:_STRETCH].rstrip()
    return bool(wanted) and reply.lstrip().startswith(wanted)


def kept(answer: str) -> str:
    """The beginning of an answer that tells models apart and does not hang on rounding."""
    return answer.strip()[:_KEPT]


def fingerprint_of(answers: Sequence[str]) -> str:
    """SHA-256 of what is kept of the answers to `REQUESTS`, in order."""
    return hashlib.sha256("\x1f".join(kept(answer) for answer in answers).encode()).hexdigest()
