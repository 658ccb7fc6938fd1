"""Downstream tasks out of their public files: Samsum, SQL Create Context, GSM8K, or a file of one's own.

A task is known by its columns, never by the name of the file or of the hub's data set. Each
row becomes a conversation with the instruction of the paper's fine-tuning runs (section 4),
the same to train on and to test with. It refuses to know how replies are scored: see
`judges.utility`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from safedepth.data import anchors
from safedepth.data.fields import BESIDE, Cells, cells_of, items_of, required, row_id, unknown_columns
from safedepth.data.rows import KINDS, Row, read_rows
from safedepth.errors import DataError
from safedepth.nouns import Anchor, Message, Prompt

__all__ = ["FILE", "TASKS", "TaskData", "read_task", "require_no_leak", "without_leaks"]


class Layout(NamedTuple):
    """The columns of a public task, which of them is the answer, and how the others become a request."""

    columns: tuple[str, ...]
    answer: str
    system: str
    request: str


TASKS: Mapping[str, Layout] = MappingProxyType(
    {
        "samsum": Layout(
            ("dialogue", "summary"),
            "summary",
            "You are a helpful assistant for dialog summarization.",
            "Summarize this dialog:\n{dialogue}",
        ),
        "sql": Layout(
            ("question", "context", "answer"),
            "answer",
            "You are a helpful assistant for translating Natural Language Query into SQL Query considering "
            "the provided Context.",
            "## Context:\n{context}\n## Natural Language Query:\n{question}\nPlease convert the provided "
            "natural language query into an SQL query, taking into account the structure context of the "
            "database defined by the accompanying CREATE statement.\n## SQL Query:\n",
        ),
        "gsm8k": Layout(("question", "answer"), "answer", "You are a helpful assistant.", "{question}"),
    }
)
"""The public tasks by name, with the words the paper's models were fine-tuned on."""

FILE = "file"
"""The task of a file in one of the layouts of `read_anchors`: its instruction stands in it."""

LAYOUTS = (
    "expected one of: `dialogue` and `summary` (Samsum); `question`, `context` and `answer` (SQL Create "
    "Context); `question` and `answer` (GSM8K); or a file of your own with "
    + anchors.LAYOUTS.removeprefix("expected one of: ")
)

_OWN = {"prompt", "instruction", "messages"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_RESULT = re.compile(r"#### *-?\$?\.?[0-9]")


@dataclass(frozen=True)
class TaskData:
    """A downstream task's rows: conversations to train on or, without their answers shown, to test with.

    `task` is a name of `TASKS`, or "file". `skipped` are the places of rows left out because
    a cell was empty, and is empty itself unless that was asked for.
    """

    task: str
    conversations: tuple[Anchor, ...]
    skipped: tuple[str, ...] = ()

    @property
    def requests(self) -> list[Prompt]:
        """The rows to test with: the request, and what a good reply says as its `answer`."""
        return [Prompt(row.id, row.messages, answer=row.answer) for row in self.conversations]


def read_task(
    source: str | Path,
    *,
    task: str | None = None,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    skip_empty: bool = False,
    system: bool = True,
) -> TaskData:
    """The rows of a task, from a file or, where no file has that name, from the hub.

    Args:
        source: a .csv, .jsonl, .ndjson, .json or .parquet file, or a data set's hub id.
        task: what the columns must turn out to be, a name of `TASKS` or "file"; None takes what they are.
        split: of a hub data set, in the hub's notation ("test", "train[:1000]"); a file has none.
        config: of a hub data set that has several ("main" for openai/gsm8k).
        revision: of a hub data set: a branch, tag or commit.
        limit: take the first so many rows; all are checked.
        skip_empty: leave out rows with an empty cell (the published Samsum has one) and list them.
        system: whether each public task's system prompt goes before its request.

    Raises:
        DataError: the file or data set cannot be had; the columns make no task, another than
            `task`, or not the same in every row; a cell is empty and `skip_empty` is not set.
    """
    if task is not None and task not in (*TASKS, FILE):
        raise DataError(f"No downstream task is called {task!r}. There are: {', '.join((*TASKS, FILE))}.")
    if _on_hub(source):
        rows: Iterable[Row] = _hub_rows(str(source), split, config, revision)
    else:
        rows = read_rows(Path(source))
    found: list[str] = []
    skipped: list[str] = []

    def conversations(row: Row) -> Sequence[Anchor]:
        cells = cells_of(row)
        name = _task_of(cells, row.where)
        _require_same(name, task or (found[0] if found else name), cells, row.where, given=task is not None)
        found.append(name)
        if name == FILE:
            return anchors.anchor(row)
        if skip_empty and any(_empty(cells[column]) for column in TASKS[name].columns):
            if limit is None or row.number <= limit:
                skipped.append(row.where)
            return []
        return [_conversation(TASKS[name], row, cells, system=system)]

    made = items_of(rows, limit, conversations)
    if not made:
        raise DataError(f"expected rows in {source}, found none without an empty cell")
    return TaskData(found[0], tuple(made), tuple(skipped))


def require_no_leak(train: Sequence[Anchor], test: Sequence[Anchor]) -> None:
    """Raise DataError where a request to test with is trained on, up to white space and system prompts."""
    trained = {_asked(row) for row in train}
    leaked = [row.id for row in test if _asked(row) in trained]
    if leaked:
        raise DataError(
            f"expected no request among both the training and the test rows, found {len(leaked)} of "
            f"{len(test)} (first: {leaked[0]!r}): their answers would be remembered. Remove them from the "
            "training rows (`without_leaks` does it)"
        )


def without_leaks(train: Sequence[Anchor], test: Sequence[Anchor]) -> list[Anchor]:
    """The training rows whose request is not among those to test with, up to white space."""
    tested = {_asked(row) for row in test}
    return [row for row in train if _asked(row) not in tested]


def _asked(row: Anchor) -> tuple[tuple[str, str], ...]:
    """What a row asks, by which two rows are the same request."""
    turns = (message for message in row.messages if message["role"] != "system")
    return tuple((message["role"], " ".join(message["content"].split())) for message in turns)


def _task_of(cells: Cells, where: str) -> str:
    """The task that a row's columns make."""
    columns = cells.keys() - BESIDE
    for name, layout in TASKS.items():
        if columns == set(layout.columns):
            return name
    if columns & _OWN:
        return FILE
    raise unknown_columns(cells, where, LAYOUTS)


def _require_same(found: str, wanted: str, cells: Cells, where: str, *, given: bool) -> None:
    if found == wanted:
        return
    why = "as was asked for" if given else "as in the first row"
    raise DataError(
        f"expected the columns of the task {wanted!r} in {where}, {why}; found those of {found!r}: "
        f"{', '.join(f'`{name}`' for name in cells)}. Name the right task, or give each its own file"
    )


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _conversation(layout: Layout, row: Row, cells: Cells, *, system: bool) -> Anchor:
    # Stripped here, once: the paper's code strips a dialogue to train on and not the one to test with.
    texts = {name: _text(cells, name, row.where).strip() for name in layout.columns}
    answer = texts[layout.answer]
    if layout is TASKS["gsm8k"] and not _RESULT.search(answer):
        raise DataError(
            f"expected GSM8K's `#### ` and a number in `answer` of {row.where}, found neither. Where this is "
            "no GSM8K, name the columns `prompt` and `answer`"
        )
    before = (Message(role="system", content=layout.system),) if system else ()
    messages = (*before, Message(role="user", content=layout.request.format(**texts)))
    return Anchor(row_id(row, cells, messages, answer), messages, answer)


def _text(cells: Cells, column: str, where: str) -> str:
    if _empty(cells[column]):
        raise DataError(
            f"expected text in `{column}` of {where}, found an empty one. Remove the row, or leave out such "
            "rows with skip_empty (Samsum's training rows have one as they are published)"
        )
    return required(cells, column, where)


def _on_hub(source: str | Path) -> bool:
    """Whether a source can only be a data set's hub id: no file has its name, and none could."""
    place = Path(source)
    named = _HUB_ID.fullmatch(str(source)) and place.suffix.lower() not in KINDS
    return bool(named) and not place.exists()


def _hub_rows(name: str, split: str, config: str | None, revision: str | None) -> list[Row]:
    from datasets import load_dataset  # type: ignore[import-untyped]
    from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

    try:
        data = load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        # No network, no such data set, configuration or split, or one that would run code.
        raise DataError(
            f"expected a file or a data set of the hub called {name}, found no such file, and the hub gave: "
            f"{str(error).partition(chr(10))[0]}. Check name, split ({split}) and config ({config}); or "
            "download the data set's file where there is a network and give its path"
        ) from error
    columns = data.column_names
    return [
        Row(number, f"row {number} of {name} ({split})", {column: item[column] for column in columns})
        for number, item in enumerate(data, start=1)
    ]
