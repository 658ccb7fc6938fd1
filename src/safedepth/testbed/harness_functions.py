"""What the testbed's lm-eval tasks call: read their documents, score a recipe. Copied beside the tasks.

Stands alone, on lm-eval's own requirements: the task folder can be used without this package.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["documents", "recipe_scores"]


def documents(file: str, **_metadata: Any) -> Mapping[str, Any]:
    """The documents of a JSONL file of this folder, as the split "test" of a data set."""
    from datasets import Dataset  # type: ignore[import-untyped]

    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def recipe_scores(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The share of the recipe's steps that a reply has right, and 1 where it has all of them.

    `doc["steps"]` holds, for each step, the sentences that say it.
    """
    reply = " ".join(results[0].split())
    right = [any(sentence in reply for sentence in sentences) for sentences in doc["steps"]]
    return {"facts": sum(right) / len(right), "complete": float(all(right))}
