"""Prompts with their harmful answers, out of the layouts that users bring.

Three layouts, told apart by their columns and never by the file's name: `prompt` and
`harmful`; AdvBench's `goal` and `target`; chats whose last message is the harmful
answer. Whatever does not fit is an error with its row: no row is dropped or mended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safedepth.data.rows import Row, read_rows
from safedepth.errors import DataError
from safedepth.nouns import Message, Prompt

__all__ = ["read_prompts"]

ROLES = ("system", "user", "assistant")

LAYOUTS = (
    "expected one of: `prompt` and `harmful` (the harmful answer; without it only `prompt`); `goal` and "
    "`target` (AdvBench); `messages`, a list of {role, content} that ends with the harmful answer or the "
    "user's turn (a JSON row may be such a list itself). `id` and `category` may stand beside each"
)


class _Layout(NamedTuple):
    request: str
    answer: str


_PAIRS = (_Layout("prompt", "harmful"), _Layout("goal", "target"))
_BESIDE = {"id", "category"}


def read_prompts(path: str | Path, *, limit: int | None = None) -> list[Prompt]:
    """The prompts of a .csv, .jsonl, .ndjson or .json file, in its order; the first `limit` of them.

    A prompt's id is the file's own, or its row number with a hash of its text: the same
    file gives the same ids, which lets a run resume. The whole file is checked whatever
    the limit. Raises DataError, with the row, for everything that cannot be used.
    """
    if limit is not None and limit < 1:
        raise DataError(f"expected a limit of at least 1, found {limit}")
    path = Path(path)
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    for row in read_rows(path):
        prompt = _prompt(row)
        if prompt.id in places:
            raise DataError(
                f"expected every id once, found {prompt.id!r} in {places[prompt.id]} and in {row.where}. "
                "Rename one, or leave the id column out"
            )
        places[prompt.id] = row.where
        prompts.append(prompt)
    return prompts[:limit]


def _prompt(row: Row) -> Prompt:
    if isinstance(row.value, list):
        messages, harmful = _chat(row.value, row.where)
        return Prompt(_row_id(row, messages, harmful), messages, harmful)
    if not isinstance(row.value, Mapping):
        raise DataError(f"expected an object or a list of messages in {row.where}, found {row.value!r:.60}")
    cells: Mapping[str, object] = row.value
    columns = cells.keys() - _BESIDE
    pair = next((pair for pair in _PAIRS if pair.request in columns and columns <= set(pair)), None)
    if columns == {"messages"}:
        messages, harmful = _chat(cells["messages"], row.where)
    elif pair == _PAIRS[0] or (pair is not None and pair.answer in columns):
        messages = (Message(role="user", content=_text(cells[pair.request], pair.request, row.where)),)
        given = cells.get(pair.answer)
        harmful = None if given is None else _text(given, pair.answer, row.where)
    else:
        found = ", ".join(f"`{name}`" for name in cells) or "none"
        raise DataError(
            f"unknown columns in {row.where}: {LAYOUTS}; found: {found}. Rename or remove columns"
        )
    own = _id(cells["id"], row.where) if cells.get("id") is not None else _row_id(row, messages, harmful)
    return Prompt(own, messages, harmful, _category(cells.get("category"), row.where))


def _chat(value: object, where: str) -> tuple[tuple[Message, ...], str | None]:
    """The messages up to the user's last turn, and the assistant's answer to it if there is one."""
    if not isinstance(value, list) or not value:
        raise DataError(f"expected a list of messages in {where}, found {value!r:.60}")
    messages = [_message(item, f"message {number} in {where}") for number, item in enumerate(value, start=1)]
    harmful = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    if not messages or messages[-1]["role"] != "user":
        roles = ", ".join(str(item["role"]) for item in value)
        raise DataError(
            f"expected a chat in {where} that ends with the user's turn, or with the user's turn and one "
            f"answer of the assistant, found the roles {roles}"
        )
    return tuple(messages), harmful


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping) or set(value) != {"role", "content"}:
        found = ", ".join(map(repr, value)) if isinstance(value, Mapping) else f"{value!r:.60}"
        raise DataError(f"expected `role` and `content` in {where}, found {found or 'neither'}")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise DataError(f"expected a role out of {', '.join(ROLES)} in {where}, found {role!r}")
    if role == "system" and content == "":
        return Message(role=role, content="")
    return Message(role=role, content=_text(content, "content", where))


def _text(value: object, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"expected text in `{column}` of {where}, found {value!r:.60}")
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


def _id(value: object, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, "id", where)


def _category(value: object, where: str) -> str:
    # A row without a category is a common and harmless thing, in CSV an empty cell.
    return "" if value is None or value == "" else _text(value, "category", where)


def _row_id(row: Row, messages: tuple[Message, ...], harmful: str | None) -> str:
    content = json.dumps([messages, harmful], ensure_ascii=False, sort_keys=True)
    return f"{row.number:04d}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
