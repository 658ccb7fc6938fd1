"""`ConstrainedSFTConfig`: TRL's `SFTConfig` with the paper's defaults and what the constraint adds.

Every field of `SFTConfig` keeps its name and meaning; what the paper sets otherwise
(section 4.2: Adam's first beta, warm-up, no dropout) is a default to see and to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trl import SFTConfig

from safedepth.errors import DataError
from safedepth.train.betas import read_betas
from safedepth.train.config import require_fixed, settle_machine
from safedepth.train.options import said
from safedepth.train.protect_options import WARMUP_STEPS, ProtectOptions

__all__ = ["ConstrainedSFTConfig"]

FIXED: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "loss_type": ("nll", "the objective decides the loss"),
        "label_smoothing_factor": (0.0, "the objective decides the loss"),
        "packing_strategy": (
            "bfd",
            "another strategy cuts responses, and positions would count from the cut",
        ),
        "truncation_mode": ("keep_start", "positions count from the beginning of a response"),
    }
)
"""TRL's options that another value would make wrong, and why."""


@dataclass
class ConstrainedSFTConfig(ProtectOptions, SFTConfig):  # type: ignore[misc]
    """How to fine-tune under the constraint, on top of TRL's options.

    Raises DataError for an unknown objective, betas that are not positive numbers, options of
    TRL's that would make positions or the loss wrong (`FIXED`), and for DeepSpeed's ZeRO-3 where a
    reference is asked.
    """

    adam_beta1: float = said(0.5, "First beta of AdamW, as in the paper.")
    warmup_steps: float | None = said(None, f"Linear warm-up; default {WARMUP_STEPS}, and none with sft.")
    dataloader_pin_memory: bool | None = said(None, "Whether batches are pinned; default: with a GPU.")

    def __post_init__(self) -> None:
        self.check()
        read_betas(self.beta)
        require_fixed(self, FIXED)
        own: Any = self  # TRL's fields have no types here
        if own.completion_only_loss is False:
            raise DataError(
                "expected --completion_only_loss to be True or left out: objectives act on responses alone"
            )
        if own.warmup_steps is None:
            own.warmup_steps = 0 if self.objective == "sft" else WARMUP_STEPS
        settle_machine(self)
        super().__post_init__()
        self.require_askable(own.deepspeed_plugin)

    def require_askable(self, deepspeed: Any) -> None:
        """Raise DataError where the reference must be asked ahead and DeepSpeed (its plugin) is ZeRO-3.

        It cannot train a model that was asked before (DeepSpeed 0.19).
        """
        stored = self.needs_log_probs and self.precompute_reference
        if stored and deepspeed is not None and deepspeed.zero_stage == 3:
            raise DataError(
                "expected FSDP2, DDP or ZeRO-2, found DeepSpeed's ZeRO-3: it cannot train a model that was "
                "asked before, and the constraint asks the reference first. Use configs/fsdp2.yaml, which "
                "shares out the same"
            )
