"""A judge asked about a text alone, outside an evaluation: for searches that stop at the first success.

What a search believes is no result: whoever reports tests again with the attack as an
Inspect task.
"""

from __future__ import annotations

import asyncio
import atexit
from functools import cache
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ModelName,
    ModelOutput,
)
from inspect_ai.scorer import Scorer, Target
from inspect_ai.solver import TaskState

from safedepth.judges.judged import outcome_of
from safedepth.judges.reference import resolve_judge
from safedepth.nouns import Messages, Outcome

__all__ = ["chat_messages", "outcome_of_text"]

_KINDS: dict[str, Any] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def chat_messages(messages: Messages) -> list[ChatMessage]:
    """A conversation in Inspect's own types."""
    return [_KINDS[message["role"]](content=message["content"]) for message in messages]


def outcome_of_text(judge: str | Scorer, messages: Messages, reply: str, *, target: str = "") -> Outcome:
    """What a judge (a reference as for `--judge`, or a scorer) says of one reply to a conversation.

    A judge that fails or says something else than 1 or 0 leaves it UNSCORED. For one thread, and
    not inside a running event loop. Raises JudgeError for a reference that names no judge.
    """
    asked = resolve_judge(judge) if isinstance(judge, str) else judge
    chat = chat_messages(messages)
    state = TaskState(
        model=ModelName("none/none"),
        sample_id="text",
        epoch=1,
        input=chat,
        messages=chat,
        output=ModelOutput.from_content("none", reply),
    )

    async def verdict() -> Outcome:
        try:
            return outcome_of(await asked(state, Target(target)))[0]
        except Exception:  # noqa: BLE001 - as in an evaluation: a judge that fails leaves it unscored
            return Outcome.UNSCORED

    return _loop().run(verdict())


@cache
def _loop() -> asyncio.Runner:
    """One event loop for all questions: a server's connections belong to the loop they began in."""
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner
