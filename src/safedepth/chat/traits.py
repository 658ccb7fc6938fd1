"""What a chat template gets: system prompts, several turns, forced words, thinking blocks, masks.

Found by rendering probes and looking at what comes out, never by the name of a model family, so
that a user learns before a run what cannot be measured with a template, and why. It refuses
to know servers: whether one really continues an answer is asked of the server itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from safedepth.chat.format import ChatFormat
from safedepth.chat.template import PROBE, Renderer, shortened
from safedepth.chat.thinking import Thinking, thinking_markers
from safedepth.errors import SafedepthError, TemplateError
from safedepth.nouns import Message, Messages

__all__ = ["LEARNT", "WHITE_SPACE", "Traits", "traits_of"]

LEARNT = "trained on as prompt and completion,"
"""How a note begins that says what else is learnt, or less, than an answer and its end."""

WHITE_SPACE = "continued as text, an answer keeps its words but not its white space"
"""The note of a template through which `continue_final_message` is exact but for white space."""

ANSWERS = ("Sure, here is", " \n Sure,  here\n\n is \n", "Sure\n")
"""Answers to be continued: with white space where templates strip it, and inside, where none should."""

_TOOL = {
    "type": "function",
    "function": {
        "name": f"{PROBE}tool",
        "description": "Heat it.",
        "parameters": {"type": "object", "properties": {}},
    },
}


@dataclass(frozen=True)
class Traits:
    """What a template does, each found by a probe.

    `system_role`: a system message comes out in full. `default_system`: one is written where none is
    given. `several_turns`: earlier answers come out in full. `strict_alternation`: two user messages in
    a row are refused. `strips`: white space at the ends of a user's or assistant's message is dropped.
    `bos_in_template`: the text begins with the tokenizer's BOS. `thinking`: whether the generation
    prompt opens a thinking block, its markers are known, or there is none. `ends_turn`: a stop token
    stands after an answer. `tools`: tools are announced. `continues_as_text`: what `continue_final_message`
    gives is the prompt and the forced text and nothing else, so that a server keeps a prefill as it is.
    `reply_mask`: the loss mask of prompt-completion rows (TRL's) begins at the first token of the answer
    and holds it, the end of its turn, and at most white space around that. `notes` says what else there
    is to know.
    """

    system_role: bool
    default_system: bool
    several_turns: bool
    strict_alternation: bool
    strips: bool
    bos_in_template: bool
    thinking: Literal["none", "opened", "markers"]
    ends_turn: bool
    tools: bool
    continues_as_text: bool
    reply_mask: bool
    notes: tuple[str, ...]


def traits_of(chat: ChatFormat) -> Traits:
    """Render probes with the template of `chat` and say what it gets. Raises nothing of its own."""
    return _Probed(chat).traits()


def _message(role: str, content: str) -> Message:
    return Message(role=role, content=content)


_USER, _REPLY, _MORE = (
    _message("user", f"{PROBE}user"),
    _message("assistant", f"{PROBE}reply"),
    _message("user", f"{PROBE}more"),
)


@dataclass(frozen=True)
class _Probed:
    chat: ChatFormat

    def traits(self) -> Traits:
        masked, mask_note = self._mask()
        hindered = self._continued()
        stripping = [role for role in ("user", "assistant") if self._strips(role)]
        return Traits(
            system_role=self._whole([_message("system", f"{PROBE}system"), _USER]),
            default_system=bool(self._replaced.strip()),
            several_turns=self._whole([_USER, _REPLY, _MORE]),
            strict_alternation=bool(self._talk) and not self._rendered([_USER, _MORE]),
            strips=bool(stripping),
            bos_in_template=self._bos,
            thinking=self._thinking(),
            ends_turn=self._ends_turn,
            tools=f"{PROBE}tool" in self._rendered([_USER], tools=[_TOOL]),
            continues_as_text=not hindered,
            reply_mask=masked,
            notes=tuple(filter(None, [*self._notes(stripping), *hindered, mask_note])),
        )

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.chat.tokenizer, self.chat.template, self.chat.source)

    def _rendered(self, messages: Messages, *, prompt: bool = True, **variables: object) -> str:
        return self._renderer.render_if_able(messages, add_generation_prompt=prompt, **variables)

    def _whole(self, messages: Messages) -> bool:
        try:
            self._renderer.require_nothing_left_out(messages)
        except TemplateError:
            return False
        return True

    @cached_property
    def _talk(self) -> str:
        """Several turns, empty where the template refuses them."""
        return self._rendered([_USER, _REPLY, _MORE])

    @cached_property
    def _opening(self) -> str:
        """What stands before the first user message."""
        return self._rendered([_USER]).partition(_USER["content"])[0]

    @cached_property
    def _replaced(self) -> str:
        """What stands there only where no system message is given: a default system prompt."""
        system = _message("system", f"{PROBE}system")
        given = self._rendered([system, _USER])
        before, found, after = given.partition(_USER["content"])[0].partition(system["content"])
        if not found:
            return ""
        start = _shared(self._opening, before)
        end = _shared(self._opening[start:][::-1], after[::-1])
        return self._opening[start : len(self._opening) - end]

    @cached_property
    def _bos(self) -> bool:
        bos = self.chat.tokenizer.bos_token
        return bool(bos) and self._rendered([_USER]).startswith(str(bos))

    @cached_property
    def _ends_turn(self) -> bool:
        after = self._renderer.scaffold.after
        return bool(self.chat.stop_ids.intersection(self.chat.ids_of_texts([after])[0]))

    def _strips(self, role: str) -> bool:
        padded = f" \n{PROBE}padded \n"
        messages = [_message("user", padded)] if role == "user" else [_USER, _message(role, padded), _MORE]
        rendered = self._rendered(messages)
        return f"{PROBE}padded" in rendered and padded not in rendered

    @cached_property
    def _block(self) -> Thinking | None:
        try:
            return thinking_markers(self.chat)
        except SafedepthError:
            return None

    def _thinking(self) -> Literal["none", "opened", "markers"]:
        if self._block is None:
            return "none"
        return "opened" if self._block.opened else "markers"

    def _continued(self) -> list[str]:
        """What keeps `continue_final_message` from giving prompt and answer alone, if anything does."""
        gap, found = self._renderer.scaffold.gap, []
        for messages in [[_USER], [_USER, _REPLY, _MORE]][: 2 if self._talk else 1]:
            for answer in ANSWERS:
                apart = answer[:1].isspace() and not gap.strip()
                wanted = self._rendered(messages) + ("" if apart else gap) + answer
                # The tokens' own text; where a tokenizer loses white space, that says nothing of templates.
                forced = self.chat.decode(self.chat.answer_ids(answer))
                said = [
                    *messages,
                    _message("assistant", forced if forced in (answer, gap + answer) else answer),
                ]
                told = self._rendered(said, prompt=False, continue_final_message=True)
                if not told:
                    return ["no server can continue an answer as text: the template does not write it"]
                if told.split() != wanted.split():
                    return ["continued as text, an answer has other text around it than when forced"]
                if told != wanted:
                    found.append(WHITE_SPACE)
                if answer == answer.strip() and not self._joins(messages, wanted, answer):
                    found.append("continued as text, the tokens of prompt and answer merge")
        return list(dict.fromkeys(found))

    def _joins(self, messages: Messages, written: str, answer: str) -> bool:
        """Whether prompt and answer, written as one text, have the tokens that they have apart."""
        prompt, whole = self.chat.ids_of_texts([self._rendered(messages), written])
        return whole == [*prompt, *self.chat.answer_ids(answer)]

    def _mask(self) -> tuple[bool, str]:
        """Whether the loss of a prompt-completion row is on the answer and its end, and if not why."""
        if self._renderer.takes_parts:
            return False, f"{LEARNT} rows must hold content as a list of parts: text is left out"
        if not self._ends_turn:
            return False, f"{LEARNT} no end of the turn is learnt"
        for messages in [[_USER], [_USER, _REPLY, _MORE]][: 2 if self._talk else 1]:
            for answer in ("Sure, here is", "Sure,  here\n\nis"):
                replied = [*messages, _message("assistant", answer)]
                texts = [self._rendered(messages), self._rendered(replied, prompt=False)]
                prompt, whole = self.chat.ids_of_texts(texts)
                said, end = self.chat.answer_ids(answer), self.chat.turn_end_ids
                if not prompt or whole[: len(prompt)] != prompt:
                    return False, f"{LEARNT} the tokens of the prompt are not what they are when asked"
                learnt = whole[len(prompt) :]
                after = learnt[len(said) :]
                ended = end[-1] in after and self.chat.decode(after).strip() == self.chat.decode(end).strip()
                if learnt[: len(said)] != said or not ended:
                    return False, f"{LEARNT} more or other tokens are learnt than those of the answer"
        return True, ""

    def _notes(self, stripping: list[str]) -> list[str]:
        notes = []
        bos = self.chat.tokenizer.bos_token
        if stripping:
            notes.append(f"drops white space at the ends of messages ({', '.join(stripping)})")
        own = self._opening.removeprefix(str(bos or ""))
        header = self._talk.rpartition(_REPLY["content"])[2].partition(_MORE["content"])[0]
        own = own[: len(own) - _shared(own[::-1], header[::-1])].strip()
        if self._replaced.strip():
            notes.append(f"writes a system prompt where none is given: {shortened(self._replaced.strip())!r}")
        elif own and self._talk:
            notes.append(f"writes text of its own before the first message: {shortened(own)!r}")
        if self._bos and self.chat.tokenizer("a")["input_ids"][:1] == [self.chat.tokenizer.bos_token_id]:
            notes.append(
                "template and tokenizer both write BOS: who tokenises the rendered text must add no special "
                "tokens (safedepth adds none)"
            )
        if self._renderer.takes_parts:
            notes.append("takes content as a list of parts; safedepth gives it so")
        if header_ids := self.chat.header_ids:
            notes.append(
                f"answers begin with {self._renderer.scaffold.gap!r}, {len(header_ids)} tokens that count as "
                "an answer's first"
            )
        if self._block and self._block.close in self._renderer.scaffold.before:
            notes.append("the generation prompt closes the thinking block: the model is asked not to think")
        if not self._ends_turn:
            notes.append("writes no stop token after an answer: only the tokenizer's EOS ends a turn")
        thought = _message("assistant", f"<think>{PROBE}thought</think>{_REPLY['content']}")
        kept = self._rendered([_USER, thought, _MORE])
        if _REPLY["content"] in kept and f"{PROBE}thought" not in kept:
            notes.append("leaves the thoughts of earlier turns out")
        return notes


def _shared(a: str, b: str) -> int:
    """How many letters two texts have in common from the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
