"""`RecoveryConfig`: TRL's `SFTConfig` with the paper's defaults and what recovery training adds.

Every field of `SFTConfig` keeps its name and meaning. One thing is arranged here: an
optimiser step has a fixed number of examples, so batch size and accumulation follow
from it; how the step is cut up does not change what is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from trl import SFTConfig

from safedepth.errors import DataError
from safedepth.train.options import RecoveryOptions, said

__all__ = ["RecoveryConfig", "require_fixed", "settle_machine"]

FIXED: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "packing": (False, "a step has a fixed number of examples of each kind"),
        "auto_find_batch_size": (False, "a step has a fixed number of examples of each kind"),
        "train_sampling_strategy": ("sequential", "the plan of examples decides their order"),
        "ignore_data_skip": (False, "the plan of examples decides what a resumed training goes on with"),
        "remove_unused_columns": (False, "examples carry what kind they are"),
        "assistant_only_loss": (False, "refusals and the answers of anchors carry the loss"),
        "loss_type": ("nll", "the loss is the paper's"),
        "label_smoothing_factor": (0.0, "the loss is the paper's"),
        "eval_strategy": ("no", "a step's loss says nothing of other data; the trained model is measured"),
        "eval_on_start": (False, "a step's loss says nothing of other data; the trained model is measured"),
    }
)
"""TRL's options that another value would make wrong or leave without effect, and why."""


@dataclass
class RecoveryConfig(RecoveryOptions, SFTConfig):  # type: ignore[misc]
    """How to train for recovery, on top of TRL's options.

    Raises DataError where numbers contradict one another: a step that cannot be cut into the
    batches asked for, an unknown recovery policy or refusal style, a weight outside 0..1; and
    for an option of TRL's that recovery training fixes (`FIXED`).
    """

    num_train_epochs: float = said(10.0, "Passes over the triplets.")
    logging_steps: float = said(5, "Log every so many steps.")
    save_steps: float = said(20, "Write a checkpoint every so many steps.")
    save_total_limit: int | None = said(2, "Checkpoints kept; older ones are removed.")
    dataloader_pin_memory: bool | None = said(None, "Whether batches are pinned; default: with a GPU.")
    train_sampling_strategy: str = said("sequential", "Fixed: the plan of examples decides their order.")
    remove_unused_columns: bool = said(False, "Fixed: examples carry what kind they are.")

    def __post_init__(self) -> None:
        self.check()
        if self.recovery == "adaptive" and self.dataloader_num_workers:
            raise DataError("expected --dataloader_num_workers 0: --recovery adaptive changes as it learns")
        require_fixed(self, FIXED)
        settle_machine(self)
        own: Any = self  # TRL's fields have no types here
        own.dataset_kwargs = {**(own.dataset_kwargs or {}), "skip_prepare_dataset": True}
        super().__post_init__()
        if self.accelerator_config.split_batches or self.accelerator_config.dispatch_batches:
            raise DataError(
                "expected --accelerator_config without split_batches and dispatch_batches: every process "
                "makes its own share of a step"
            )
        self._cut_step()

    def steps(self, triplets: int) -> int:
        """Optimiser steps: `max_steps`, or as many as pass `num_train_epochs` times over the triplets."""
        if self.max_steps > 0:
            return int(self.max_steps)
        return max(1, round(self.num_train_epochs * -(-triplets // self.safety_per_step)))

    def _cut_step(self) -> None:
        """Batch size and accumulation such that all processes together see one step's examples."""
        own: Any = self
        size, asked, given = self.mix.size, own.per_device_train_batch_size, own.gradient_accumulation_steps
        share, rest = divmod(size, self.world_size)
        if asked < 1:
            raise DataError(f"expected --per_device_train_batch_size of at least 1, found {asked}")
        if rest:
            raise DataError(
                f"expected a step of {size} examples to divide among {self.world_size} processes, found "
                f"{rest} left over. Change --safety_per_step, --anchors_per_step or the number of processes"
            )
        if given > 1 and asked * given != share:
            raise DataError(
                f"expected --per_device_train_batch_size times --gradient_accumulation_steps to be {share}, "
                f"a process's share of a step of {size} examples, found {asked} times "
                f"{given}. Leave the accumulation out and it is worked out"
            )
        batch = max(b for b in range(1, min(asked, share) + 1) if share % b == 0)
        own.per_device_train_batch_size, own.gradient_accumulation_steps = batch, share // batch


def require_fixed(config: Any, fixed: Mapping[str, tuple[Any, str]]) -> None:
    """Raise DataError for an option of TRL's that has another value than the one that `fixed` names."""
    for name, (value, why) in fixed.items():
        if getattr(config, name) != value:
            raise DataError(f"expected --{name} {value}, found {getattr(config, name)}: {why}")


def settle_machine(config: Any) -> None:
    """Give options that were left open (None) the value that fits this machine."""
    if config.bf16 is None:
        # TRL would ask for bfloat16 everywhere, and stop where the machine has none.
        config.bf16 = not config.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if config.activation_checkpointing is None:
        # TRL's name for it; transformers has a new one.
        config.activation_checkpointing = config.gradient_checkpointing
    if config.dataloader_pin_memory is None:
        config.dataloader_pin_memory = torch.cuda.is_available()
