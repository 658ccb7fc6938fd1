"""Constrained trainings with FSDP2: `torchrun --nproc_per_node 2 constrained_sharded.py FOLDER`.

Accelerate shards where there are accelerators. Told that the processor is one, it shards there,
over gloo; all else is as on a GPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState  # type: ignore[import-untyped]
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from datasets import disable_progress_bars  # type: ignore[import-untyped]
from peft import LoraConfig
from transformers import TrainerCallback

from safedepth.errors import ModelError
from safedepth.train.constrained import ConstrainedSFTTrainer
from tokenizer_zoo import word_tokenizer
from train.constrained_toys import CHAT, protect, protect_config
from train.toys import random_llama

STEPS = 4
TOGETHER = 4
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_CPU": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch` sets for a configuration of FSDP2."""

OPTIONS: Mapping[str, dict[str, Any]] = {
    "full": {},
    "adapter": {},
    "other": {"reference": "other"},
    "interrupted": {"save_strategy": "steps", "save_steps": 2},
}


def training(folder: Path, name: str, *, processes: int, **options: Any) -> ConstrainedSFTTrainer:
    """Four steps of four rows; models by their names, for sharded ones are loaded where they are to lie."""
    chosen = OPTIONS.get(name, {}) | options
    if "reference" in chosen:
        chosen |= {"reference": str(folder / chosen["reference"])}
    config = protect_config(
        folder / name, max_steps=STEPS, learning_rate=3e-3, diagnostics=True, beta="0.5,3,1",
        per_device_train_batch_size=TOGETHER // processes, **chosen,
    )  # fmt: skip
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return protect(config, str(folder / "model"), peft_config=lora if name == "adapter" else None)


def save_models(folder: Path) -> None:
    """The model to train, and another for a reference."""
    for name, seed in (("model", 0), ("other", 1)):
        random_llama(CHAT, seed=seed).save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)


class StopHalfway(TrainerCallback):
    """Ends the training after two steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        control.should_training_stop = state.global_step == 2


def run(folder: Path, name: str) -> None:
    """Train, and write what came out."""
    trainer = training(folder, name, processes=2)
    assert trainer.is_fsdp_enabled
    if name == "interrupted":
        trainer.add_callback(StopHalfway())
        trainer.train()
        trainer = training(folder, name, processes=2)
    trainer.train(resume_from_checkpoint=name == "interrupted")
    trainer.save_model(str(folder / name / "trained"))
    trainer.state.save_to_json(str(folder / f"{name}-{trainer.args.process_index}.json"))


def refused(folder: Path) -> None:
    """Say what those are answered with that need the whole model in every process."""
    for name, options in (("kl", {"objective": "kl"}), ("alive", {"precompute_reference": False})):
        try:
            training(folder, name, processes=2, **options)
        except ModelError as error:
            (folder / f"refused-{name}-{os.environ['RANK']}.txt").write_text(str(error))


def shard_on_the_processor() -> None:
    """Let Accelerate take several processes without a GPU for several with one each."""
    begin = PartialState.__init__

    def begun(self: Any, *arguments: Any, **others: Any) -> None:
        begin(self, *arguments, **others)
        if self.distributed_type == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = begun
    os.environ |= FSDP2


if __name__ == "__main__":
    torch.set_num_threads(1)
    disable_progress_bars()
    shard_on_the_processor()
    place = Path(sys.argv[1])
    if os.environ["RANK"] == "0":
        save_models(place)
    PartialState(cpu=True).wait_for_everyone()
    for training_name in OPTIONS:
        run(place, training_name)
    refused(place)
    torch.distributed.destroy_process_group()
