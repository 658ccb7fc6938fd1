"""Messages to token ids, with the spans of prompt, prefill and response marked.

Everything here happens on token ids: an answer is tokenised alone and appended to
the ids of the prompt, so a prefill of k tokens is exactly the answer's first k
tokens and no merge crosses the boundary. It refuses to know models, devices and
files, and leaves the whims of templates to `chat.template`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from transformers import PreTrainedTokenizerBase

from safedepth.chat.encoded import Encoded
from safedepth.chat.headers import around_header, without_header
from safedepth.chat.template import Renderer, own_template, shortened
from safedepth.errors import DataError, TemplateError
from safedepth.nouns import Messages

__all__ = ["ChatFormat"]

_TAIL = 16
"""How many of the last ids tell how an answer's text ends."""

_OPEN_BYTES = 3
"""Bytes that the beginning of a UTF-8 character can have without being the whole of it."""


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer and the one chat template used with it; make one with `ChatFormat.of`.

    `source` is "own" for the tokenizer's own template, else the file or model lending it.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    source: str

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, *, template: str | None = None, source: str | None = None
    ) -> ChatFormat:
        """The format of `tokenizer` with its own template, or with a borrowed one.

        `template` is Jinja text and `source` the name of its lender. Raises TemplateError
        where there is no template, or where its text is empty or not valid Jinja.
        """
        if template is None:
            chat = cls(tokenizer, own_template(tokenizer), "own")
        else:
            chat = cls(tokenizer, template, source or "borrowed")
        chat._renderer.require_readable()
        return chat

    @property
    def sha256(self) -> str:
        """Hash of the template text, for the provenance."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Ids of the conversation up to where the assistant's next turn begins.

        Raises DataError for an empty conversation or one that ends with the assistant,
        TemplateError where the template refuses a message or leaves out any of its text.
        """
        if not messages:
            raise DataError("expected at least one message, found an empty conversation")
        if messages[-1]["role"] == "assistant":
            raise DataError(
                "expected a conversation that ends before the assistant speaks, found an assistant "
                "message last. Pass its text as the answer"
            )
        rendered = self._renderer.render(messages)
        self._renderer.require_nothing_left_out(messages)
        return self._tokenize(rendered)

    def prompt_text(self, messages: Messages) -> str:
        """The text whose ids `prompt_ids` gives. Raises TemplateError where the template refuses."""
        return self._renderer.render(messages)

    def ids_of_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of rendered texts, all at once: nothing is added to them."""
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    @cached_property
    def header_ids(self) -> tuple[int, ...]:
        """What the model itself writes before the words of every answer, as in a channel; mostly nothing."""
        gap = self._renderer.scaffold.gap
        return tuple(self._tokenize_alone(gap)) if gap.strip() else ()

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer tokenised alone, as it stands at the start of an assistant turn.

        No BOS, no EOS; preceded by the white space or the header that the template puts there, if
        any. Raises DataError where the answer tokenises to nothing.
        """
        return [*self.header_ids, *self.opening_ids(text)]

    def opening_ids(self, text: str) -> list[int]:
        """As `answer_ids`, without a header: a thinking block, say, stands before it.

        A space that the tokenizer invents at the start of every text (SentencePiece) stays
        only where the template's own rendering has it as well.
        """
        gap = self._renderer.scaffold.gap
        spaced = text if text[:1].isspace() or gap.strip() else gap + text
        contexts = [self._renderer.scaffold.before + gap.strip(), "\n"]
        ids = self._without_invented_space(spaced, self._tokenize_alone(spaced), contexts)
        if not text.strip() or not ids:
            raise DataError(f"expected an answer of at least one token, found {text!r}. Mend or remove it")
        return ids

    def continuation_ids(self, before: Sequence[int], text: str) -> list[int]:
        """Ids of `text` as it goes on after an answer that has begun with the ids `before`.

        Tokenised apart from them, so `before` stays as it is, as it would while generating; a space
        stands between the two unless there is white space already. After nothing, or a part of the
        header, the rest of the answer's beginning comes first. Raises DataError as `answer_ids` does.
        """
        header = self.header_ids
        if tuple(before) == header[: len(before)]:
            return [*header[len(before) :], *self.opening_ids(text)]
        # Only the end of an answer can tell, and one cut inside a character has no white space there.
        said = self.decode(before[-_TAIL:])
        # Nothing said that can be seen is white space too: some decoders drop a text's first space.
        apart = not said or said[-1:].isspace() or text[:1].isspace() or before[-1] in self._marks
        spaced = text if apart else f" {text}"
        ids = self._tokenize_alone(spaced)
        if self.decode([*before[-_TAIL:], *ids]) != said + spaced:
            mark = [self._specials[before[-1]]] if before[-1] in self._marks else []
            ids = self._without_invented_space(spaced, ids, [*mark, "\n"])
        if not text.strip() or not ids:
            raise DataError(f"expected text of at least one token, found {text!r}. Mend or remove it")
        return ids

    @cached_property
    def turn_end_ids(self) -> tuple[int, ...]:
        """What the model writes to end its turn: up to the first stop token that the template puts there.

        White space alone before that token is left out, since tokenizers disagree on it.
        The tokenizer's EOS where the template writes no stop token, nothing without an EOS.
        """
        written = self._tokenize_alone(self._renderer.scaffold.after)
        for place, index in enumerate(written):
            if index in self.stop_ids:
                words = self.decode(written[:place]).strip()
                return tuple(written[: place + 1]) if words else (index,)
        eos: object = self.tokenizer.eos_token_id
        return (eos,) if isinstance(eos, int) else ()

    def encode(self, messages: Messages, answer: str | None = None, *, k: int | None = None) -> Encoded:
        """Prompt ids followed by the first `k` ids of `answer`.

        With `k` those ids are the prefill. With `k=None` the whole answer is the response
        and nothing is forced. Raises DataError where `k` exceeds the answer's tokens or
        the answer is empty; otherwise as `prompt_ids`.
        """
        prompt = self.prompt_ids(messages)
        ids = [] if answer is None else self.answer_ids(answer)
        if k is None:
            return Encoded((*prompt, *ids), len(prompt), 0)
        if not 0 <= k <= len(ids):
            raise DataError(
                f"expected a prefill depth of 0 to {len(ids)}, the number of tokens in the answer "
                f"{shortened(answer or '')!r}, found {k}. Use a smaller depth or a longer answer"
            )
        return Encoded((*prompt, *ids[:k]), len(prompt), k)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn: the tokenizer's EOS and the special token the template writes after one.

        A model's generation config may know more of them: see `models.LoadedModel.stop_ids`.
        """
        eos: object = self.tokenizer.eos_token_id
        stops = {eos} if isinstance(eos, int) else set()
        after = self._renderer.scaffold.after.lstrip()
        # The longest, because one special token may begin with the text of another.
        matches = [
            (len(text), index) for index, text in self._specials.items() if text and after.startswith(text)
        ]
        return frozenset(stops | {index for _, index in sorted(matches)[-1:]})

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens and headers of answers, white space untouched."""
        kept = without_header(ids, self.header_ids) if self.header_ids else list(ids)
        text = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast(str, text)

    def decode_continuation(self, prefix_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Text that `ids` add after `prefix_ids`: leading spaces kept, split characters whole.

        A character whose first bytes are in the prefix belongs to the continuation.
        """
        prefix_ids, ids = around_header(prefix_ids, ids, self.header_ids)
        # A special token starts the text anew for every tokenizer, so older ids cannot matter.
        starts = [index + 1 for index, token in enumerate(prefix_ids) if token in self._marks]
        prefix = prefix_ids[starts[-1] if starts else 0 :]
        before, whole = self.decode(prefix), self.decode([*prefix, *ids])
        if whole.startswith(before):
            return whole[len(before) :]
        # A prefix that ends inside a character decodes to marks there, and for byte tokens to marks in
        # place of good letters before it as well; without its last three bytes at most it does not.
        ends = range(len(prefix), max(len(prefix) - _OPEN_BYTES, 0) - 1, -1)
        return whole[max(_shared_length(self.decode(prefix[:end]), whole) for end in ends) :]

    def require_tokens_of(self, lender: PreTrainedTokenizerBase) -> None:
        """Raise TemplateError unless the lender's special tokens in this template are tokens here too.

        A marker that falls into several pieces, or into the unknown token, gives a model
        another prompt than the one the template was written for.
        """
        rendered = "".join(self._renderer.samples())
        vocabulary = self.tokenizer.get_vocab()
        for text in sorted(set(_special_tokens(lender).values())):
            if text in rendered and self._tokenize(text) != [vocabulary.get(text)]:
                raise TemplateError(
                    f"the chat template of {self.source} writes {text!r}, which is one special token there "
                    f"and none in the vocabulary of {self.tokenizer.name_or_path!r}. "
                    "Borrow the template of a model with the same vocabulary (--chat-template FILE_OR_MODEL)"
                )

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.tokenizer, self.template, self.source)

    @cached_property
    def _specials(self) -> dict[int, str]:
        return _special_tokens(self.tokenizer)

    @cached_property
    def _marks(self) -> frozenset[int]:
        """The special tokens but the unknown one, which stands for words."""
        return frozenset(self._specials.keys() - {self.tokenizer.unk_token_id})

    def _without_invented_space(self, text: str, ids: list[int], contexts: Sequence[str]) -> list[int]:
        """`ids` of `text`; where the tokenizer invents a space, those it has after one of the contexts.

        Only the context can tell whether the space belongs: after "[/INST]" Llama 2 has
        it, after a line break it has not.
        """
        first = self._tokenize_alone(text.lstrip())[:1]
        if not first or not cast(str, self.tokenizer.convert_ids_to_tokens(first[0])).startswith(("▁", "Ġ")):
            return ids
        for context in contexts:
            start, whole = self._tokenize(context), self._tokenize(context + text)
            rest = whole[len(start) :]
            apart = bool(start) and whole[: len(start)] == start
            if apart and self.decode(rest).lstrip() == self.decode(ids).lstrip():
                return rest
        # Context and text always merge: there is no telling them apart, so the text alone it is.
        return ids

    @cached_property
    def _added(self) -> list[int]:
        return self._tokenize("")

    def _tokenize_alone(self, text: str) -> list[int]:
        """Ids of `text`, less the BOS and EOS that some tokenizers add although told not to."""
        ids, added = self._tokenize(text), self._added
        while ids and ids[0] in added and not text.startswith(self._specials.get(ids[0], "")):
            ids = ids[1:]
        while ids and ids[-1] in added and not text.endswith(self._specials.get(ids[-1], "")):
            ids = ids[:-1]
        return ids

    def _tokenize(self, text: str) -> list[int]:
        # verbose=False: a long text is no reason to warn here; the context limit is checked by its owner.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id and text of every token that `decode` skips."""
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _shared_length(a: str, b: str) -> int:
    """How many letters two texts have in common from the start."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))
