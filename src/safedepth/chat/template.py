"""A chat template put to use: text out, or an error that says which message is at fault.

Templates are programs written by others. They raise, they strip white space, they
leave messages out without a word; this module finds out which by rendering probes
and never by the name of a model family. It refuses to know token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import jinja2
from transformers import PreTrainedTokenizerBase

from safedepth.errors import TemplateError
from safedepth.nouns import Message, Messages

__all__ = ["PROBE", "Renderer", "Scaffold", "own_template", "shortened"]

PROBE = "zqprobe"
"""A word that no template writes, so that where it turns up tells where a message went."""

_OTHER_TEMPLATE = "give another template with --chat-template FILE_OR_MODEL"

_REFUSALS = (jinja2.TemplateError, TypeError, ValueError)
"""What a template raises: its own `raise_exception`, an undefined name, or `None + text` inside it."""


class Scaffold(NamedTuple):
    """What a template writes around the words of an assistant turn."""

    before: str
    """After the user's words, up to where the assistant speaks."""
    gap: str
    """Between that point and the assistant's words: white space (Llama 2 writes a space), or a header."""
    after: str
    """After the assistant's words."""


@dataclass(frozen=True)
class Renderer:
    """One template text with the tokenizer whose BOS, EOS and other variables it uses.

    `source` names the template in messages: "own", or the file or model that lends it.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    source: str

    def render(self, messages: Messages, *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The conversation as text; `variables` are further arguments of `apply_chat_template`.

        Raises TemplateError where the template refuses it.
        """
        try:
            return self._apply(messages, add_generation_prompt=add_generation_prompt, **variables)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"expected a Jinja chat template, found one ({self.source}) that fails at line "
                f"{error.lineno}: {error.message}. Mend it or {_OTHER_TEMPLATE}"
            ) from error
        except _REFUSALS as error:
            at = self._first_refused(messages, str(error))
            raise TemplateError(
                f"the chat template ({self.source}) cannot express message {at + 1} of {len(messages)}, "
                f"role {messages[at]['role']!r}. It says: {error}. Change the conversation "
                f"(a system text can open the first user message) or {_OTHER_TEMPLATE}"
            ) from error

    def require_readable(self) -> None:
        """Raise TemplateError where the template is no valid Jinja, before any work is done with it."""
        if not self.template.strip():
            raise TemplateError(f"expected a chat template, found an empty one ({self.source})")
        try:
            self.render([Message(role="user", content=PROBE)])
        except TemplateError as error:
            # A template may demand more than one user turn; only one that cannot be read is refused here.
            if isinstance(error.__cause__, jinja2.TemplateSyntaxError):
                raise

    def require_nothing_left_out(self, messages: Messages) -> None:
        """Raise TemplateError where the template drops a message or part of one, white space aside.

        Every message gets a mark of its own at its end; message and mark must come out
        in one piece. The mark keeps words that the template writes anyway from counting.
        """
        marked = [
            Message(role=message["role"], content=f"{message['content']}{PROBE}{index}end")
            if message["content"].strip()
            else message
            for index, message in enumerate(messages)
        ]
        rendered = _squeezed(self.render(marked))
        for index, (message, mark) in enumerate(zip(messages, marked, strict=True)):
            if _squeezed(mark["content"]) not in rendered:
                raise TemplateError(
                    f"expected the chat template ({self.source}) to write every message in full, but it "
                    f"leaves out all or part of message {index + 1} of {len(messages)}, role "
                    f"{message['role']!r}: {shortened(message['content'])!r}. Change or remove it, or "
                    f"{_OTHER_TEMPLATE}"
                )

    @cached_property
    def scaffold(self) -> Scaffold:
        """What surrounds an assistant turn; empty where the template cannot write one."""
        question, reply = (
            Message(role="user", content=PROBE),
            Message(role="assistant", content=PROBE + "reply"),
        )
        opened = self.render_if_able([question])
        answered = self.render_if_able([question, reply], add_generation_prompt=False)
        said, found, after = answered.rpartition(reply["content"])
        gap = said.removeprefix(opened) if found and said.startswith(opened) else ""
        earlier = self.render_if_able([question, reply, question]).partition(reply["content"])[0]
        # A block that stands before a last answer alone belongs to no answer; a header, to every one.
        gap = gap if gap.isspace() or earlier == opened + gap else ""
        return Scaffold(opened.rpartition(PROBE)[2], gap, after if found else "")

    @cached_property
    def thought(self) -> tuple[str, str] | None:
        """What stands before and after the thought of a last answer; None where none can be written.

        The thought is given in a field of its own, under the names that templates read.
        """
        question, said = Message(role="user", content=PROBE), f"{PROBE}thought"
        fields = {"reasoning_content": said, "thinking": said}
        reply = cast(Message, {"role": "assistant", "content": f"{PROBE}reply"} | fields)
        opened = self.render_if_able([question])
        rendered = self.render_if_able([question, reply], add_generation_prompt=False)
        start, found, rest = rendered.partition(said)
        end, answered, _ = rest.partition(reply["content"])
        if not (opened and found and answered and start.startswith(opened)):
            return None
        return start.removeprefix(opened), end

    def samples(self) -> Iterator[str]:
        """Renderings that between them hold every marker the template writes around plain turns."""
        system, user, assistant = (
            Message(role=role, content=PROBE) for role in ("system", "user", "assistant")
        )
        for messages in ([user], [user, assistant, user], [system, user]):
            yield self.render_if_able(messages)

    def render_if_able(
        self, messages: Messages, *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """As `render`, but empty where the template refuses: what it lacks is then simply absent."""
        try:
            return self.render(messages, add_generation_prompt=add_generation_prompt, **variables)
        except TemplateError:
            return ""

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self.takes_parts else text

    @cached_property
    def takes_parts(self) -> bool:
        """Whether content must come as a list of parts, because text by itself would be left out."""
        part = {"type": "text", "text": PROBE}
        plain, listed = self._probed(PROBE), self._probed([part])
        return PROBE not in plain and PROBE in listed and str(part) not in listed

    def _probed(self, content: object) -> str:
        message, tokenizer = {"role": "user", "content": content}, cast(Any, self.tokenizer)
        try:
            return str(tokenizer.apply_chat_template([message], chat_template=self.template, tokenize=False))
        except _REFUSALS:
            return ""

    def _first_refused(self, messages: Messages, complaint: str) -> int:
        """Index of the message whose addition first makes the template say `complaint`."""
        for end in range(1, len(messages)):
            try:
                self._apply(messages[:end], add_generation_prompt=True)
            except _REFUSALS as error:
                if str(error) == complaint:
                    return end - 1
        return len(messages) - 1

    def _apply(self, messages: Messages, *, add_generation_prompt: bool, **variables: Any) -> str:
        rendered = cast(Any, self.tokenizer).apply_chat_template(
            [dict(message) | {"content": self._content(message["content"])} for message in messages],
            chat_template=self.template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **variables,
        )
        return cast(str, rendered)


def own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's own template text. Raises TemplateError where it has none, or none named default."""
    own: object = tokenizer.chat_template
    if isinstance(own, dict):
        if "default" not in own:
            raise TemplateError(
                f"expected one chat template or one named 'default' in {tokenizer.name_or_path!r}, "
                f"found {', '.join(sorted(own))}. Say which text to use with --chat-template FILE_OR_MODEL"
            )
        own = own["default"]
    if not isinstance(own, str) or not own.strip():
        raise TemplateError(
            f"expected a tokenizer with a chat template, found none in {tokenizer.name_or_path!r} "
            "(base models have none). Name the template to borrow with --chat-template FILE_OR_MODEL"
        )
    return own


def shortened(text: str) -> str:
    """The start of `text`, for messages."""
    return text if len(text) <= 60 else text[:57] + "..."


def _squeezed(text: str) -> str:
    return "".join(text.split())
