"""What plain fine-tuning does to a model's safety (claim C13): TRL's `SFTTrainer`, unconstrained.

The attack trains on conversations as a customer of a fine-tuning service would bring
them, harmful or harmless; here it is pointed at one's own models to see how long their
safety lasts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset  # type: ignore[import-untyped]
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from safedepth.models import load_chat
from safedepth.nouns import Anchor
from safedepth.train.examples import anchor_example, opened_anchor

__all__ = ["DONE", "fine_tune"]

DONE = "done"
"""Written last: every checkpoint is there."""


def fine_tune(
    model: Path,
    conversations: Sequence[Anchor],
    out: Path,
    *,
    steps: Sequence[int],
    batch: int = 10,
    learning_rate: float = 3e-4,
    seed: int = 0,
) -> dict[int, Path]:
    """Fine-tune `model` on the conversations; a checkpoint after each number of `steps`, by number.

    `steps` are multiples of the first. Finished checkpoints are kept, an unfinished run begins anew.
    """
    places = {step: out / f"checkpoint-{step}" for step in steps}
    if (out / DONE).exists():
        return places
    shutil.rmtree(out, ignore_errors=True)
    chat = load_chat(str(model))
    examples = [anchor_example(chat, opened_anchor(chat, conversation)) for conversation in conversations]
    rows = {
        "input_ids": [list(example.ids) for example in examples],
        "labels": [list(example.labels) for example in examples],
    }
    config = SFTConfig(
        output_dir=str(out), max_steps=max(steps), save_steps=min(steps), save_only_model=True, seed=seed,
        per_device_train_batch_size=batch, learning_rate=learning_rate, lr_scheduler_type="constant",
        bf16=False, activation_checkpointing=False, disable_tqdm=True, dataloader_pin_memory=False,
        logging_strategy="no", dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        str(model), config, train_dataset=Dataset.from_dict(rows), processing_class=chat.tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    (out / DONE).touch()
    return places
