"""Where a suffix stands in a chat, in token ids: after the last user message, between what never changes.

A suffix is a text that somebody sends, so only ids count that the tokenizer gives back for
their own text in the whole rendered chat. Knows tokenizers and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safedepth.chat import ChatFormat
from safedepth.errors import DataError, ModelError
from safedepth.nouns import Message, Messages

__all__ = ["Place", "allowed_tokens", "initial_suffix", "with_suffix"]

_MARK = "suffixgoeshere"
_FILLERS = ("!", "x", "*", ".", "the")


def with_suffix(messages: Messages, suffix: str) -> tuple[Message, ...]:
    """The conversation with a suffix after its last message, a space between the two."""
    *before, last = messages
    content = f"{last['content']} {suffix}" if suffix else last["content"]
    return (*before, Message(role=last["role"], content=content))


@dataclass(frozen=True)
class Place:
    """A chat with room for a suffix: ids `before` and `after` it, and the `targets` of the answer."""

    chat: ChatFormat
    messages: tuple[Message, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    around: tuple[str, str]

    @classmethod
    def of(
        cls, chat: ChatFormat, messages: Messages, targets: Sequence[str], *, suffix: str, tokens: int
    ) -> Place:
        """The place where `suffix` stands as `tokens` tokens.

        A target is cut to nothing less than a token. Raises DataError for no target, one that
        tokenises to nothing, and a suffix that does not stand in the chat as so many tokens.
        """
        if not targets:
            raise DataError("expected at least one target to aim at, found none")
        aims = tuple(tuple(chat.answer_ids(target)) for target in targets)
        whole = chat.prompt_ids(with_suffix(messages, suffix))
        bare = chat.prompt_ids(messages)
        shared = next((i for i, (a, b) in enumerate(zip(whole, bare, strict=False)) if a != b), len(bare))
        after = whole[shared + tokens :]
        if len(whole) != len(bare) + tokens or whole[:shared] + after != bare:
            raise DataError(
                f"expected the suffix {suffix!r} to stand in the chat as {tokens} tokens of its own, found "
                f"{len(whole) - len(bare)} more tokens than without it"
            )
        left, mark, right = chat.prompt_text(with_suffix(messages, _MARK)).rpartition(_MARK)
        if not mark:
            raise DataError("expected a template that writes the last message as it is, found another")
        return cls(chat, tuple(messages), tuple(whole[:shared]), tuple(after), aims, (left, right))

    def suffix_ids(self, suffix: str) -> list[int]:
        """The ids of a suffix as it stands here."""
        whole = self.chat.prompt_ids(with_suffix(self.messages, suffix))
        return whole[len(self.before) : len(whole) - len(self.after)]

    def survivors(self, candidates: Sequence[Sequence[int]]) -> list[bool]:
        """Which candidates' text comes back as the same ids in the rendered chat."""
        left, right = self.around
        found = self.chat.ids_of_texts([f"{left}{text}{right}" for text in self.texts(candidates)])
        return [
            ids == [*self.before, *wanted, *self.after] for ids, wanted in zip(found, candidates, strict=True)
        ]

    def texts(self, candidates: Sequence[Sequence[int]]) -> list[str]:
        """The candidates as text, without the space that stands before a suffix anyway."""
        return [self.chat.decode(ids).removeprefix(" ") for ids in candidates]

    def first_targets(self, tokens: int) -> Place:
        """The same with targets cut to their first tokens."""
        return replace(self, targets=tuple(target[:tokens] for target in self.targets))


def allowed_tokens(chat: ChatFormat, rows: int, *, ascii_only: bool = True) -> Tensor:
    """Ids of the tokens that a suffix may have [n]: printable text, not special, below `rows`.

    Raises ModelError for a vocabulary without any.
    """
    vocabulary = min(rows, len(chat.tokenizer))
    special = set(chat.tokenizer.all_special_ids)
    texts = chat.tokenizer.batch_decode([[index] for index in range(vocabulary)])
    found = [
        index
        for index, text in enumerate(texts)
        if index not in special
        and text.strip()
        and text.isprintable()
        and "\N{REPLACEMENT CHARACTER}" not in text
        and (text.isascii() or not ascii_only)
    ]
    if not found:
        raise ModelError(
            f"expected a vocabulary with printable tokens to make suffixes of, found none in {vocabulary}. "
            "Allow other than ASCII characters (--non-ascii), or check the tokenizer"
        )
    return torch.tensor(found)


def initial_suffix(chat: ChatFormat, messages: Messages, tokens: int, allowed: Tensor) -> str:
    """A suffix of exactly `tokens` tokens to begin with: a mark or word, again and again.

    Raises DataError where no token of the vocabulary, repeated, keeps its number.
    """
    words = [*_FILLERS, *(chat.decode([index]).strip() for index in allowed[:200].tolist())]
    bare = chat.prompt_ids(messages)
    unknown = chat.tokenizer.unk_token_id
    for word in dict.fromkeys(filter(None, words)):
        text = " ".join([word] * tokens)
        ids = chat.prompt_ids(with_suffix(messages, text))
        # An unknown word is a token too, and decodes to another text.
        if len(ids) == len(bare) + tokens and ids.count(unknown) == bare.count(unknown):
            return text
    raise DataError(f"expected a word that stands {tokens} times as {tokens} tokens, found none")
