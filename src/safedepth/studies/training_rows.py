"""One row of a customer's data, in any layout that is known, as TRL's trainers take it.

Checked far enough that what cannot be learnt from is an error with its place; what a chat
template makes of it is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl import maybe_convert_to_chatml

from safedepth.data.fields import Cells, request, required, text, unknown_columns
from safedepth.errors import DataError
from safedepth.nouns import Messages

__all__ = ["BESIDE_MESSAGES", "messages_of", "training_row"]

LAYOUTS = (
    "expected one of: `messages`, a list of {role, content} with answers of the assistant (or "
    "`conversations`, a list of {from, value}); `prompt` and `completion` (TRL's: both text, or both lists "
    "of messages); `prompt` and `answer`; `instruction`, `input` (may be empty or absent) and `output` "
    "(Alpaca); `input_ids` and `labels` (-100 where nothing is learnt); the columns of Samsum, SQL Create "
    "Context or GSM8K. Other columns may stand beside them and are not read"
)

BESIDE_MESSAGES = ("tools", "chat_template_kwargs")
"""Columns that TRL hands to the chat template."""


def messages_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The whole conversation of a row that `training_row` made; nothing where it is no conversation."""
    if isinstance(row.get("completion"), str) or "input_ids" in row:
        return []
    return row.get("messages") or [*row["prompt"], *row["completion"]]


def training_row(cells: Cells, where: str) -> dict[str, Any]:
    """One row as TRL has it. Raises DataError for a layout it does not know, or a row without a response."""
    if "input_ids" in cells and "labels" in cells:
        return {name: cells[name] for name in ("input_ids", "labels")}
    if "conversations" in cells:
        cells = _converted(cells, where)
    carried = {name: cells[name] for name in BESIDE_MESSAGES if cells.get(name) is not None}
    if "messages" in cells:
        return {"messages": _conversation(cells["messages"], "messages", where), **carried}
    if "instruction" in cells:
        return _exchange(request(cells, where), required(cells, "output", where))
    if "prompt" not in cells:
        raise unknown_columns(cells, where, LAYOUTS)
    if "answer" in cells and "completion" not in cells:
        return _exchange(request(cells, where), required(cells, "answer", where))
    if isinstance(cells["prompt"], str):
        return {name: required(cells, name, where) for name in ("prompt", "completion")}
    if "completion" not in cells:
        required(cells, "completion", where)
    prompt = _messages(cells["prompt"], "prompt", where)
    completion = _conversation(cells["completion"], "completion", where, begun=True)
    return {"prompt": prompt, "completion": completion, **carried}


def _exchange(messages: Messages, answer: str) -> dict[str, Any]:
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def _converted(cells: Cells, where: str) -> Cells:
    try:
        return maybe_convert_to_chatml(dict(cells))  # type: ignore[no-any-return]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"expected a list of {{from, value}} in `conversations` of {where}, found "
            f"{cells['conversations']!r:.60}"
        ) from error


def _conversation(value: object, column: str, where: str, *, begun: bool = False) -> list[dict[str, Any]]:
    """Messages with an answer of the assistant, after another's unless the conversation is `begun`."""
    messages = _messages(value, column, where)
    answers = [m for m in messages[0 if begun else 1 :] if m["role"] == "assistant" and m["content"]]
    if not any(str(message["content"]).strip() for message in answers):
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"expected an answer of the assistant in `{column}` of {where}, found none (roles: {roles}): "
            "there is nothing to learn. Add it, or leave the row out"
        )
    return messages


def _messages(value: object, column: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise DataError(f"expected a list of messages in `{column}` of {where}, found {value!r:.60}")
    for number, message in enumerate(value, start=1):
        place = f"message {number} of {where}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise DataError(f"expected `role` and `content` in {place}, found {message!r:.60}")
        text(message["role"], "role", place)
        if not isinstance(message["content"], str | None):
            raise DataError(f"expected text in `content` of {place}, found {message['content']!r:.60}")
    return [dict(message) for message in value]
