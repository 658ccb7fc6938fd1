"""What every training of a study shares: the model loaded by TRL, failures said in words, nothing left over.

Which trainer it is, and on what, is its caller's business.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from trl import ModelConfig, get_peft_config, get_quantization_config

from safedepth.errors import ModelError, RunError
from safedepth.models import context_length
from safedepth.models.checkpoint import find_checkpoint, first_line

__all__ = [
    "diverged",
    "free_memory",
    "longest_example",
    "part_processes",
    "require_numbers",
    "trained_dtype",
    "trainer_on",
]


def trainer_on(
    make: Callable[..., Any], model: str, config: Any, options: ModelConfig, *, quiet: bool, command: str
) -> Any:
    """The trainer that `make` makes of (model, config), the model loaded by TRL: safetensors only.

    `options` are TRL's (dtype, attention, LoRA). Raises ModelError, pointing to `command`, for options
    that do not fit.
    """
    place = Path(model).expanduser()
    config.disable_tqdm = config.disable_tqdm or quiet
    config.push_to_hub = False  # once, at the end, by the command: never a checkpoint, never without a card
    config.model_init_kwargs = {
        "revision": options.model_revision,
        "dtype": options.dtype,
        "attn_implementation": options.attn_implementation,
        **(config.model_init_kwargs or {}),
        "use_safetensors": True,
    }
    try:
        return make(
            str(place.resolve()) if place.exists() else model,  # as an adapter will name its base
            config,
            quantization_config=get_quantization_config(options),
            peft_config=get_peft_config(options),
        )
    except (ValueError, ImportError, RuntimeError) as error:
        # TRL, PEFT and transformers on options that do not fit, and on trackers that are not there.
        if isinstance(error, RuntimeError) and "installed" not in str(error):
            raise
        raise ModelError(
            f"{model} cannot be trained with these options ({first_line(error)}). Change them: see {command} "
            "--help, and TRL's ModelConfig and SFTConfig"
        ) from error


def trained_dtype(options: ModelConfig) -> str:
    """The `dtype` in which models before and after are tested: quantised where the training was (QLoRA)."""
    if options.load_in_4bit or options.load_in_8bit:
        return "int4" if options.load_in_4bit else "int8"
    return "auto"


def longest_example(model: str, max_length: int | None) -> int | None:
    """The most tokens an example may have: `max_length` as far as the model's context goes."""
    limits = [max_length, context_length(AutoConfig.from_pretrained(find_checkpoint(model).folder))]
    return min((limit for limit in limits if limit is not None), default=None)


def require_numbers(trainer: Any) -> None:
    """Raise RunError where the last step, whose loss nobody saw, left weights that are no numbers."""
    for weight in trainer.model.parameters():
        own: Any = weight
        own = own.to_local() if hasattr(own, "to_local") else own  # a shard, under FSDP
        if not bool(torch.isfinite(own).all()):
            raise diverged(trainer.args, trainer.state.global_step, "weights are")


def diverged(args: Any, step: int, what: str) -> RunError:
    """The error for a training that came to nothing: `what` is no finite number at `step`."""
    return RunError(
        f"The training diverged: at step {step} {what} no finite number. Lower --learning_rate (now "
        f"{args.learning_rate:g}), or clip gradients (--max_grad_norm 1, now {args.max_grad_norm:g}), and "
        "choose another --output_dir."
    )


def part_processes() -> None:
    """End what several processes have in common: what follows a training is the main process's alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_memory() -> None:
    """Give back what a trainer that was let go held, so that the next model fits."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
