"""Suffixes as files: one JSON line each, or read out of an artifact of JailbreakBench.

What was found on one model is tried on others, through an API too, so a suffix travels as
text. An artifact (see `artifacts`) holds whole prompts: what was asked with the suffix.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safedepth.data.rows import read_rows
from safedepth.errors import DataError

__all__ = ["Suffix", "read_suffixes", "suffix_for", "suffixes_text"]


@dataclass(frozen=True)
class Suffix:
    """A suffix for one prompt, or for every prompt where `prompt_id` is None; and how it was found."""

    suffix: str
    prompt_id: str | None = None
    method: str = ""
    model: str = ""
    target: str = ""
    loss: float | None = None
    steps: int | None = None
    seed: int | None = None


_TEXTS, _NUMBERS = ("prompt_id", "method", "model", "target"), ("loss", "steps", "seed")


def suffixes_text(suffixes: Iterable[Suffix]) -> str:
    """The JSONL that `read_suffixes` reads."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in suffixes)


def read_suffixes(path: str | Path) -> list[Suffix]:
    """The suffixes of a file: ours, or a JailbreakBench artifact, told apart by their keys.

    An artifact's prompt is its goal and the suffix after it; one that does not begin with its
    goal is no suffix, and an error. Raises DataError, with the row, for what cannot be used.
    """
    artifact = _artifact(Path(path))
    if artifact is not None:
        return artifact
    found = []
    for row in read_rows(Path(path)):
        cells = row.value if isinstance(row.value, dict) else {}
        suffix = cells.get("suffix")
        if not isinstance(suffix, str) or not suffix.strip():
            raise DataError(f"expected a text in the column suffix, found {suffix!r} in {row.where}")
        known: dict[str, Any] = {
            name: str(cells[name]) for name in _TEXTS if cells.get(name) not in (None, "")
        }
        known |= {name: cells[name] for name in _NUMBERS if isinstance(cells.get(name), int | float)}
        found.append(Suffix(suffix, **known))
    if len({one.prompt_id for one in found}) < len(found):
        raise DataError(f"expected one suffix a prompt, found several for one in {path}")
    return found


def suffix_for(suffixes: Sequence[Suffix], prompt_id: str) -> Suffix | None:
    """The suffix of one prompt: its own, else one for all, else None."""
    own = {one.prompt_id: one for one in suffixes}
    return own.get(prompt_id, own.get(None))


def _artifact(path: Path) -> list[Suffix] | None:
    """What a JailbreakBench artifact holds; None for a file that is none."""
    if path.suffix.lower() != ".json":
        return None
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected a JSON file with suffixes, found {path}: {error}") from error
    if not isinstance(whole, dict) or "jailbreaks" not in whole:
        return None
    told = whole.get("parameters") or {}
    found = []
    for number, row in enumerate(whole["jailbreaks"], start=1):
        prompt, goal = (row.get(name) if isinstance(row, dict) else None for name in ("prompt", "goal"))
        if prompt is None:
            continue  # JailbreakBench keeps a row for behaviours that were not broken
        if not (isinstance(prompt, str) and isinstance(goal, str) and prompt.startswith(goal)):
            raise DataError(
                f"expected a prompt that begins with its goal, found none in jailbreak {number} of {path}. "
                "Only suffixes can be taken over"
            )
        suffix = prompt.removeprefix(goal).strip()
        if not suffix:
            raise DataError(f"expected a suffix after the goal, found none in jailbreak {number} of {path}")
        name = row.get("behavior")
        method, model = (str(told.get(key) or "") for key in ("method", "model"))
        found.append(Suffix(suffix, None if name is None else str(name), method, model))
    return found
