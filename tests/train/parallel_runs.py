"""The same trainings in one process or in several: `torchrun --nproc_per_node 2 parallel_runs.py FOLDER`.

The first process writes what came out: the losses that were logged and the weights.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, TrainerCallback

from safedepth.errors import DataError
from safedepth.train.failures import last_checkpoint
from safedepth.train.recovery import AdaptiveRecovery
from safedepth.train.trainer import RecoveryTrainer
from train.toys import random_llama, toy_chat, toy_config, toy_draws

STEPS = 6
CHAT = toy_chat()

OPTIONS: Mapping[str, dict[str, Any]] = {
    # Each of two processes has five examples of a step: in one batch, or in five.
    "uniform": {},
    "adapter": {"per_device_train_batch_size": 1},
    "experts": {"router_aux_loss_coef": 0.5},
    "interrupted": {"recovery": "adaptive", "estimate_every": 2},
}


def model(name: str) -> PreTrainedModel:
    """A Llama; with an adapter, or a Mixtral, where the name says so."""
    if name == "experts":
        torch.manual_seed(0)
        return MixtralForCausalLM(
            MixtralConfig(
                vocab_size=len(CHAT.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=2,
            )
        )  # fmt: skip
    llama = random_llama(CHAT)
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return cast(PreTrainedModel, get_peft_model(llama, lora)) if name == "adapter" else llama


def training(folder: Path, name: str) -> RecoveryTrainer:
    """Six steps at a learning rate at which they do something."""
    config = toy_config(folder / name, max_steps=STEPS, learning_rate=3e-3, **OPTIONS[name])
    return RecoveryTrainer(model(name), config, draws=toy_draws(config, chat=CHAT))


class StopHalfway(TrainerCallback):
    """Ends the training after three steps, with a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        control.should_save = control.should_training_stop = state.global_step == 3


def outcome(trainer: RecoveryTrainer) -> dict[str, Any]:
    """What the training logged, step by step, and what a policy learnt."""
    names = ("step", "loss", "safety_loss", "anchor_loss", "grad_norm", "learning_rate")
    steps = [
        {name: entry[name] for name in names} for entry in trainer.state.log_history if "grad_norm" in entry
    ]
    policy = trainer.draws.recovery
    return {
        "steps": steps,
        "policy": policy.state() if isinstance(policy, AdaptiveRecovery) else None,
        "cut": [trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps],
    }


def run(folder: Path, name: str) -> None:
    """Train, and write what came out."""
    trainer = training(folder, name)
    if name == "interrupted":
        trainer.add_callback(StopHalfway())
        trainer.train()
        trainer = training(folder, name)
        trainer.train(resume_from_checkpoint=str(last_checkpoint(folder / name)))
    else:
        trainer.train()
    trainer.save_model(str(folder / name / "model"))
    own = {"rank": trainer.args.process_index, "world": trainer.args.world_size, **outcome(trainer)}
    (folder / f"{name}-{trainer.args.process_index}.json").write_text(json.dumps(own))
    if trainer.is_world_process_zero():
        tensors = {key: p.detach().clone() for key, p in trainer.model.named_parameters() if p.requires_grad}
        save_file(tensors, folder / f"{name}.safetensors")


def refused(folder: Path) -> None:
    """Say what a step of nine examples, which two processes cannot share, is answered with."""
    try:
        toy_config(folder, safety_per_step=1, anchors_per_step=8)
    except DataError as error:
        (folder / f"refused-{os.environ['RANK']}.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for training_name in OPTIONS:
        run(Path(sys.argv[1]), training_name)
    refused(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
