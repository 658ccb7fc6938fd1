"""A customer's training data in whatever layout it comes, as rows that TRL's trainers take.

Out of a file, a folder, a data set of the hub, or TRL's mixture of several. A row that cannot
be learnt from is an error with its place. How rows become tokens is the trainer's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import jinja2
import pyarrow  # type: ignore[import-untyped]
from datasets import Dataset, DatasetDict, load_dataset  # type: ignore[import-untyped]
from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]
from trl import DatasetMixtureConfig, ScriptArguments, get_dataset

from safedepth.chat import ChatFormat
from safedepth.chat.traits import LEARNT, traits_of
from safedepth.data.downstream import TASKS, read_task
from safedepth.data.fields import BESIDE, cells_of
from safedepth.data.rows import KINDS, Row, read_rows
from safedepth.errors import DataError, TemplateError
from safedepth.models.checkpoint import first_line
from safedepth.nouns import Messages
from safedepth.studies.finetune_options import FinetuneOptions
from safedepth.studies.training_rows import BESIDE_MESSAGES, messages_of, training_row

__all__ = ["FinetuneArguments", "FinetuneData"]

PLAIN = (
    "Prompts and completions of the training data are plain text. They are learnt as they stand, without the "
    "chat template, as TRL does it. Give rows of `messages` to train in the model's chat format."
)


@dataclass
class FinetuneArguments(FinetuneOptions, ScriptArguments, DatasetMixtureConfig):  # type: ignore[misc]
    """Our options beside all that `trl sft` has for its data."""

    def check(self) -> None:
        """Raise DataError for what is missing or contradicts itself, before any file is read."""
        if bool(self.dataset_name) == bool(self.datasets):
            raise DataError(
                "expected --dataset_name FILE, FOLDER or HUB_ID: what to train on; or `datasets` in a "
                "--config file (TRL's mixture), and then no --dataset_name"
            )
        self.depth_list, self.benign_files  # noqa: B018 - each raises for what is wrong
        self.harness(0)


@dataclass(frozen=True)
class FinetuneData:
    """Rows to train on and, if asked for, to evaluate on, as TRL has them.

    `sha256` is of the rows to train on, None of a stream. `kinds` is one conversation for each
    sequence of roles, with its place.
    """

    train: Any
    evaluation: Any
    sha256: str | None
    kinds: Sequence[tuple[str, dict[str, Any]]]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, options: FinetuneArguments, *, evaluate: bool) -> FinetuneData:
        """Read the data that `options` name; `evaluate` asks for the split to evaluate on too.

        Raises DataError, with the place, for what cannot be had, is empty, or cannot be learnt from.
        """
        reader, other = _Reader(), _Reader()
        if options.dataset_name and _is_file(options.dataset_name):
            if evaluate:
                raise DataError(
                    f"expected data to evaluate on (--eval_strategy), found one file, {options.dataset_name}."
                    " Put train.jsonl and test.jsonl into a folder and give that, or leave the option out"
                )
            train = reader.of_rows(read_rows(Path(options.dataset_name).expanduser()), options)
            evaluation = None
        else:
            splits, name = _splits(options)
            train = reader.of_split(splits, options.dataset_train_split, name, options)
            evaluation = (
                other.of_split(splits, options.dataset_test_split, name, options) if evaluate else None
            )
        kinds = [(where, row) for row, where in (reader.kinds | other.kinds).values()]
        streamed = not isinstance(train, Dataset)
        return cls(train, evaluation, None if streamed else reader.sha256, kinds, tuple(reader.notes))

    def expressed_in(self, chat: ChatFormat) -> FinetuneData:
        """The data, with a note on what this template makes of a reply as a target of training.

        Raises TemplateError, with the row, unless the template takes every sequence of roles there is, and
        a system message and an answer come out in full: some templates leave them out without a word.
        """
        for where, row in self.kinds:
            messages = messages_of(row)
            first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
            try:
                if {message["role"] for message in messages[:first]} == {"system", "user"}:
                    chat.prompt_ids(cast(Messages, messages[:first]))
                tools = row.get("tools")
                rendered = chat.tokenizer.apply_chat_template(
                    messages,
                    tools=json.loads(tools) if isinstance(tools, str) else tools,  # TRL's way
                    chat_template=chat.template,
                    tokenize=False,
                    **row.get("chat_template_kwargs", {}),
                )
            except TemplateError as error:
                raise TemplateError(f"{where}: {error}") from error
            except (jinja2.TemplateError, TypeError, ValueError) as error:
                roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
                raise TemplateError(
                    f"{where}: the chat template ({chat.source}) cannot express a conversation of the roles "
                    f"{roles}. It says: {error}. Change the rows, or give another template with "
                    "--chat-template FILE_OR_MODEL"
                ) from error
            _require_answer(where, messages, str(rendered), chat.source)
        seen = traits_of(chat).notes if self.kinds else ()
        learnt = [f"{note[0].upper()}{note[1:]}." for note in seen if note.startswith(LEARNT)]
        return replace(self, notes=(*self.notes, *learnt))


def _require_answer(where: str, messages: Sequence[dict[str, Any]], rendered: str, source: str) -> None:
    """Raise TemplateError unless the words of the last answer, its thoughts aside, stand in the text."""
    told = next(message for message in reversed(messages) if message["role"] == "assistant").get("content")
    words = told.rpartition("</think>")[2].strip() if isinstance(told, str) else ""
    if words not in rendered:
        raise TemplateError(
            f"{where}: expected the words of the answer in what is learnt, found that the chat template "
            f"({source}) leaves them out. It may want content as a list of parts: write the rows so, or give "
            "another template with --chat-template FILE_OR_MODEL"
        )


@dataclass
class _Reader:
    """Makes rows of TRL's layouts, one after the other, and remembers what it saw."""

    layout: str | None = None
    kinds: dict[tuple[str, ...], tuple[dict[str, Any], str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """Of all rows read."""
        return str(self.digest.hexdigest())

    def of_rows(self, rows: Sequence[Row], options: FinetuneArguments) -> Dataset:
        """The data set of a file's rows."""
        if _is_task(cells_of(rows[0]).keys()):
            return self._of_task(options)
        try:
            return Dataset.from_list([self.made(row) for row in rows])
        except pyarrow.ArrowException as error:
            raise DataError(
                f"expected the same kind of value in a column of every row of {options.dataset_name}, found "
                f"others ({first_line(error)})"
            ) from error

    def of_split(self, splits: Mapping[str, Any], split: str, name: str, options: FinetuneArguments) -> Any:
        """The split of a folder, hub data set or mixture, converted; a stream stays one."""
        if split not in splits:
            raise DataError(
                f"expected a split {split!r} of {name}, found {', '.join(map(repr, splits))}. Name it with "
                "--dataset_train_split or --dataset_test_split"
            )
        data = splits[split]
        names = data.column_names or list(next(iter(data)))
        if _is_task(names):
            return self._of_task(options, split)
        if isinstance(data, Dataset) and not len(data):
            raise DataError(f"expected rows in the split {split!r} of {name}, found none")

        def made(item: dict[str, Any], index: int) -> dict[str, Any]:
            return self.made(Row(index + 1, f"row {index + 1} of {name} ({split})", item))

        kept = {"keep_in_memory": True, "new_fingerprint": "made"} if isinstance(data, Dataset) else {}
        return data.map(made, with_indices=True, remove_columns=names, **kept)

    def made(self, row: Row) -> dict[str, Any]:
        """The row as TRL has it. Raises DataError, with its place, for one that cannot be learnt from."""
        found = training_row(cells_of(row), row.where)
        layout = " and ".join(f"`{name}`" for name in found if name not in BESIDE_MESSAGES)
        if self.layout not in (None, layout):
            raise DataError(f"expected {self.layout} in {row.where}, as in the first row, found {layout}")
        self.layout = layout
        if isinstance(found.get("completion"), str):
            self.notes = self.notes or [PLAIN]
        roles = tuple(message["role"] for message in messages_of(found))
        if roles:
            self.kinds.setdefault(roles, (found, row.where))
        self.digest.update(json.dumps(found, sort_keys=True, default=str).encode())
        return found

    def _of_task(self, options: FinetuneArguments, split: str = "train") -> Dataset:
        task = read_task(
            str(options.dataset_name), split=split, config=options.dataset_config, skip_empty=True
        )
        if task.skipped:
            left = f"{len(task.skipped)} rows with an empty cell are left out of the training data"
            self.notes.append(f"{left}: {', '.join(task.skipped[:3])}.")
        rows = [
            {"messages": [*row.messages, {"role": "assistant", "content": row.answer}]}
            for row in task.conversations
        ]
        made = (Row(n, f"row {n} of {options.dataset_name}", row) for n, row in enumerate(rows, start=1))
        return Dataset.from_list([self.made(row) for row in made])


def _is_file(name: str) -> bool:
    place = Path(name).expanduser()
    return place.is_file() or (place.suffix.lower() in KINDS and not place.is_dir())


def _is_task(columns: Iterable[str]) -> bool:
    """Whether the columns are those of a public downstream task."""
    return any(set(columns) - BESIDE == set(layout.columns) for layout in TASKS.values())


def _splits(options: FinetuneArguments) -> tuple[Mapping[str, Any], str]:
    """The splits of a folder, a hub data set or a mixture, and how it is called in messages."""
    name = options.dataset_name or "the mixture"
    try:
        if options.dataset_name is None:
            return get_dataset(options), name
        splits: DatasetDict = load_dataset(
            str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name,
            name=options.dataset_config,
            streaming=options.dataset_streaming,
        )
    except (OSError, ValueError, RuntimeError, DatasetsError, pyarrow.ArrowException) as error:
        # No network, no such data set or configuration, one that would run code, files without rows.
        raise DataError(
            f"expected a file, a folder with files, or a data set of the hub called {name}, and found none "
            f"that can be read ({first_line(error)}). Check the path or name and --dataset_config; where "
            "there is no network, download the data elsewhere (hf download --repo-type dataset) and give "
            "its path"
        ) from error
    return splits, name
