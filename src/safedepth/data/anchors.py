"""Benign requests with the answers a model is to keep giving, and without them.

Four layouts, told apart by their columns: `prompt` and `answer`; TRL's `prompt` and
`completion`; `instruction`, `input` and `output` (Alpaca, and the paper's anchors); chats.
What does not fit is an error with its row.
"""

from __future__ import annotations

from pathlib import Path

from safedepth.data.benchmarks import read_benchmark
from safedepth.data.fields import (
    BESIDE,
    Cells,
    Exchange,
    category,
    cells_of,
    exchanges,
    read_items,
    request,
    row_id,
    text,
    unknown_columns,
)
from safedepth.data.rows import Row
from safedepth.data.sources import place_of
from safedepth.errors import DataError
from safedepth.nouns import Anchor, Prompt

__all__ = ["LAYOUTS", "anchor", "read_anchors", "read_requests"]

LAYOUTS = (
    "expected one of: `prompt` and `answer`; `prompt` and `completion` (TRL, both plain text); "
    "`instruction`, `input` (may be empty or absent) and `output` (Alpaca); `messages`, a list of {role, "
    "content} that ends with the assistant's answer (a JSON row may be such a list itself). `id` and "
    "`category` may stand beside each"
)

# What a row without its answer must have, what it may have, and the column of the answer.
_LAYOUTS = (
    ("prompt", frozenset({"prompt"}), "answer"),
    ("prompt", frozenset({"prompt"}), "completion"),
    ("instruction", frozenset({"instruction", "input"}), "output"),
)


def read_anchors(path: str | Path, *, limit: int | None = None) -> list[Anchor]:
    """The anchors of a .csv, .jsonl, .ndjson or .json file, in its order; of the first `limit` rows.

    Ids are made as `read_prompts` makes them; the whole file is checked whatever the
    limit. Raises DataError, with the row, for everything that cannot be used, a row
    without an answer included.
    """
    return read_items(path, limit, anchor)


def read_requests(path: str | Path, *, limit: int | None = None) -> list[Prompt]:
    """Benign requests in the layouts of `read_anchors` with or without the answer, out of `limit` rows.

    The answer becomes `Prompt.answer`, None where its column is absent or null, or the
    chat ends with the user's turn. Ids and errors are as in `read_anchors`. Of a benchmark
    (`xstest:FILE`, `jailbreakbench`) the benign requests are read, their category the benchmark's
    own; one without such is an error.
    """
    place = place_of(path)
    if place.benchmark is not None:
        return read_benchmark(place.benchmark, place.files, benign=True, limit=limit)
    return read_items(place.files[0], limit, _request)


def anchor(row: Row) -> list[Anchor]:
    """The one anchor of a row. Raises DataError where the row fits no layout or has no answer."""
    cells = cells_of(row)
    messages, answer, _turn = _exchange(cells, row.where)
    if answer is None:
        raise DataError(
            f"expected the answer to keep in {row.where} (`answer`, `completion`, `output`, or the "
            f"assistant's message at the end of `messages`), found none. Add it or remove the row"
        )
    return [Anchor(row_id(row, cells, messages, answer), messages, answer)]


def _request(row: Row) -> list[Prompt]:
    cells = cells_of(row)
    messages, answer, _turn = _exchange(cells, row.where)
    group = category(cells, row.where)
    return [Prompt(row_id(row, cells, messages, answer), messages, category=group, answer=answer)]


def _exchange(cells: Cells, where: str) -> Exchange:
    columns = cells.keys() - BESIDE
    if columns == {"messages"}:
        (exchange,) = exchanges(cells, where)
        return exchange
    for needed, asked, answer in _LAYOUTS:
        if needed in columns and columns <= asked | {answer}:
            given = cells.get(answer)
            return Exchange(request(cells, where), None if given is None else text(given, answer, where))
    raise unknown_columns(cells, where, LAYOUTS)
