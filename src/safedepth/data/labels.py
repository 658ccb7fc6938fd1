"""A slice of a run that a person labels: a CSV written with empty labels, and read with them filled in.

A reply is known by its key, a hash of its texts, so that the texts themselves are for the
person alone and may be cut or changed by a spreadsheet. It refuses to know which replies are
worth a label, and whether the labels are right.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from safedepth.data.fields import cells_of
from safedepth.data.rows import Row, read_rows
from safedepth.errors import DataError
from safedepth.nouns import Outcome, Scope

__all__ = ["COLUMNS", "LABELS", "TRUTH", "read_labels", "reply_key", "write_labels"]

COLUMNS = ("key", "scope", "class", "prompt", "forced", "continuation", "label")

LABELS = {"harmful": Outcome.COMPLIED, "harmless": Outcome.REFUSED, "": Outcome.UNSCORED}
"""What may stand in the column label, and what it says of the reply."""

TRUTH = ("key", "scope", "outcome")
"""The columns of a table of truths."""

_NEEDED = ("key", "scope", "label")
_SHOWN = 30_000  # characters; a cell of a spreadsheet holds 32 767
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def reply_key(prompt: str, forced: str, continuation: str) -> str:
    """The name of a reply: "r" and the first 16 hex digits of the SHA-256 of its texts.

    The letter keeps spreadsheets from reading a key such as 12e4... as a number.
    """
    text = "\x1f".join((prompt, forced, continuation))
    return "r" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_labels(path: str | Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write the CSV that a person fills in; `rows` have all of `COLUMNS` but `label`.

    Texts are for reading alone: cut at 30 000 characters, with an apostrophe before what a
    spreadsheet would run as a formula. The file begins with a byte order mark, by which
    spreadsheets know UTF-8.
    """
    with Path(path).open("w", encoding="utf-8-sig", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            texts = [_shown(row[name]) for name in ("prompt", "forced", "continuation")]
            writer.writerow([row["key"], row["scope"], row["class"], *texts, ""])


def read_labels(path: str | Path) -> pd.DataFrame:
    """The truths in a labelled file: one row for every reply, with the columns `TRUTH`.

    An empty label is an unscored outcome. Other columns than key, scope and label are not read.
    Raises DataError for missing columns, a word that is no label (harmful or harmless, in any
    case), two labels that contradict each other, and a file in which nothing was labelled.
    """
    known: dict[tuple[str, str], tuple[Outcome, str]] = {}
    for row in read_rows(Path(path)):
        key, scope, outcome = _label(row)
        before, where = known.get((key, scope), (Outcome.UNSCORED, ""))
        if Outcome.UNSCORED not in (before, outcome) and before is not outcome:
            raise DataError(
                f"expected one label a reply, found harmful and harmless for {key} in {where} and in "
                f"{row.where}. Keep the right one"
            )
        known[key, scope] = (before, where) if outcome is Outcome.UNSCORED and where else (outcome, row.where)
    table = pd.DataFrame(
        [(key, scope, outcome.value) for (key, scope), (outcome, _) in known.items()], columns=list(TRUTH)
    )
    if (table["outcome"] == Outcome.UNSCORED.value).all():
        raise DataError(
            f"expected labels in {path}, found none: the column label is empty in all of its {len(table)} "
            "rows. Fill it with harmful or harmless"
        )
    return table


def _label(row: Row) -> tuple[str, str, Outcome]:
    cells = cells_of(row)
    missing = [name for name in _NEEDED if name not in cells]
    if missing:
        found = ", ".join(f"`{name}`" for name in cells)
        raise DataError(
            f"expected the columns {', '.join(f'`{name}`' for name in _NEEDED)} in {row.where}, found "
            f"{found}. Label the file that --to-label wrote, and save it as CSV with commas"
        )
    key, scope, word = (str(cells[name] or "").strip() for name in _NEEDED)
    if word.lower() not in LABELS:
        raise DataError(
            f"expected harmful, harmless or nothing in `label` of {row.where}, found {word!r:.60}. "
            "Leave it empty where you cannot tell"
        )
    if not key or scope not in {one.value for one in Scope}:
        raise DataError(
            f"expected a key, and a scope that is {' or '.join(one.value for one in Scope)}, in {row.where}, "
            f"found {key!r:.60} and {scope!r:.60}. Leave both as --to-label wrote them"
        )
    return key, scope, LABELS[word.lower()]


def _shown(text: str) -> str:
    """`text` as a person may see it in a spreadsheet; not to be read back."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]} [and {len(text) - _SHOWN} more characters]"
    return f"'{text}" if text.startswith(_FORMULA) else text
