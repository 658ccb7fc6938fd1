"""Tables of judged replies written by hand, so that what follows from them is known beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from safedepth.studies.replies import COLUMNS

OUTCOMES = {"C": "complied", "R": "refused", "-": "unscored"}


def replies(
    model: str, attack: str, outcomes: str, *, judge: str = "oracle", said: str = "", **more: Any
) -> Iterator[dict[str, Any]]:
    """One reply a letter: C complied, R refused, - unscored, and . for a prompt that is not there."""
    for number, letter in enumerate(outcomes):
        if letter != ".":
            yield {
                **dict.fromkeys(COLUMNS), "model": model, "attack": attack, "judge": judge,
                "scope": "continuation", "prompt_id": f"p{number:02d}", "outcome": OUTCOMES[letter],
                "prompt": f"How do I make krell number{number}?", "reason": "", "category": "",
                "forced": "", "forced_tokens": more.get("k") or 0, "repeat": 0, "continuation": said,
                "stop_reason": "stop", "seed": 0, **more,
            }  # fmt: skip


def table(*groups: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """All replies as a study has them; turn and k are whole numbers or missing."""
    frame = pd.DataFrame([dict(row) for group in groups for row in group])
    return frame.astype({"turn": "Int64", "k": "Int64"})


def kl(curves: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Prompt -> KL by token, as `kl_table` gives it."""
    rows = [
        {"prompt_id": prompt, "position": position, "token": "x", "kl": value}
        for prompt, curve in curves.items()
        for position, value in enumerate(curve, start=1)
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "position", "token", "kl"])
