"""What constrained fine-tuning adds to TRL's options: names, defaults, help. Needs neither torch nor TRL.

So the command line can show them at once; `constrained_config` puts them on top of `SFTConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from safedepth.errors import DataError
from safedepth.train.options import said

__all__ = ["OBJECTIVES", "WARMUP_STEPS", "ProtectOptions"]

OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "constrained": "the token-wise constrained objective of section 4.2",
        "sft": "plain fine-tuning, without warm-up",
        "sft_warmup": "plain fine-tuning with the warm-up that the others have",
        "kl": "plain fine-tuning plus KL(model || reference) at every response token",
        "pact": "plain fine-tuning plus KL(reference || model) on safety tokens alone (PACT-style)",
        "safeinstr": "plain fine-tuning with safety examples mixed in (SafeInstr-style)",
    }
)
"""What is minimised, by name."""

WARMUP_STEPS = 10
"""Linear warm-up of the paper (section 4.2), for every objective but `sft`."""


@dataclass
class ProtectOptions:
    """How to fine-tune without losing safety: the paper's section 4.2 by default."""

    objective: str = said("constrained", f"What is minimised: {', '.join(OBJECTIVES)}.")
    beta: str = said("paper", "How strongly tokens are held, by position: paper, 2, 0.5,2,2,2,2,0.1, FILE.")
    reference: str | None = said(
        None, "The model to stay near; default: MODEL as it is before its first step."
    )
    reference_cache: str | None = said(
        None, "Folder for the reference's log-probabilities; default OUTPUT_DIR/reference."
    )
    precompute_reference: bool = said(True, "Ask the reference once, ahead; False: at every step (adapters).")
    kl_weight: float = said(1.0, "Weight of the KL with --objective kl or pact.")
    safety_tokens: int = said(50, "How many safety tokens --objective pact holds.")
    safety_data: str | None = said(
        None, "Requests with refusals, for pact, safeinstr and --importance learned."
    )
    safety_share: float = said(0.1, "Safety examples mixed in, as a share of the data, with safeinstr.")
    disable_dropout: bool = said(True, "Train without dropout, adapters included, as the paper does.")
    diagnostics: bool = said(True, "Log loss, weight, KL and implicit advantage by response position.")

    @property
    def needs_log_probs(self) -> bool:
        """Whether the loss needs the reference's log-probabilities of the response tokens."""
        return self.objective == "constrained"

    @property
    def needs_distributions(self) -> bool:
        """Whether the loss needs the reference's whole distributions, at every step."""
        return self.objective in ("kl", "pact")

    def check(self) -> None:
        """Raise DataError for an unknown objective, and for numbers and files that contradict it."""
        if self.objective not in OBJECTIVES:
            raise DataError(f"expected --objective out of {', '.join(OBJECTIVES)}, found {self.objective!r}")
        if self.kl_weight <= 0 or self.safety_tokens < 1:
            raise DataError(
                f"expected --kl_weight above 0 and --safety_tokens of at least 1, found {self.kl_weight} and "
                f"{self.safety_tokens}"
            )
        if not 0 < self.safety_share <= 1:
            raise DataError(f"expected --safety_share in 0..1, found {self.safety_share}")
        if self.objective in ("pact", "safeinstr") and not self.safety_data:
            raise DataError(
                f"expected --safety_data FILE with --objective {self.objective}: requests with refusals"
            )
