"""`safedepth finetune` as the tests call it: small, on the testbed's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safedepth.studies.finetune import finetune
from safedepth.studies.training_options import parse_finetune
from safedepth.testbed import Testbed
from studies.deepen_calls import words_of

SMALL: dict[str, Any] = {
    "max_steps": 2, "per_device_train_batch_size": 4, "gradient_checkpointing": False, "limit": 2,
    "max_tokens": 60, "use_cpu": True,
}  # fmt: skip
HOLDING = "4,4,4,4,4,0.1"
"""Betas that hold the first five tokens of organisms, which the paper's do not quite."""


def finetune_words(testbed: Testbed, out: Path, **changed: Any) -> list[str]:
    """Arguments of a small `finetune` of the aligned organism on harmful examples; None leaves one out."""
    options: dict[str, Any] = {
        "dataset_name": testbed.file("harmful.jsonl"), **SMALL, "output_dir": out, **changed,
    }  # fmt: skip
    model = options.pop("model", testbed.organism("aligned"))
    return ["finetune", str(model), *words_of(options)]


def again(words: list[str]) -> Path | None:
    """The command without the terminal, so that errors come as they are."""
    return finetune(*parse_finetune(words[1:]))
