"""Training examples as token ids: which tokens are read, and exactly which carry loss.

An example is the prompt as the chat template gives it at inference, what is forced, and
what is learnt; nothing is rendered twice or tokenised across a boundary. It refuses to
know where to turn back (`recovery`) and what to say (`styles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safedepth.chat import ChatFormat
from safedepth.errors import DataError, SafedepthError
from safedepth.nouns import Anchor, Messages, Triplet

__all__ = [
    "IGNORED",
    "Example",
    "Opened",
    "anchor_example",
    "opened_anchor",
    "opened_triplet",
    "safety_example",
]

IGNORED = -100
"""The label of a token that carries no loss, as transformers has it."""


@dataclass(frozen=True)
class Example:
    """One training sequence: `labels[t]` is what is to be predicted where `ids[t]` stands, or `IGNORED`."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise ValueError(f"expected a label for each of {len(self.ids)} ids, found {len(self.labels)}")


@dataclass(frozen=True)
class Opened:
    """A row of the user's data as token ids: the prompt, and the answer given to it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def opened_triplet(chat: ChatFormat, triplet: Triplet) -> Opened:
    """Prompt and harmful answer of a triplet. Raises DataError or TemplateError naming the triplet."""
    return _opened(chat, f"triplet {triplet.id!r}", triplet.messages, triplet.harmful)


def opened_anchor(chat: ChatFormat, anchor: Anchor) -> Opened:
    """Prompt and answer of an anchor. Raises DataError or TemplateError naming the anchor."""
    return _opened(chat, f"anchor {anchor.id!r}", anchor.messages, anchor.answer)


def _opened(chat: ChatFormat, name: str, messages: Messages, answer: str) -> Opened:
    try:
        return Opened(tuple(chat.prompt_ids(messages)), tuple(chat.answer_ids(answer)))
    except SafedepthError as error:
        raise type(error)(f"{name}: {error}") from error


def safety_example(
    chat: ChatFormat, opened: Opened, points: Sequence[int], refusals: Sequence[str]
) -> Example:
    """x + h[:k] + r, with loss on r and the end of the turn alone (paper, section 4.1).

    k is the last of `points` and r the last of `refusals`, one for each point. At an
    earlier point j the model reads on in h, and what it is to predict there is the first
    token of that point's refusal. Raises DataError where h is shorter than k.
    """
    k = points[-1]
    if k > len(opened.answer):
        raise DataError(
            f"expected a harmful answer of at least {k} tokens, found one of {len(opened.answer)}. "
            "Use a longer answer or a smaller --longest_prefix"
        )
    said = opened.answer[:k]
    learnt = (*chat.continuation_ids(said, refusals[-1]), *chat.turn_end_ids)
    read = (*opened.prompt, *said)
    labels = [IGNORED] * len(read)
    for point, refusal in zip(points[:-1], refusals[:-1], strict=True):
        labels[len(opened.prompt) + point] = chat.continuation_ids(opened.answer[:point], refusal)[0]
    return Example((*read, *learnt), (*labels, *learnt))


def anchor_example(chat: ChatFormat, opened: Opened, *, max_length: int | None = None) -> Example:
    """A benign request with its answer; loss on the answer and the end of its turn.

    From `max_length` tokens on the answer is cut, and then its end is not learnt either.
    """
    learnt = (*opened.answer, *chat.turn_end_ids)
    if max_length is not None:
        learnt = learnt[: max(0, max_length - len(opened.prompt))]
    return Example((*opened.prompt, *learnt), (*(IGNORED for _ in opened.prompt), *learnt))
