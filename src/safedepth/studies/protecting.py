"""Fine-tuning one model under one objective, from a checkpoint to a checkpoint, resumed where it was cut off.

Constrained, plain, or any other objective of `ConstrainedSFTTrainer`; on rows in any of TRL's
layouts, or on conversations as the chat format gives them at inference. A record of how the
model was made is left beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from trl import ModelConfig

from safedepth.chat import ChatFormat
from safedepth.models import load_chat
from safedepth.nouns import Anchor, Progress
from safedepth.runs.files import read_json, to_json, write_atomically
from safedepth.studies.places import RECORD
from safedepth.studies.training import free_memory, require_numbers, trainer_on
from safedepth.train.betas import BetaSchedule, table_of
from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.examples import anchor_example, opened_anchor
from safedepth.train.failures import explained_failures, last_checkpoint

__all__ = ["conversation_rows", "train_under_objective"]


def train_under_objective(
    model: str,
    config: ConstrainedSFTConfig,
    rows: Dataset,
    *,
    name: str,
    command: str,
    chat: ChatFormat | None = None,
    options: ModelConfig | None = None,
    evaluation: Dataset | None = None,
    betas: BetaSchedule | None = None,
    facts: Sequence[list[str]] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train `model` (folder or hub id) on `rows` into `config.output_dir`; returns the record of how.

    A finished training is not repeated, an interrupted one goes on from its last whole checkpoint.
    `name` is the trained model's in reports, `command` what errors point to; `evaluation` are rows for
    TRL's evaluation, `betas` a schedule that replaces the one that `config` names, `facts` more for
    the record. Raises DataError for
    rows that cannot be learnt, ModelError for options that do not fit, RunError where memory or disk
    run out or the loss is no number any more, KeyboardInterrupt after Ctrl-C, with a checkpoint.
    """
    out = Path(config.output_dir)
    if (out / RECORD).is_file():
        return read_json(out / RECORD)
    chat = chat or load_chat(model)
    begun = time.monotonic()
    kept = last_checkpoint(out)
    make = partial(
        ConstrainedSFTTrainer,
        train_dataset=rows,
        eval_dataset=evaluation,
        betas=betas,
        processing_class=chat.tokenizer,
        progress=progress,
        what=f"training {name}",
    )
    batch, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    with explained_failures(out, batch=batch, accumulation=accumulation):
        trainer = trainer_on(
            make, model, config, options or ModelConfig(), quiet=progress is not None, command=command
        )
        try:
            trainer.train(resume_from_checkpoint=str(kept) if kept else None)
        finally:
            trainer.interruptible.release()
        if trainer.interruptible.stopped and trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt
        require_numbers(trainer)
        trainer.save_model(str(out))
    told = [*_facts(config, trainer), *facts]
    record: dict[str, Any] = {"model": name, "facts": told, "losses": _losses(trainer)}
    record |= {"objective": config.objective, "notes": list(trainer.notes)}
    record["beta"] = table_of(trainer.betas) if config.objective == "constrained" else []
    record["seconds"] = round(time.monotonic() - begun, 1)
    if trainer.is_world_process_zero():
        write_atomically(out / RECORD, to_json(record).encode())
    del trainer
    free_memory()
    return record


def conversation_rows(chat: ChatFormat, conversations: Sequence[Anchor]) -> Dataset:
    """Rows of `input_ids` and `labels`: conversations as the model reads them at inference, answers learnt.

    Raises DataError or TemplateError naming the conversation.
    """
    examples = [anchor_example(chat, opened_anchor(chat, conversation)) for conversation in conversations]
    return Dataset.from_dict(
        {
            "input_ids": [list(example.ids) for example in examples],
            "labels": [list(example.labels) for example in examples],
        }
    )


def _facts(config: ConstrainedSFTConfig, trainer: Any) -> list[list[str]]:
    """How the model was made, in words for a report."""
    schedule = getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type)
    step = config.train_batch_size * config.gradient_accumulation_steps * config.world_size
    return [
        ["objective", config.objective],
        *([["beta", str(config.beta)]] if config.objective == "constrained" else []),
        ["rows", f"{len(trainer.train_dataset):,}"],
        [
            "steps",
            f"{trainer.state.global_step:,} of {step} rows (about {trainer.state.epoch or 0:.1f} passes)",
        ],
        ["learning rate", f"{config.learning_rate:g}, {schedule}, warm-up {config.warmup_steps:g} steps"],
        ["AdamW betas", f"{config.adam_beta1:g}, {config.adam_beta2:g}"],
        ["seed", str(config.seed)],
        ["processes", str(config.world_size)],
    ]


def _losses(trainer: Any) -> list[dict[str, Any]]:
    return [
        {"step": entry["step"], "loss": entry["loss"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
