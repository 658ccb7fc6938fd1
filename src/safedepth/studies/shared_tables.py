"""Which texts of a run's tables and records are taken out for sharing, and which come back.

`Cleaner` takes them out: a column travels as it is only if it is known to hold names.
`Known` puts back what the reader's own prompts restore. It refuses to know run directories:
see `sharing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from safedepth.nouns import Prompt
from safedepth.studies.hiding import (
    RUN,
    SHORTEST,
    Quotations,
    hashed,
    local_path,
    looked_up,
    names_only,
    revealed,
    sha256_of,
    word_count,
)

__all__ = ["Cleaner", "Known"]

NAMES = frozenset(
    {
        "arm", "attack", "category", "data", "dtype", "evaluation", "judge", "key", "kind", "lane", "layer",
        "measure", "method", "metric", "model", "name", "objective", "outcome", "policy", "prefix",
        "prompt_id", "reference", "role", "run", "scope", "set", "side", "state", "stop_reason", "task",
        "type", "variant", "version", "wording",
    }
)  # fmt: skip
"""Columns of names and labels, which travel. Any other column's texts are hashed."""

SAID = frozenset({"continuation", "reason", "reply"})
"""Columns of what models said, which travel where that is asked for."""

TOKEN = "token"
"""The column of single tokens: so few are possible that a hash would give each away."""


BEGINNINGS = frozenset({"prefill", "rank_prefill", "multi_turn"})
"""Attacks that force the beginning of the file's answer and nothing else."""

OWN_WORDS = frozenset({"on_policy"})
"""Attacks that force what a model said itself."""


class _Change(Protocol):
    """What becomes of a text in a table; `key` is its row's prompt, empty where the table has none."""

    def __call__(self, text: str, /, key: str) -> str: ...


def _walked(value: Any, change: Callable[[str], str]) -> Any:
    """A value of JSON or of a table's cell with every string in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): _walked(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_walked(item, change) for item in value]
    if isinstance(value, bytes):
        return change(value.decode("utf-8", errors="replace"))
    return value


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value but its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _changed(table: pd.DataFrame, column: str, change: _Change) -> pd.Series:
    """A column with every text in it changed, given the row's prompt; its type and gaps stay."""
    keys = table["prompt"] if "prompt" in table else pd.Series("", index=table.index)
    values = [
        _walked(value, partial(change, key=key if isinstance(key, str) else ""))
        for value, key in zip(table[column], keys, strict=True)
    ]
    # A categorical type would keep its categories, which are texts.
    dtype = None if isinstance(table[column].dtype, pd.CategoricalDtype) else table[column].dtype
    return pd.Series(values, index=table.index, dtype=dtype, name=column)


def _column_texts(table: pd.DataFrame, column: str) -> list[str]:
    """The different texts of a column, none where the table has no such column."""
    if column not in table:
        return []
    return [text for text in table[column].drop_duplicates() if isinstance(text, str) and text]


class _Forced(NamedTuple):
    """A text that was forced, after which prompt, and by which attack."""

    prompt: str
    text: str
    attack: str


def _forced(table: pd.DataFrame) -> Iterator[_Forced]:
    """The different forced texts of a table."""
    columns = [name for name in ("prompt", "forced", "attack") if name in table]
    if {"prompt", "forced"} <= set(columns):
        for row in table[columns].drop_duplicates().to_dict("records"):
            prompt, text = row["prompt"], row["forced"]
            if isinstance(prompt, str) and isinstance(text, str) and text:
                yield _Forced(prompt, text, str(row.get("attack", "")))


def _sources(forced: Sequence[_Forced]) -> Iterator[tuple[str, str]]:
    """Of what was forced the parts that are the file's, short ones first, each with its prompt.

    What a model had said before harmful tokens were inserted is its own: from where a beginning
    of the answer is known the rest is the file's. A text of which nothing is known counts whole.
    """
    begun: dict[str, list[str]] = {}
    for one in forced:
        if one.attack in BEGINNINGS and word_count(one.text) >= SHORTEST:
            begun.setdefault(one.prompt, []).append(one.text)
    for one in sorted(set(forced), key=lambda one: (len(one.text), one)):
        if one.attack in OWN_WORDS or word_count(one.text) < RUN:
            continue  # a few forced words are said by anyone; in their own column they are hidden
        places = [one.text.find(beginning) for beginning in begun.get(one.prompt, ())]
        yield one.text[min((at for at in places if at >= 0), default=0) :], one.prompt


class Cleaner:
    """Takes the texts of one run's prompts and harmful answers out of its tables and records."""

    def __init__(
        self, tables: Mapping[str, pd.DataFrame], config: Mapping[str, Any], *, replies: bool
    ) -> None:
        # Refusals that were forced are words of ours; what else was forced is the file's or the model's.
        self._openings = {text for table in tables.values() for text in _column_texts(table, "prefix")}
        asked = {text for table in tables.values() for text in _column_texts(table, "prompt")}
        forced = [entry for table in tables.values() for entry in _forced(table)]
        # Of texts that are quoted alike the first is referred to: a prompt before one with a suffix, the
        # beginning of an answer before what holds it, because those can be restored.
        hidden = {text: sha256_of(text) for text in sorted(asked, key=lambda text: (len(text), text))}
        for text, prompt in _sources([one for one in forced if one.text not in self._openings]):
            hidden.setdefault(text, sha256_of(text, prompt))
        others = {one.text for one in forced if one.attack not in OWN_WORDS}
        self._own = {one.text for one in forced} - others
        self._replies = replies
        named = {path for text in _strings(config) if (path := local_path(text))}
        self._paths = sorted(named, key=len, reverse=True)
        # A reply stands in a table once for every judge.
        self._hidden = cache(Quotations(hidden, allowed=self._openings).hidden)

    def clean(self, value: Any) -> Any:
        """A record of the run without quotations and without folders of this machine."""
        return _walked(value, self._label)

    def table(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of the run whose texts are hashed, but for names and what is allowed to travel."""
        columns = [_changed(table, name, self._change(name)) for name in table.columns]
        return pd.DataFrame({self._label(str(column.name)): column for column in columns})

    def _change(self, column: str) -> _Change:
        if column in NAMES:
            return lambda text, /, key: self._label(text)
        if column == TOKEN:
            return lambda text, /, key: ""
        if column == "prompt":
            return lambda text, /, key: hashed(text)
        if column in SAID and self._replies:
            return lambda text, /, key: self._hidden(text)
        if column == "forced":
            return self._opening
        return hashed

    def _opening(self, text: str, /, key: str) -> str:
        if text in self._openings:
            return text
        return self._hidden(text) if self._replies and text in self._own else hashed(text, key)

    def _label(self, text: str) -> str:
        return self._hidden(names_only(text, self._paths))


class Known:
    """What the reader's own prompts restore in the tables and records of a shared run."""

    def __init__(self, texts: dict[str, str], prompts: set[str], forced: set[str]) -> None:
        self._texts = texts
        self.prompts = prompts
        self.missing = {sha for sha in prompts if sha not in texts}
        self._forced = forced
        self._left = {sha for sha in forced if sha not in texts}

    @classmethod
    def of(cls, prompts: list[Prompt], tables: Mapping[str, pd.DataFrame]) -> Known:
        """Match the hashes in the tables with the prompts and the beginnings of their harmful answers."""
        answers: dict[str, list[str]] = {}
        for prompt in prompts:
            answers.setdefault(prompt.messages[-1]["content"], []).append(prompt.harmful or "")
        texts = {sha256_of(request): request for request in answers}
        asked = {
            sha for table in tables.values() for cell in _column_texts(table, "prompt") if (sha := _sha(cell))
        }
        forced: set[str] = set()
        for table in tables.values():
            for one in _forced(table):
                found = looked_up(one.text)
                if found is not None:
                    sha, length = found
                    forced.add(sha)
                    request = texts.get(_sha(one.prompt) or "", "")
                    for answer in answers.get(request, ()):
                        for text in (answer[:length], answer.lstrip()[:length]):
                            if sha256_of(text, request) == sha:
                                texts[sha] = text
        return cls(texts, asked, forced)

    @property
    def warnings(self) -> list[str]:
        """What did not come back, counted."""
        found: list[str] = []
        if self.missing:
            found.append(
                f"{len(self.missing)} of {len(self.prompts)} prompts of the shared run are not among those "
                "given: hashes still stand for them."
            )
        if self._left:
            found.append(
                f"{len(self._left)} of {len(self._forced)} forced texts begin none of the harmful answers "
                "given: hashes still stand for them."
            )
        return found

    def restored(self, value: Any) -> Any:
        """A record with the quotations that are known."""
        return _walked(value, lambda text: revealed(text, self._texts))

    def table(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with the texts that are known."""

        def known(text: str, /, key: str = "") -> str:
            return revealed(text, self._texts)

        columns = [_changed(table, name, known) for name in table.columns]
        return pd.DataFrame({known(str(column.name)): column for column in columns})


def _sha(cell: object) -> str | None:
    found = looked_up(cell) if isinstance(cell, str) else None
    return found[0] if found else None
