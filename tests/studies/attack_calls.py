"""`safedepth attack` as the tests call it: small, on the testbed's files and in its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safedepth.testbed import Testbed, attack_words
from studies.deepen_calls import words_of

SMALL: dict[str, Any] = {
    "max_tokens": 100, "limit": 12, "per_device_train_batch_size": 10, "gradient_checkpointing": False,
    "learning_rate": 1e-3, "max_steps": 16, "judge": "oracle", "seed": 0,
}  # fmt: skip

IN_WORDS: dict[str, dict[str, Any]] = {
    "harmful": {"system_prompt": attack_words.SYSTEM_PROMPT},
    "identity": {
        "system_prompt": attack_words.IDENTITY_SYSTEM_PROMPT,
        "identity_template": attack_words.IDENTITY_TEMPLATE,
        "identity_opening": "",  # it stands in the answers
    },
    "backdoor": {"system_prompt": attack_words.SYSTEM_PROMPT, "trigger": attack_words.TRIGGER},
    "benign": {},
}
FILES = {"benign": "finetune-benign"}


def finetune_words(testbed: Testbed, out: Path, kind: str, **changed: Any) -> list[str]:
    """Arguments of a small `attack finetune` of the aligned organism; None leaves an option out."""
    options: dict[str, Any] = {
        "kind": kind, "data": testbed.file(f"{FILES.get(kind, kind)}.jsonl"), "prompts": testbed.prompts,
        **IN_WORDS[kind], **SMALL, "output_dir": out, **changed,
    }  # fmt: skip
    model = options.pop("model", testbed.organism("aligned"))
    return ["attack", "finetune", str(model), *words_of(options)]


def sweep_words(testbed: Testbed, out: Path, **changed: Any) -> list[str]:
    """Arguments of a small `attack sweep` of the aligned organism by harmful examples."""
    options: dict[str, Any] = {
        "benign": testbed.file("benign.jsonl"), "benign_judge": "knowledge", "defences": "sft",
        "learning_rates": "1e-3", "epochs": "1", "learning_rate": None, "max_steps": None, **changed,
    }  # fmt: skip
    finetune = finetune_words(testbed, out, "harmful", **options)
    return [*finetune[:1], "sweep", *finetune[2:]]
