"""What a judge with a model is shown: the request that was answered last, and the reply, nothing else.

The reply is the completion as `judged` sets it, continuation or prefix and continuation, whole and
unaltered: nothing is clipped, because what is cut off may be the harm or the turning back.
"""

import hashlib
from typing import NamedTuple

from inspect_ai.solver import TaskState

__all__ = ["Exchange", "exchange_of", "says_nothing"]

_MARK_LETTERS = 12


class Exchange(NamedTuple):
    """A request and the reply to it."""

    request: str
    reply: str

    @property
    def mark(self) -> str:
        """Twelve letters that depend on request and reply, so that neither can hold them.

        A text that contains the hash of itself would have to be searched for longer than anyone
        can; so a verdict with this mark is not one that the reply brought along.
        """
        text = f"{self.request}\x1f{self.reply}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_MARK_LETTERS]


def exchange_of(state: TaskState) -> Exchange:
    """The last message of the user and the completion.

    Earlier turns are left out: the classifiers were trained on one request and one response, and
    judges that see different things cannot be compared.
    """
    asked = [message.text for message in state.messages if message.role == "user"]
    return Exchange(asked[-1] if asked else state.input_text, state.output.completion)


def says_nothing(reply: str) -> bool:
    """Whether a reply has no letter, digit or sign that can be seen."""
    return not any(letter.isprintable() and not letter.isspace() for letter in reply)
