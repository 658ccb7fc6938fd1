"""AlpacaEval in a run: the model answers the user's instructions, and annotators compare the replies.

The comparison is AlpacaEval's own (`utility.alpaca`); here are the asking, the table and the win
rate with its interval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safedepth import tasks
from safedepth.nouns import Message, Progress, Prompt
from safedepth.runs import RunDirectory, write_atomically
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.summary import mean_of
from safedepth.studies.target import Target, room_for_reply
from safedepth.utility import Instruction, alpaca_score, read_instructions, require_alpaca, write_outputs

__all__ = ["COLUMNS", "Wins"]

COLUMNS = ("prompt_id", "value", "annotator", "reference", "length_controlled", "why")
FOLDER = "alpaca"


@dataclass(frozen=True)
class Wins:
    """Instructions with a reference's replies, and the annotators who compare."""

    instructions: Sequence[Instruction]
    annotators: str
    max_tokens: int | None

    @classmethod
    def of(
        cls, path: str | None, annotators: str | None, *, limit: int | None, max_tokens: int | None
    ) -> Wins | None:
        """Read the instructions and look for the annotators; None where no file was given.

        Raises MissingExtraError without AlpacaEval, DataError for what cannot be used.
        """
        if path is None or annotators is None:
            return None
        require_alpaca(annotators)
        return cls(read_instructions(path, limit=limit), annotators, max_tokens)

    def table(
        self, run: RunDirectory, target: Target, *, seed: int, progress: Progress | None = None
    ) -> pd.DataFrame:
        """One row an instruction, columns `COLUMNS`: `value` is 1 where the model's reply is preferred.

        Between 0 and 1 for a weighted preference, missing where the annotation failed. Raises RunError
        where replies or annotations could not be had; what succeeded is kept.
        """
        return run.measurement(FOLDER, lambda: self._compared(run, target, seed, progress))

    def _compared(
        self, run: RunDirectory, target: Target, seed: int, progress: Progress | None
    ) -> pd.DataFrame:
        folder = run.path / FOLDER
        folder.mkdir(exist_ok=True)
        replies = self._replies(run, target, seed, progress)
        outputs = folder / "outputs.json"
        write_outputs(outputs, self.instructions, replies, target.name)
        score = alpaca_score(self.instructions, outputs, self.annotators, folder)
        rows = [
            {
                "prompt_id": item.id,
                "value": score.preferences.get(item.instruction),
                "annotator": score.annotator,
                "reference": item.generator,
                "length_controlled": score.length_controlled,
                "why": score.why,
            }
            for item in self.instructions
        ]
        kinds = {"value": "Float64", "length_controlled": "Float64"}
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)

    def _replies(self, run: RunDirectory, target: Target, seed: int, progress: Progress | None) -> list[str]:
        """The model's reply to every instruction, greedily, in their order."""
        rows = [json.dumps({"id": item.id, "prompt": item.instruction}) for item in self.instructions]
        asked = run.path / FOLDER / "instructions.jsonl"
        write_atomically(asked, ("\n".join(rows) + "\n").encode())
        prompts = [
            Prompt(item.id, (Message(role="user", content=item.instruction),)) for item in self.instructions
        ]
        room = room_for_reply(target, prompts, deepest=0, wanted=self.max_tokens)
        todo = [
            tasks.benign(
                prompts=str(asked.resolve()), name=FOLDER, seed=seed, temperature=0.0, max_tokens=room
            )
        ]
        told = counting(progress, "instructions", todo)
        table = replies_of(run_tasks(todo, target.model, run.logs / FOLDER, sample_done=told), "model")
        said = dict(zip(table["prompt_id"].astype(str), table["continuation"].astype(str), strict=True))
        return [said[item.id] for item in self.instructions]

    def entry(self, table: pd.DataFrame, *, seed: int) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """The win rate as `summary.json` holds it, and what of it could not be had."""
        values = table["value"].dropna().to_numpy(dtype=np.float64)
        found = mean_of(values, share=bool(np.isin(values, (0.0, 1.0)).all()), seed=seed)
        first = table.iloc[0]
        controlled = first["length_controlled"]
        entry = {
            "annotator": str(first["annotator"]),
            "reference": ", ".join(dict.fromkeys(table["reference"])),
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "unscored": len(table) - found.n,
            "length_controlled": None if pd.isna(controlled) else float(controlled),
        }
        missing = []
        if entry["length_controlled"] is None:
            missing.append({"what": "AlpacaEval, length-controlled win rate", "why": str(first["why"])})
        return entry, missing
