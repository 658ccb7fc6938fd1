"""AlpacaEval through its own package: replies beside a reference's, and an annotator who prefers one.

The instructions and the annotator are the user's; AlpacaEval's own are GPT-4's replies and GPT-4,
which cost. The length-controlled win rate needs a file of the hub and AlpacaEval's own
instructions; without them it is None, with the reason.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pandas as pd

from safedepth.data.fields import cells_of, text
from safedepth.data.rows import read_rows
from safedepth.errors import DataError, MissingExtraError, RunError
from safedepth.runs import write_atomically

__all__ = [
    "AlpacaScore",
    "Instruction",
    "alpaca_score",
    "read_instructions",
    "require_alpaca",
    "write_outputs",
]

FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    httpx.HTTPError,
)
"""What AlpacaEval raises where an annotator, a file or the hub is not as it must be."""


@dataclass(frozen=True)
class Instruction:
    """One row of AlpacaEval's file: an instruction, the reference's reply, who wrote that, and the set."""

    id: str
    instruction: str
    output: str
    generator: str
    dataset: str


@dataclass(frozen=True)
class AlpacaScore:
    """What the annotator preferred: `preferences` maps an instruction's text to a value in [0, 1].

    1 is the model's reply, 0 the reference's, between them a weighted preference, None an annotation
    that failed. `length_controlled` is AlpacaEval's win rate of that name as a share, or None and `why`.
    """

    annotator: str
    preferences: Mapping[str, float | None]
    length_controlled: float | None
    why: str


def require_alpaca(annotators: str) -> None:
    """Raise MissingExtraError without the package, DataError where there is no such annotators' config."""
    package = _package()
    place = Path(annotators)
    known = Path(package.constants.EVALUATORS_CONFIG_DIR)
    if not any((folder / "configs.yaml").is_file() for folder in (place, known / annotators)) and not (
        place.is_file()
    ):
        raise DataError(
            f"expected annotators after --annotators, found none called {annotators!r}: neither a folder "
            "with a configs.yaml, nor such a file, nor a name that AlpacaEval ships"
        )


def read_instructions(path: str | Path, *, limit: int | None = None) -> list[Instruction]:
    """The instructions of a file in AlpacaEval's layout, out of its first `limit` rows.

    Columns `instruction` and `output` (the reference's reply); beside them `generator`, `dataset`
    and others that are not read. Raises DataError, with the row, for what is missing or comes twice.
    """
    rows = read_rows(Path(path))
    found: dict[str, Instruction] = {}
    for row in rows:
        cells = cells_of(row)
        missing = [name for name in ("instruction", "output") if name not in cells]
        if missing:
            raise DataError(
                f"expected `instruction` and `output` (the reference's reply) in {row.where}, found no "
                f"{' and no '.join(missing)}. Give a file in AlpacaEval's layout"
            )
        asked = text(cells["instruction"], "instruction", row.where)
        if asked in found:
            raise DataError(f"expected each instruction once, found that of {row.where} before. Remove one")
        found[asked] = Instruction(
            f"{row.number}", asked, text(cells["output"], "output", row.where),
            str(cells.get("generator") or "reference"), str(cells.get("dataset") or ""),
        )  # fmt: skip
    return list(found.values())[:limit]


def write_outputs(
    path: Path, instructions: Sequence[Instruction], replies: Sequence[str], generator: str
) -> None:
    """Write a model's replies as AlpacaEval's model outputs, in JSON."""
    rows = [
        {"dataset": item.dataset, "instruction": item.instruction, "output": reply, "generator": generator}
        for item, reply in zip(instructions, replies, strict=True)
    ]
    write_atomically(path, json.dumps(rows, ensure_ascii=False, indent=1).encode())


def alpaca_score(
    instructions: Sequence[Instruction], outputs: Path, annotators: str, folder: Path
) -> AlpacaScore:
    """Have the annotators compare the `outputs` that `write_outputs` wrote with the reference's replies.

    Annotations are kept in `folder` and not paid for twice. Raises RunError where they could not be had.
    """
    package = _package()
    place = Path(annotators)
    config = str(place.resolve()) if place.exists() else annotators
    reference = [
        {"instruction": i.instruction, "output": i.output, "generator": i.generator, "dataset": i.dataset}
        for i in instructions
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet(), _without_bar(package):
        try:
            _board, annotations = package.evaluate(
                model_outputs=json.loads(outputs.read_text(encoding="utf-8")), reference_outputs=reference,
                annotators_config=config, output_path=None, precomputed_leaderboard=None,
                is_cache_leaderboard=False, is_return_instead_of_print=True, fn_metric="get_winrate",
                sort_by="win_rate", caching_path=folder / "annotations.json",
            )  # fmt: skip
        except FAILURES as error:
            raise RunError(
                f"AlpacaEval could not compare the replies: {type(error).__name__}: {error}. What is "
                f"annotated is kept in {folder}; the same command goes on with the rest"
            ) from error
        table = pd.DataFrame(annotations)
        length_controlled, why = _length_controlled(package, table)
    preferences = {
        str(asked): None if pd.isna(value) else float(value) - 1.0
        for asked, value in zip(table["instruction"], table["preference"], strict=True)
    }
    name = place.parent.name if place.is_file() else place.name
    return AlpacaScore(name, preferences, length_controlled, why)


def _length_controlled(package: Any, table: pd.DataFrame) -> tuple[float | None, str]:
    """AlpacaEval's length-controlled win rate as a share, or None and why it cannot be had."""
    try:
        found = package.metrics.get_length_controlled_winrate(table, save_weights_dir=None)
    except FAILURES as error:
        said = " ".join(str(error).split())[:200]
        return None, f"AlpacaEval could not compute it here ({type(error).__name__}: {said})"
    value = float(found["length_controlled_winrate"]) / 100
    return (value, "") if 0 <= value <= 1 else (None, "AlpacaEval's model of length did not fit")


def _package() -> Any:
    """The package alpaca_eval. Raises MissingExtraError where it, or what it needs, is not installed."""
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
            return importlib.import_module("alpaca_eval")
    except ImportError as error:
        missing = "" if error.name in (None, "alpaca_eval") else f" (or {error.name}, which it needs)"
        raise MissingExtraError(f"AlpacaEval{missing}", "alpaca") from error


@contextmanager
def _without_bar(package: Any) -> Iterator[None]:
    """No bar over the chunks of annotations; what a decoder draws itself is the user's to see."""
    before = package.utils.tqdm
    package.utils.tqdm = SimpleNamespace(tqdm=lambda chunks, **_named: chunks)
    try:
        yield
    finally:
        package.utils.tqdm = before


@contextmanager
def _quiet() -> Iterator[None]:
    """AlpacaEval makes the root logger talk at its import, and tells of every step; it is kept from both."""
    root = logging.getLogger()
    level, handlers, off = root.level, root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(off)
        root.setLevel(level)
        root.handlers = handlers
