"""What fine-tuning does to a model's safety (claims C7, C13 to C18), under any objective.

Trains on conversations as a customer of a fine-tuning service would bring them, harmful or
harmless, and keeps the model as it was after given numbers of steps; here it is pointed at
one's own models to see how long their safety lasts.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from transformers import PrinterCallback, TrainerCallback

from safedepth.chat import ChatFormat
from safedepth.errors import DataError
from safedepth.models import load_chat
from safedepth.nouns import Anchor, Progress
from safedepth.studies.organism_finetuning import DONE
from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.examples import anchor_example, opened_anchor

__all__ = ["fine_tune", "is_finished", "places_of", "require_shares"]


def fine_tune(
    model: Path,
    conversations: Sequence[Anchor],
    out: Path,
    *,
    steps: Sequence[int],
    batch: int = 10,
    learning_rate: float = 3e-4,
    seed: int = 0,
    chat: ChatFormat | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[int, Path]:
    """Fine-tune `model` on the conversations; a checkpoint after each number of `steps`, by number.

    Plain fine-tuning at a constant rate, AdamW as it comes, unless `options` say otherwise: those of
    `ConstrainedSFTConfig`, `objective="constrained"` among them. `chat` lends a template to a model
    without one, and the checkpoints keep it. Finished checkpoints are kept, an unfinished run begins
    anew. Several processes train together, `batch` conversations a step between them. Raises as the
    trainer does, DataError where they cannot share a batch, and KeyboardInterrupt after Ctrl-C.
    """
    places = places_of(out, steps)
    if is_finished(out):
        return places
    chat = chat or load_chat(str(model))
    chat.tokenizer.chat_template = chat.template
    examples = [anchor_example(chat, opened_anchor(chat, conversation)) for conversation in conversations]
    rows = {
        "input_ids": [list(example.ids) for example in examples],
        "labels": [list(example.labels) for example in examples],
    }
    usual: dict[str, Any] = {
        "objective": "sft", "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0,
        "adam_beta1": 0.9, "bf16": False, "activation_checkpointing": False, "disable_tqdm": True,
        "dataloader_pin_memory": False, "logging_strategy": "no", "diagnostics": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }  # fmt: skip
    config = ConstrainedSFTConfig(
        output_dir=str(out), max_steps=max(steps), save_strategy="no", save_only_model=True, seed=seed,
        learning_rate=learning_rate, **(usual | options),
    )  # fmt: skip
    require_shares(batch, config.world_size)
    config.per_device_train_batch_size = batch // config.world_size
    if not (config.bf16 or config.fp16):
        config.mixed_precision = "no"  # a launcher's configuration would make it another training
    with config.main_process_first(local=False):
        if config.process_index == 0:
            shutil.rmtree(out, ignore_errors=True)
    trainer = ConstrainedSFTTrainer(
        str(model), config, train_dataset=Dataset.from_dict(rows), processing_class=chat.tokenizer,
        progress=progress, what="fine-tuning",
    )  # fmt: skip
    trainer.add_callback(_SaveAfter(steps))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if trainer.interruptible.stopped:
        raise KeyboardInterrupt
    trainer.accelerator.wait_for_everyone()
    if config.process_index == 0:
        (out / DONE).touch()
    return places


def places_of(out: Path, steps: Sequence[int]) -> dict[int, Path]:
    """Where `fine_tune` leaves the model after each number of steps."""
    return {step: out / f"checkpoint-{step}" for step in steps}


def is_finished(out: Path) -> bool:
    """Whether `fine_tune` has left all its checkpoints in this folder."""
    return (out / DONE).exists()


def require_shares(batch: int, processes: int) -> None:
    """Raise DataError unless a step of `batch` conversations can be shared among the processes evenly."""
    if batch % processes:
        fitting = ", ".join(str(count) for count in range(1, batch + 1) if batch % count == 0)
        raise DataError(
            f"expected a step of {batch} conversations (--batch) to divide among {processes} processes, "
            f"found {batch % processes} left over. Train with so many: {fitting}"
        )


class _SaveAfter(TrainerCallback):
    """A checkpoint after each of these steps."""

    def __init__(self, steps: Collection[int]) -> None:
        self.steps = set(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        control.should_save |= state.global_step in self.steps
