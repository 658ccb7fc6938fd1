"""Constrained trainings that SIGKILL ends in the middle of a step: `python constrained_killed.py FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars  # type: ignore[import-untyped]
from transformers import TrainerCallback

from safedepth.train.constrained import ConstrainedSFTTrainer
from train.constrained_toys import CHAT, adapted, protect, protect_config
from train.toys import random_llama

STEPS = 8
OPTIONS: Mapping[str, dict[str, Any]] = {
    "full": {"disable_dropout": False},
    "adapter": {"precompute_reference": False},
    "kl": {"objective": "kl"},
}


def training(folder: Path, name: str) -> ConstrainedSFTTrainer:
    """Eight steps of two batches of three rows, a checkpoint every two; dropout where the name is `full`."""
    config = protect_config(
        folder, max_steps=STEPS, save_strategy="steps", save_steps=2, learning_rate=1e-2, warmup_steps=3,
        per_device_train_batch_size=3, gradient_accumulation_steps=2, diagnostics=True, max_grad_norm=1.0,
        **OPTIONS[name],
    )  # fmt: skip
    model = adapted() if name == "adapter" else random_llama(CHAT, attention_dropout=0.1)
    return protect(config, model)


class KillInMidStep(TrainerCallback):
    """After step 5 was logged, and before it is in a checkpoint."""

    def on_substep_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    """Run every training in a child, and say so where one did not end in a kill."""
    torch.set_num_threads(1)
    disable_progress_bars()
    for name in OPTIONS:
        child = os.fork()  # what is imported is imported once
        if child == 0:
            trainer = training(folder / name, name)
            trainer.add_callback(KillInMidStep())
            trainer.train()
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"{name}: status {status} instead of a kill")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
