"""Trainings that SIGKILL ends at a chosen moment, each in a process: `python killed_runs.py FOLDER`.

The moments: in the middle of an optimiser step, while a checkpoint is half written, and
when it is written but older ones have not gone yet.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers import trainer as transformers_trainer

from safedepth.train.trainer import RecoveryTrainer
from train.toys import random_llama, toy_chat, toy_config, toy_draws

STEPS = 8
OPTIONS: Mapping[str, dict[str, Any]] = {
    "uniform": {},
    "adaptive": {"recovery": "adaptive", "estimate_every": 2},
    "half written": {},
    "not yet rotated": {"recovery": "adaptive", "estimate_every": 2, "save_total_limit": 1},
}
"""The killed trainings, by when or what they are."""


def training(folder: Path, name: str) -> RecoveryTrainer:
    """Eight steps of two batches, dropout on, a checkpoint every two."""
    config = toy_config(
        folder, max_steps=STEPS, save_strategy="steps", save_steps=2, learning_rate=1e-2, warmup_steps=3,
        **OPTIONS[name],
    )  # fmt: skip
    chat = toy_chat()
    return RecoveryTrainer(
        random_llama(chat, attention_dropout=0.1), config, draws=toy_draws(config, chat=chat)
    )


class _KillInMidStep(TrainerCallback):
    def on_substep_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        if state.global_step == 5:
            kill()


def kill(*_arguments: Any, **_others: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, name: str) -> None:
    """Train until the kill."""
    trainer = training(folder, name)
    if name == "half written":
        write = trainer._save_optimizer_and_scheduler
        trainer._save_optimizer_and_scheduler = lambda out: (
            kill() if trainer.state.global_step == 4 else write(out)
        )
    elif name == "not yet rotated":
        module: Any = transformers_trainer
        rotate = module.rotate_checkpoints
        module.rotate_checkpoints = lambda **options: (
            kill() if trainer.state.global_step == 4 else rotate(**options)
        )
    else:
        trainer.add_callback(_KillInMidStep())
    trainer.train()


def main(folder: Path) -> None:
    """Run every training in a child, and say so where one did not end in a kill."""
    torch.set_num_threads(1)
    for name in OPTIONS:
        child = os.fork()  # what is imported is imported once
        if child == 0:
            run(folder / name, name)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"{name}: status {status} instead of a kill")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
