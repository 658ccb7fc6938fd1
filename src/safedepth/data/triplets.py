"""Triplets to train on: a request, a harmful answer to it, and the refusal to learn.

Three layouts, told apart by their columns: `prompt`, `harmful`, `refusal`; the same with
`instruction` and `input` for the request; chats that end in the harmful answer, or in a
trajectory of them, with `refusal` beside. What does not fit is an error with its row.
"""

from __future__ import annotations

from pathlib import Path

from safedepth.data.fields import (
    BESIDE,
    CHAT,
    Cells,
    Exchange,
    cells_of,
    exchanges,
    read_items,
    request,
    required,
    row_id,
    text,
    turn_id,
    unknown_columns,
)
from safedepth.data.rows import Row
from safedepth.errors import DataError
from safedepth.nouns import Triplet

__all__ = ["read_triplets"]

LAYOUTS = (
    "expected one of: `prompt`, `harmful` (the harmful answer) and `refusal`; `instruction`, `input` (may "
    "be empty or absent), `harmful` and `refusal`; `messages`, a list of {role, content} that ends with the "
    "harmful answer, and `refusal`, with `turns` where more than one of the last answers is harmful. `id`, "
    "`category`, and all of `explanation`, `reason`, `redirection` may stand beside each"
)

_ESCALATION = ("explanation", "reason", "redirection")
_REQUESTS = (frozenset({"prompt", "harmful"}), frozenset({"instruction", "input", "harmful"}))


def read_triplets(path: str | Path, *, limit: int | None = None) -> list[Triplet]:
    """The triplets of a .csv, .jsonl, .ndjson or .json file, in its order; of the first `limit` rows.

    A chat with `turns` = T > 1 is a trajectory: its last T answers are harmful, and it
    becomes T triplets with the same refusal, the t-th with t - 1 harmful answers in its
    messages and the id "<row's id>/t<t>". Every other row is one triplet. Ids are made as
    `read_prompts` makes them, `category` is ignored, and the whole file is checked
    whatever the limit. Raises DataError, with row and field, for everything that cannot
    be used.
    """
    return read_items(path, limit, _triplets)


def _triplets(row: Row) -> list[Triplet]:
    cells = cells_of(row)
    columns = cells.keys() - BESIDE - {"refusal", *_ESCALATION}
    if "messages" in columns and columns <= CHAT:
        turns = exchanges(cells, row.where)
    elif {"prompt", "instruction"} & columns and any(columns <= layout for layout in _REQUESTS):
        turns = [Exchange(request(cells, row.where), required(cells, "harmful", row.where))]
    else:
        raise unknown_columns(cells, row.where, LAYOUTS)
    refusal = required(cells, "refusal", row.where)
    escalation = _escalation(cells, row.where)
    own = row_id(row, cells, turns[-1].messages, turns[-1].answer, refusal, *escalation)
    return [
        Triplet(
            id=turn_id(own, turn, len(turns)),
            messages=messages,
            harmful=_answer(harmful, row.where),
            refusal=refusal,
            escalation=escalation,
            turn=turn,
        )
        for messages, harmful, turn in turns
    ]


def _answer(harmful: str | None, where: str) -> str:
    if harmful is None:
        raise DataError(
            f"expected `messages` of {where} to end with the assistant's harmful answer, found the user's "
            "turn at the end. Add the answer or remove the row"
        )
    return harmful


def _escalation(cells: Cells, where: str) -> tuple[str, ...]:
    """What a longer refusal goes on to say, in its order; nothing where all three cells are empty."""
    given = [name for name in _ESCALATION if cells.get(name) not in (None, "")]
    missing = [f"`{name}`" for name in _ESCALATION if name not in given]
    if given and missing:
        raise DataError(
            f"expected all three of `explanation`, `reason`, `redirection` in {where} or none of them, found "
            f"no {' and no '.join(missing)}. Fill what is missing, or leave the others empty too"
        )
    return tuple(text(cells[name], name, where) for name in given)
