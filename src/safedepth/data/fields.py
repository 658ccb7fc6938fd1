"""What the readers of prompts, triplets and anchors share: cells, chats and ids, each checked with its row.

It knows how one row becomes messages and text. It refuses to know which columns a
file must have: each reader says so itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from safedepth.data.rows import Row, read_rows
from safedepth.errors import DataError
from safedepth.nouns import Message

__all__ = [
    "BESIDE",
    "CHAT",
    "Cells",
    "Exchange",
    "category",
    "cells_of",
    "exchanges",
    "items_of",
    "read_items",
    "request",
    "require_limit",
    "required",
    "row_id",
    "text",
    "turn_id",
    "unknown_columns",
]

BESIDE = frozenset({"id", "category"})
"""Columns that may stand beside every layout."""

CHAT = frozenset({"messages", "turns"})
"""The columns of a chat, which may be a trajectory."""

ROLES = ("system", "user", "assistant")

LARGEST = 1_000_000
"""Characters a cell may have; a longer one is a file in a file, or a quote that was never closed."""

Cells = Mapping[str, object]


class Exchange(NamedTuple):
    """Messages up to the user's turn, the answer to it if the row has one, and which harmful turn it is."""

    messages: tuple[Message, ...]
    answer: str | None
    turn: int = 1


class _Item(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_Item)


def read_items(path: str | Path, limit: int | None, parse: Callable[[Row], Sequence[Item]]) -> list[Item]:
    """What `parse` makes of each row of a file, in its order; of the first `limit` rows, if that is given.

    The whole file is checked whatever the limit. Raises DataError for a limit below 1,
    an id that comes twice, and whatever `parse` or the file's syntax brings up.
    """
    return items_of(read_rows(Path(path)), limit, parse)


def require_limit(limit: int | None) -> None:
    """Raise DataError for a limit below 1."""
    if limit is not None and limit < 1:
        raise DataError(f"expected a limit of at least 1, found {limit}")


def items_of(rows: Iterable[Row], limit: int | None, parse: Callable[[Row], Sequence[Item]]) -> list[Item]:
    """`read_items` of rows that are read already."""
    require_limit(limit)
    items: list[Item] = []
    places: dict[str, str] = {}
    for row in rows:
        made = parse(row)
        for item in made:
            if item.id in places:
                raise DataError(
                    f"expected every id once, found {item.id!r} in {places[item.id]} and in {row.where}. "
                    "Rename one, or leave the id column out"
                )
            places[item.id] = row.where
        if limit is None or row.number <= limit:
            items += made
    return items


def cells_of(row: Row) -> Cells:
    """The row's cells by column; a row that is itself a list of messages has one, `messages`."""
    if isinstance(row.value, list):
        return {"messages": row.value}
    if not isinstance(row.value, Mapping):
        raise DataError(f"expected an object or a list of messages in {row.where}, found {row.value!r:.60}")
    return row.value


def unknown_columns(cells: Cells, where: str, layouts: str) -> DataError:
    """The error for columns that make none of the `layouts`."""
    return DataError(
        f"unknown columns in {where}: {layouts}; found: {_names(cells)}. Rename or remove columns"
    )


def required(cells: Cells, column: str, where: str) -> str:
    """The text of a column that has to be there."""
    if column not in cells:
        raise DataError(
            f"expected `{column}` in {where}, found the columns {_names(cells)}. Add it to every row"
        )
    return text(cells[column], column, where)


def text(value: object, column: str, where: str) -> str:
    """`value`, letter for letter; an error unless it is Unicode text, not blank, of 1 MB at most."""
    if not isinstance(value, str):
        raise DataError(f"expected text in `{column}` of {where}, found {value!r:.60}")
    if len(value) > LARGEST:
        raise DataError(
            f"expected at most {LARGEST} characters in `{column}` of {where}, found {len(value)}. Look for a "
            "quote that is not closed, or shorten the cell"
        )
    if not value.strip():
        raise DataError(
            f"expected text in `{column}` of {where}, found an empty one. Fill it or remove the row"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"expected Unicode text in `{column}` of {where}, found half a surrogate pair"
        ) from None
    return value


def request(cells: Cells, where: str) -> tuple[Message, ...]:
    """The user's turn out of `prompt`, or out of `instruction` and, after a line break, `input`."""
    if "instruction" not in cells:
        return (Message(role="user", content=required(cells, "prompt", where)),)
    content = text(cells["instruction"], "instruction", where)
    more = cells.get("input")
    # Most rows of such files have no input: null, or an empty cell.
    if more is not None and not (isinstance(more, str) and not more.strip()):
        content += "\n" + text(more, "input", where)
    return (Message(role="user", content=content),)


def exchanges(cells: Cells, where: str) -> list[Exchange]:
    """The chat in `messages`: one exchange, or one for each harmful answer that `turns` counts.

    `turns` says how many of the last answers are harmful answers of one trajectory; each
    exchange holds the messages up to the user's turn before its answer. A chat that ends
    with the user's turn is one exchange without an answer.
    """
    messages = _messages(cells["messages"], where)
    roles = [message["role"] for message in messages]
    turns = _turns(cells.get("turns"), roles, where)
    answered = roles[-1] == "assistant"
    answers = [index for index, role in enumerate(roles) if role == "assistant"]
    ends = answers[-turns:] if answered else [len(messages)]
    if any(end == 0 or roles[end - 1] != "user" for end in ends):
        each = f" (and each of its last {turns} answers after a user's turn)" if turns > 1 else ""
        raise DataError(
            f"expected a chat in {where} that ends with the user's turn, or with the user's turn and one "
            f"answer of the assistant{each}, found the roles {', '.join(roles)}"
        )
    return [
        Exchange(tuple(messages[:end]), messages[end]["content"] if answered else None, turn)
        for turn, end in enumerate(ends, start=1)
    ]


def _turns(value: object, roles: Sequence[str], where: str) -> int:
    """How many answers are harmful ones of one trajectory; 1 where the row does not say."""
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"expected a whole number in `turns` of {where}, found {value!r:.60}")
    if value > 1 and roles[-1] != "assistant":
        raise DataError(
            f"expected a chat in {where} that ends with the last of its {value} harmful answers (`turns`), "
            f"found the roles {', '.join(roles)}"
        )
    answers = roles.count("assistant")
    if not 1 <= value <= max(1, answers):
        raise DataError(
            f"expected `turns` of {where} to count harmful answers at the end of the chat, from 1 to as many "
            f"as the assistant gives ({answers}), found {value}"
        )
    return value


def _messages(value: object, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"expected a list of messages in {where}, found {value!r:.60}")
    return [_message(item, f"message {number} in {where}") for number, item in enumerate(value, start=1)]


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping) or set(value) != {"role", "content"}:
        found = ", ".join(map(repr, value)) if isinstance(value, Mapping) else f"{value!r:.60}"
        raise DataError(f"expected `role` and `content` in {where}, found {found or 'neither'}")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise DataError(f"expected a role out of {', '.join(ROLES)} in {where}, found {role!r}")
    if role == "system" and content == "":
        return Message(role=role, content="")
    return Message(role=role, content=text(content, "content", where))


def category(cells: Cells, where: str) -> str:
    """The row's category, empty where it has none."""
    # A row without a category is a common and harmless thing, in CSV an empty cell.
    value = cells.get("category")
    return "" if value is None or value == "" else text(value, "category", where)


def row_id(row: Row, cells: Cells, messages: Sequence[Message], *texts: str | None) -> str:
    """The row's own id, or its number with a hash of its text: the same file gives the same ids."""
    value = cells.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None:
        return text(value, "id", row.where)
    content = json.dumps([messages, *texts], ensure_ascii=False, sort_keys=True)
    return f"{row.number:04d}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def turn_id(own: str, turn: int, turns: int) -> str:
    """The id of one turn of a row: the row's own, with the turn where there is more than one."""
    return f"{own}/t{turn}" if turns > 1 else own


def _names(cells: Cells) -> str:
    return ", ".join(f"`{name}`" for name in cells) or "none"
