"""Tokens that begin a refusal in a given chat: what rank-assisted attacks leave out while decoding.

From words, by tokenising them as they stand at the start of an answer and inside one,
with and without a capital and a space. Knows no model.
"""

from collections.abc import Iterable

from safedepth.chat import ChatFormat

__all__ = ["REFUSAL_WORDS", "leaving_out", "refusal_tokens"]

REFUSAL_WORDS = (
    "I", "I'm", "We", "Sorry", "Unfortunately", "Regrettably", "Apologies", "Apologize", "My", "As", "No",
    "Cannot", "Can't", "Unable", "Refuse", "Decline", "However",
)  # fmt: skip
"""Words that refusals begin with or turn on: the openings that the rules of `judges.rules` know."""

_LEFT_OUT = -100.0
"""What APIs take for "never"; added to a logit."""


def refusal_tokens(chat: ChatFormat, words: Iterable[str] = REFUSAL_WORDS) -> frozenset[int]:
    """Ids of the first token of every word, at the start of an answer and in the middle of one.

    A piece of a word shorter than two letters begins too many others and is not among them;
    neither are special tokens and the unknown one.
    """
    found: set[int] = set()
    before = chat.answer_ids("Sure.")
    for word in words:
        for form in (word, word.lower(), word.capitalize()):
            for ids in (chat.opening_ids(form), chat.continuation_ids(before, form)):
                found |= _first(chat, ids, form)
    return frozenset(found - set(chat.tokenizer.all_special_ids))


def leaving_out(ids: Iterable[int]) -> dict[int, float]:
    """A `logit_bias` under which none of these tokens comes out."""
    return dict.fromkeys(sorted(ids), _LEFT_OUT)


def _first(chat: ChatFormat, ids: list[int], word: str) -> set[int]:
    """The first token that is not white space, if it tells the word from others."""
    for index in ids:
        letters = chat.decode([index]).strip()
        if letters:
            return {index} if letters == word or len(letters) >= 2 else set()
    return set()
