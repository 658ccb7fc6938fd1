"""A file of rows (CSV, JSONL, JSON, Parquet, lines), read whole or refused with the place of the fault.

It knows encodings and syntax. It refuses to know what the columns mean: see
`prompts` for that.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safedepth.errors import DataError

__all__ = ["KINDS", "Row", "read_bytes", "read_lines", "read_one_column", "read_rows"]


@dataclass(frozen=True)
class Row:
    """One row: `number` counts from 1, `where` is its place as a person finds it, `value` what it holds."""

    number: int
    where: str
    value: object


def read_rows(path: Path) -> list[Row]:
    """The rows of a .csv, .jsonl, .ndjson, .json or .parquet file; a CSV row maps columns to text.

    Raises DataError where the file is missing, empty, no UTF-8 text, of another kind, or
    malformed. Blank lines are no rows.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        if path.is_dir() or not path.exists():
            read_bytes(path)  # Raises: a wrong path is worth more words than a wrong ending.
        raise DataError(
            f"expected a file ending in {', '.join(KINDS)}, found {path}. Convert it or rename it"
        )
    rows = _parquet_rows(path) if kind == PARQUET else _PARSERS[kind](_filled(path), path)
    if not rows:
        raise DataError(f"expected prompts in {path}, found none (a header or an empty list alone)")
    return rows


def _filled(path: Path) -> str:
    text = _text(path)
    if not text.strip():
        raise DataError(f"expected prompts in {path}, found an empty file")
    return text


def read_one_column(path: Path) -> list[Row]:
    """The texts of a CSV file of one column without a header; each row's value is its text.

    Cells may be quoted and hold line breaks. Commas need no quotes here, for there is one
    column to be read. Raises DataError as `read_rows` does; blank lines are no rows.
    """
    text = _filled(path)
    lines = list(io.StringIO(text, newline=""))
    rows: list[Row] = []
    for cells, first, last in _records(text, path):
        where = f"row {len(rows) + 1} (line {last}) of {path}"
        written = "".join(lines[first:last])
        if len(cells) > 1 and '"' in written:
            raise DataError(
                f"expected one cell in {where}, found {len(cells)}. Quote the whole instruction, with every "
                "quote in it doubled"
            )
        rows.append(Row(len(rows) + 1, where, ",".join(cells)))
    return rows


def read_lines(path: Path) -> list[Row]:
    """The lines of a text file; each row's value is its text. Blank lines are no rows."""
    rows: list[Row] = []
    for number, line in enumerate(_filled(path).split("\n"), start=1):
        if line.strip():
            rows.append(Row(len(rows) + 1, f"line {number} of {path}", line.removesuffix("\r")))
    return rows


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises DataError, with what to do, where they cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"expected a file at {path}, found nothing there. Check the path") from None
    except IsADirectoryError:
        raise DataError(f"expected a file, found the folder {path}. Name the file in it") from None
    except OSError as error:
        raise DataError(f"expected a readable file at {path}, found: {error.strerror}") from error


def _text(path: Path) -> str:
    data = read_bytes(path)
    # With its mark or without: every other byte of plain letters is zero.
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[:2].count(0) == 1:
        raise DataError(f"expected UTF-8 text in {path}, found UTF-16. Save it as UTF-8")
    if b"\0" in data:
        raise DataError(
            f"expected text in {path}, found a binary file (a zero byte at offset {data.index(0)}). "
            "Give a CSV, JSONL or JSON file, or a Parquet file under a name that ends in .parquet"
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"expected UTF-8 text in {path}, found byte 0x{error.object[error.start]:02x} on line {line} "
            f"(offset {error.start}). Save the file as UTF-8"
        ) from error


def _csv_rows(text: str, path: Path) -> list[Row]:
    header: list[str] = []
    rows: list[Row] = []
    for cells, _first, last in _records(text, path):
        if not header:
            header = _header(cells, path)
            continue
        where = f"row {len(rows) + 1} (line {last}) of {path}"
        if len(cells) != len(header):
            raise DataError(
                f"expected {len(header)} cells ({', '.join(header)}) in {where}, found {len(cells)}. "
                "Quote cells that hold commas or line breaks"
            )
        rows.append(Row(len(rows) + 1, where, dict(zip(header, cells, strict=True))))
    return rows


def _records(text: str, path: Path) -> Iterator[tuple[list[str], int, int]]:
    """The cells of every record that is not blank, with the lines it stands on: [first, last), from 0."""
    # strict: an unclosed quote is an error instead of swallowing the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    first = 0
    while True:
        try:
            with _cells_of_any_size(len(text)):
                cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"expected CSV in {path}, found at line {reader.line_num}: {error}") from error
        if cells is None:
            return
        if cells:
            yield cells, first, reader.line_num
        first = reader.line_num


@contextmanager
def _cells_of_any_size(size: int) -> Iterator[None]:
    """Lift csv's limit of 131072 characters a cell, which is one for the whole process, while reading."""
    before = csv.field_size_limit(size + 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header(cells: list[str], path: Path) -> list[str]:
    header = [cell.strip() for cell in cells]
    _once(header, path)
    return header


def _once(columns: list[str], path: Path) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"expected every column of {path} once, found twice: {', '.join(map(repr, twice))}")


def _jsonl_rows(text: str, path: Path) -> list[Row]:
    rows: list[Row] = []
    # Not splitlines: it would cut at separators that JSON allows inside a string.
    for line_number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"line {line_number} of {path}"
            rows.append(Row(len(rows) + 1, where, _json(line, path, first_line=line_number)))
    return rows


def _json_rows(text: str, path: Path) -> list[Row]:
    value = _json(text, path)
    if not isinstance(value, list):
        raise DataError(
            f"expected a list of rows in {path}, found {_kind(value)}. "
            "One object a line belongs in a .jsonl file"
        )
    return [Row(number, f"item {number} of {path}", item) for number, item in enumerate(value, start=1)]


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    data = read_bytes(path)
    if not data:
        raise DataError(f"expected prompts in {path}, found an empty file")
    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(data)).read()
        names, values = table.column_names, table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"expected Parquet in {path}, found: {reason}. Write or download it anew") from error
    _once(names, path)
    return [Row(number, f"row {number} of {path}", value) for number, value in enumerate(values, start=1)]


def _json(text: str, path: Path, *, first_line: int = 1) -> object:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataError(
            f"expected JSON on line {line} of {path}, found: {error.msg} at column {error.colno}"
        ) from error
    except _RepeatedKeyError as error:
        raise DataError(
            f"expected every key once, found {error} twice in {_from(path, first_line)}"
        ) from None
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or lists thousands deep.
        raise DataError(f"expected rows of text in {_from(path, first_line)}, found: {error}") from error


def _from(path: Path, line: int) -> str:
    return f"what starts on line {line} of {path}"


class _RepeatedKeyError(ValueError):
    """A JSON object names a key twice, so that one value would vanish."""


def _object(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    made: dict[str, object] = {}
    for key, value in pairs:
        if key in made:
            raise _RepeatedKeyError(repr(key))
        made[key] = value
    return made


def _kind(value: object) -> str:
    kinds = {dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


_PARSERS: dict[str, Callable[[str, Path], list[Row]]] = {
    ".csv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
}

PARQUET = ".parquet"

KINDS = (*_PARSERS, PARQUET)
"""The endings of the files that can be read."""
