"""What recovery training adds to TRL's options: names, defaults, help. Needs neither torch nor TRL.

So the command line can show them at once; `config` puts them on top of `SFTConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from safedepth.errors import DataError
from safedepth.train.recovery import (
    RECOVERIES,
    AdaptiveRecovery,
    RecoveryPolicy,
    dynamic,
    uniform,
)
from safedepth.train.styles import STYLES

__all__ = ["Mix", "RecoveryOptions", "said"]


def said(default: Any, text: str) -> Any:
    """A field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Mix:
    """How many examples of each kind an optimiser step has (the paper: 16 and 64)."""

    safety: int = 16
    anchors: int = 64

    def __post_init__(self) -> None:
        if self.safety < 1 or self.anchors < 0:
            raise DataError(
                f"expected at least one safety example and no negative number of anchors a step, found "
                f"{self.safety} and {self.anchors}"
            )

    @property
    def size(self) -> int:
        """Examples in one optimiser step."""
        return self.safety + self.anchors

    def kind(self, place: int) -> tuple[bool, int]:
        """Whether the example at `place` of a step is a safety example, and the how manyth of its kind.

        Safety examples are spread evenly, so that every batch and process gets its share.
        """
        before, after = place * self.safety // self.size, (place + 1) * self.safety // self.size
        return (True, before) if after > before else (False, place - before)


@dataclass
class RecoveryOptions:
    """How to train for recovery: the paper's section 4.1 by default."""

    alpha: float = said(0.2, "Weight of the safety examples in the loss, in 0..1; anchors have the rest.")
    safety_per_step: int = said(16, "Safety examples in one optimiser step, over all processes.")
    anchors_per_step: int = said(64, "Anchors in one optimiser step, over all processes.")
    recovery: str = said("uniform", f"Where refusals begin: {', '.join(RECOVERIES)}.")
    prefix_probability: float = said(0.5, "How often a harmful prefix stands before the refusal (p).")
    longest_prefix: int = said(100, "Tokens of the longest harmful prefix (C).")
    most_points: int = said(4, "Recovery points an answer has at most with --recovery dynamic (M).")
    estimate_every: int = said(20, "Steps between estimates with --recovery adaptive.")
    refusal_style: str = said("given", f"How refusals speak: {', '.join(STYLES)}.")

    @property
    def mix(self) -> Mix:
        """The examples of one optimiser step."""
        return Mix(self.safety_per_step, self.anchors_per_step)

    def policy(self) -> RecoveryPolicy | AdaptiveRecovery:
        """The recovery policy these options name."""
        if self.recovery == "adaptive":
            return AdaptiveRecovery(longest=self.longest_prefix)
        if self.recovery == "dynamic":
            return dynamic(
                probability=self.prefix_probability, longest=self.longest_prefix, most=self.most_points
            )
        return uniform(probability=self.prefix_probability, longest=self.longest_prefix)

    def check(self) -> None:
        """Raise DataError for a weight outside 0..1, an unknown policy or style, numbers no policy takes."""
        if not 0 <= self.alpha <= 1:
            raise DataError(f"expected --alpha in 0..1, found {self.alpha}")
        for name, known in (("recovery", RECOVERIES), ("refusal_style", STYLES)):
            if getattr(self, name) not in known:
                raise DataError(f"expected --{name} out of {', '.join(known)}, found {getattr(self, name)!r}")
        if self.estimate_every < 1:
            raise DataError(f"expected --estimate_every of at least 1, found {self.estimate_every}")
        self.policy()
        _ = self.mix
