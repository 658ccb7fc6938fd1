"""Training: what to train on, the losses, and TRL trainers extended in a few small overrides."""

from safedepth.train.recovery import RECOVERIES, AdaptiveRecovery, RecoveryPolicy, dynamic, uniform
from safedepth.train.styles import STYLES, RefusalStyle

__all__ = [
    "RECOVERIES",
    "STYLES",
    "AdaptiveRecovery",
    "RecoveryPolicy",
    "RefusalStyle",
    "dynamic",
    "uniform",
]
