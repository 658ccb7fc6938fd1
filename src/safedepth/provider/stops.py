"""Stop sequences: an end that is found in the text, while generation knows only ids."""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.chat import ChatFormat

__all__ = ["StopText", "continuation_text"]

_MARGIN = 4
"""Ids beyond a stop sequence's bytes that are decoded with it, for ids that add no text."""


def continuation_text(chat: ChatFormat, prefill: Sequence[int], ids: Sequence[int]) -> str:
    """The text that `ids` add after a prefill, or as a reply of their own where nothing is forced."""
    return chat.decode_continuation(prefill, ids) if prefill else chat.decode(ids)


class StopText:
    """Whether a reply contains one of `sequences`; asked after every token, so it decodes the end alone."""

    def __init__(self, chat: ChatFormat, sequences: Sequence[str]) -> None:
        self.sequences = tuple(text for text in sequences if text)
        self._chat = chat
        self._window = _MARGIN + max((len(text.encode()) for text in self.sequences), default=0)

    def found_in(self, prefill: Sequence[int], ids: Sequence[int]) -> bool:
        """Whether the newest of `ids` completes a stop sequence; the prefill's own text does not count."""
        if len(ids) <= self._window:
            text = continuation_text(self._chat, prefill, ids)
        else:
            text = self._chat.decode(ids[-self._window :])
        return any(stop in text for stop in self.sequences)

    def cut(self, text: str) -> str:
        """`text` up to where its first stop sequence begins."""
        places = [text.find(stop) for stop in self.sequences]
        return text[: min((place for place in places if place >= 0), default=len(text))]
