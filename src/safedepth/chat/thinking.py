"""The thinking block of a reasoning model: its markers, and whether the template opens it already.

Found in the template, among the tokens that were added to the vocabulary, and by giving the
template a thought to write (a channel of its own is a block too), never by the name of a
model. A template that writes no block cannot be attacked inside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from safedepth.chat.format import ChatFormat
from safedepth.chat.template import Renderer
from safedepth.errors import TemplateError
from safedepth.nouns import Message

__all__ = ["MARKERS", "Thinking", "require_thinking", "thinking_markers"]

MARKERS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
"""Pairs that are looked for unless the user names others."""


@dataclass(frozen=True)
class Thinking:
    """The markers of the block; `opened` says whether the generation prompt ends inside it.

    With `lines` a line break stands around a thought and an empty line before the answer; else the
    markers are all there is.
    """

    open: str
    close: str
    opened: bool
    lines: bool = True

    def before_thought(self, chat: ChatFormat) -> list[int]:
        """Ids to force so that what follows stands inside the block; none where it is open already."""
        return [] if self.opened else chat.opening_ids(self._begun)

    def before_answer(self, chat: ChatFormat, thought: str = "") -> list[int]:
        """Ids to force so that what follows stands after the block, which holds `thought`."""
        end = f"\n{self.close}\n\n" if self.lines else self.close
        return chat.opening_ids(("" if self.opened else self._begun) + thought + end)

    @property
    def _begun(self) -> str:
        return f"{self.open}\n" if self.lines else self.open


def thinking_markers(chat: ChatFormat, markers: tuple[str, str] | None = None) -> Thinking | None:
    """The thinking block of a chat, or None where it has none. A user's own `markers` are taken as given."""
    prompt = chat.prompt_text([Message(role="user", content="Hello")])
    if markers is not None:
        return Thinking(*markers, _opened(prompt, *markers))
    added = {token.content for token in chat.tokenizer.added_tokens_decoder.values()}
    for start, end in MARKERS:
        if end in chat.template or start in chat.template or {start, end} <= added:
            return Thinking(start, end, _opened(prompt, start, end))
    written = Renderer(chat.tokenizer, chat.template, chat.source).thought
    return None if written is None else Thinking(*written, opened=False, lines=False)


def require_thinking(chat: ChatFormat, markers: tuple[str, str] | None = None) -> Thinking:
    """The thinking block of a chat. Raises TemplateError where it has none."""
    found = thinking_markers(chat, markers)
    if found is None:
        known = ", ".join(f"{start} {end}" for start, end in MARKERS)
        raise TemplateError(
            f"expected a reasoning model, found no thinking block in the chat template ({chat.source}) and "
            f"among the added tokens (looked for {known}). Name its markers if it has others "
            "(markers='OPEN,CLOSE'), or leave the attack out"
        )
    return found


def _opened(prompt: str, start: str, end: str) -> bool:
    return prompt.rfind(start) > prompt.rfind(end)
