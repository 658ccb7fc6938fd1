"""Constrained trainings in one process or two: `torchrun --nproc_per_node 2 constrained_parallel.py FOLDER`.

Every process writes what it logged, the first one the weights too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars  # type: ignore[import-untyped]
from safetensors.torch import save_file

from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.diagnostics import FILE, read_diagnostics
from train.constrained_toys import CHAT, adapted, protect, protect_config
from train.toys import random_llama

STEPS = 5
TOGETHER = 4
"""Rows of a step, over all processes."""

OPTIONS: Mapping[str, dict[str, Any]] = {
    "full": {},
    "adapter": {"precompute_reference": False},
    "kl": {"objective": "kl"},
    "flat": {"padding_free": True, "max_length": None},
}


def training(folder: Path, name: str, *, processes: int) -> ConstrainedSFTTrainer:
    """Five steps of four rows, at a learning rate at which they do something."""
    config = protect_config(
        folder / name, max_steps=STEPS, learning_rate=3e-3, diagnostics=True, beta="0.5,3,1",
        per_device_train_batch_size=TOGETHER // processes, **OPTIONS[name],
    )  # fmt: skip
    return protect(config, adapted() if name == "adapter" else random_llama(CHAT))


def outcome(folder: Path, name: str, trainer: ConstrainedSFTTrainer) -> dict[str, Any]:
    """What was logged, step by step; what the reference said; what was told by position."""
    names = ("step", "loss", "grad_norm", "learning_rate", "entropy", "num_tokens")
    history = trainer.state.log_history
    rows = trainer.train_dataset
    return {
        "steps": [{key: entry[key] for key in names} for entry in history if "grad_norm" in entry],
        "reference": rows["reference_log_probs"][:] if "reference_log_probs" in rows.column_names else None,
        "diagnostics": read_diagnostics(folder / name / FILE),
    }


def run(folder: Path, name: str) -> None:
    """Train, and write what came out."""
    trainer = training(folder, name, processes=2)
    trainer.train()
    trainer.save_model(str(folder / name / "model"))
    trainer.accelerator.wait_for_everyone()
    own = {"rank": trainer.args.process_index, "world": trainer.args.world_size}
    told = own | outcome(folder, name, trainer)
    (folder / f"{name}-{trainer.args.process_index}.json").write_text(json.dumps(told))
    if trainer.is_world_process_zero():
        tensors = {key: p.detach().clone() for key, p in trainer.model.named_parameters() if p.requires_grad}
        save_file(tensors, folder / f"{name}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    disable_progress_bars()
    for training_name in OPTIONS:
        run(Path(sys.argv[1]), training_name)
    torch.distributed.destroy_process_group()
