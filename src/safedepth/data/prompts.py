"""Prompts with their harmful answers, out of the layouts that users bring.

Three layouts, told apart by their columns and never by the file's name: `prompt` and
`harmful`; AdvBench's `goal` and `target`; chats whose last message is the harmful
answer, or whose last few answers are one harmful trajectory. Whatever does not fit is
an error with its row: no row is dropped or mended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safedepth.data.benchmarks import read_benchmark
from safedepth.data.fields import (
    BESIDE,
    CHAT,
    Exchange,
    category,
    cells_of,
    exchanges,
    read_items,
    row_id,
    text,
    turn_id,
    unknown_columns,
)
from safedepth.data.rows import Row
from safedepth.data.sources import place_of
from safedepth.nouns import Message, Prompt

__all__ = ["read_prompts", "write_prompts"]

LAYOUTS = (
    "expected one of: `prompt` and `harmful` (the harmful answer; without it only `prompt`); `goal` and "
    "`target` (AdvBench); `messages`, a list of {role, content} that ends with the harmful answer or the "
    "user's turn (a JSON row may be such a list itself), and `turns` where more than one of the last "
    "answers is harmful. `id` and `category` may stand beside each. A public benchmark is given with its "
    "name (hex-phi:PATH)"
)


class _Layout(NamedTuple):
    request: str
    answer: str


_PAIRS = (_Layout("prompt", "harmful"), _Layout("goal", "target"))


def read_prompts(path: str | Path, *, limit: int | None = None) -> list[Prompt]:
    """The prompts of a .csv, .jsonl, .ndjson or .json file, in its order; of the first `limit` rows.

    `path` may be any source (`sources`): `hex-phi:FOLDER`, `xstest:FILE`, `jailbreakbench` from
    the hub. A benchmark's file must be as it is published; `category` is the benchmark's own.

    A chat with `turns` = T > 1 is a trajectory: its last T answers are harmful, and it
    becomes T prompts, the t-th with t - 1 harmful answers in its messages and the id
    "<row's id>/t<t>". Every other row is one prompt.

    A row's id is the file's own, or its row number with a hash of its text: the same
    file gives the same ids, which lets a run resume. The whole file is checked whatever
    the limit. Raises DataError, with the row, for everything that cannot be used.
    """
    place = place_of(path)
    if place.benchmark is not None:
        return read_benchmark(place.benchmark, place.files, limit=limit)
    return read_items(place.files[0], limit, _prompts)


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as the JSONL of chats that `read_prompts` reads back to the same prompts.

    A turn of a trajectory comes back as a prompt of its own, with the id it had.
    """
    rows = []
    for prompt in prompts:
        answer = [] if prompt.harmful is None else [Message(role="assistant", content=prompt.harmful)]
        category = {"category": prompt.category} if prompt.category else {}
        rows.append({"id": prompt.id, **category, "messages": [*prompt.messages, *answer]})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def _prompts(row: Row) -> list[Prompt]:
    cells = cells_of(row)
    columns = cells.keys() - BESIDE
    pair = next((pair for pair in _PAIRS if pair.request in columns and columns <= set(pair)), None)
    if "messages" in columns and columns <= CHAT:
        turns = exchanges(cells, row.where)
    elif pair == _PAIRS[0] or (pair is not None and pair.answer in columns):
        messages = (Message(role="user", content=text(cells[pair.request], pair.request, row.where)),)
        given = cells.get(pair.answer)
        turns = [Exchange(messages, None if given is None else text(given, pair.answer, row.where))]
    else:
        raise unknown_columns(cells, row.where, LAYOUTS)
    own = row_id(row, cells, turns[-1].messages, turns[-1].answer)
    group = category(cells, row.where)
    return [
        Prompt(turn_id(own, turn, len(turns)), messages, harmful, group, turn)
        for messages, harmful, turn in turns
    ]
