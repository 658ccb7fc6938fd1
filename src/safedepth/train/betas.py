"""How strongly each response token is held to the reference: beta schedules.

A schedule is a function of response positions, counted from 1, to beta > 0; a user's own
is as good as these. Large beta holds a token near the reference, small beta lets it go.
It refuses to know models and data.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safedepth.errors import DataError

__all__ = [
    "BetaSchedule",
    "checked_betas",
    "listed_betas",
    "paper_betas",
    "read_betas",
    "table_of",
    "uniform_betas",
]

BetaSchedule = Callable[[Tensor], Tensor]
"""(response positions from 1, any shape) -> beta of the same shape."""

PAPER = (0.5, 2.0, 2.0, 2.0, 2.0, 0.1)
"""Section 4.2: weak at the first token, whose loss is high, strong at tokens 2 to 5, weak after."""

_KINDS = (
    "paper, one number, numbers with commas between (the last is for all later tokens), FILE.json or "
    "FILE.py@function"
)


def listed_betas(values: Sequence[float]) -> BetaSchedule:
    """beta of position 1, 2, ...; the last value is for all later positions.

    Raises DataError for an empty list and for values that are not positive numbers.
    """
    numbers = [_positive(value, place) for place, value in enumerate(values, start=1)]
    if not numbers:
        raise DataError("expected at least one beta, found an empty list")
    table = torch.tensor(numbers, dtype=torch.float32)

    def betas(positions: Tensor) -> Tensor:
        return table.to(positions.device)[(positions.clamp(1, len(numbers)) - 1)]

    return betas


def uniform_betas(value: float) -> BetaSchedule:
    """The same beta at every position (the paper's table 8)."""
    return listed_betas([value])


def paper_betas(positions: Tensor) -> Tensor:
    """0.5 at token 1, 2 at tokens 2 to 5, 0.1 after (section 4.2)."""
    return listed_betas(PAPER)(positions)


def read_betas(text: str | float) -> BetaSchedule:
    """A schedule from what a user writes: `paper`, `2`, `0.5,2,2,2,2,0.1`, FILE.json or FILE.py@function.

    FILE.json holds a list of numbers, or an object whose "betas" is one. Raises DataError, with what
    was found, for anything else.
    """
    said = str(text).strip()
    if said == "paper":
        return paper_betas
    path, _, name = said.partition("@")
    if path.endswith(".py"):
        return checked_betas(_function(Path(path), name or "betas"), said)
    if said.endswith(".json"):
        return listed_betas(_listed(Path(said)))
    try:
        return listed_betas([float(part) for part in said.split(",")])
    except ValueError as error:
        raise DataError(f"expected --beta as {_KINDS}; found {said!r}") from error


def checked_betas(schedule: BetaSchedule, name: str = "the schedule") -> BetaSchedule:
    """The schedule, checked whenever it is asked.

    Raises DataError where an answer is not positive, finite numbers in the shape asked for.
    """

    def betas(positions: Tensor) -> Tensor:
        found: Any = schedule(positions)
        if not isinstance(found, Tensor) or found.shape != positions.shape:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(f"expected {name} to give {list(positions.shape)} betas, found {shape}")
        if not bool((torch.isfinite(found) & (found > 0)).all()):
            wrong = found[~(torch.isfinite(found) & (found > 0))].flatten()[0].item()
            raise DataError(f"expected {name} to give betas above 0 and finite, found {wrong}")
        return found.to(device=positions.device, dtype=torch.float32)

    betas(torch.arange(1, 65))
    return betas


def table_of(schedule: BetaSchedule, *, tokens: int = 20) -> list[list[float]]:
    """[position, beta] of the first tokens, as the report reads them."""
    values = schedule(torch.arange(1, tokens + 1)).tolist()
    return [[position, round(value, 6)] for position, value in enumerate(values, start=1)]


def _positive(value: Any, place: int) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise DataError(
            f"expected betas above 0 and finite, found {value!r} at position {place}. To let a token go "
            "free give it a small one (0.1), to hold it a large one (10)"
        )
    return float(value)


def _listed(path: Path) -> Sequence[float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected a JSON list of betas in {path}: {error}") from error
    found = found.get("betas") if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise DataError(f'expected a JSON list of betas in {path}, or an object with "betas"; found neither')
    return found


def _function(path: Path, name: str) -> BetaSchedule:
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise DataError(f"expected a Python file with the schedule, found none at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise DataError(
            f"expected a function {name} in {path}, found {'none' if found is None else type(found).__name__}"
        )
    return found  # type: ignore[no-any-return]
