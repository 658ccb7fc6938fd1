"""What constrained fine-tuning adds to TRL's options: names, defaults, help. Needs neither torch nor TRL.

So the command line can show them at once; `constrained_config` puts them on top of `SFTConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from safedepth.errors import DataError
from safedepth.train.options import said

__all__ = ["IMPORTANCES", "OBJECTIVES", "WARMUP_STEPS", "ProtectOptions"]

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

IMPORTANCES: Mapping[str, str] = MappingProxyType(
    {
        "kl": "divergence from the base model along harmful answers",
        "gradient": "norms of the gradients of their tokens",
        "learned": "learnt, so that training on them leaves held-out refusals likely",
    }
)
"""What betas can follow from beside the position, by name (`studies.importance`)."""

WARMUP_STEPS = 10
"""Linear warm-up of the paper (section 4.2), for every objective but `sft`."""


@dataclass
class ProtectOptions:
    """How to fine-tune without losing safety: the paper's section 4.2 by default."""

    objective: str = said("constrained", f"What is minimised: {', '.join(OBJECTIVES)}.")
    beta: str = said("paper", "How strongly tokens are held, by position: paper, 2, 0.5,2,2,2,2,0.1, FILE.")
    importance: str | None = said(None, f"Betas from where safety lives: {', '.join(IMPORTANCES)}.")
    importance_data: str | None = said(None, "With --importance: refused requests with harmful answers.")
    importance_low: float = said(0.1, "With --importance: beta of positions that do not matter.")
    importance_high: float = said(10.0, "With --importance: beta of the position that matters most.")
    base: str | None = said(None, "With --importance kl: the base model that MODEL was aligned from.")
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
        if not 0 < self.kl_weight < math.inf or self.safety_tokens < 1:
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
        self._check_importance()

    def _check_importance(self) -> None:
        if self.importance is None:
            return
        if self.importance not in IMPORTANCES:
            raise DataError(
                f"expected --importance out of {', '.join(IMPORTANCES)}, found {self.importance!r}"
            )
        if self.objective != "constrained" or self.beta != "paper":
            raise DataError(
                "expected --importance with --objective constrained and without --beta, which it decides; "
                f"found --objective {self.objective} and --beta {self.beta}"
            )
        if not 0 < self.importance_low < self.importance_high < math.inf:
            raise DataError(
                "expected 0 < --importance_low < --importance_high, found "
                f"{self.importance_low} and {self.importance_high}"
            )
        needed = {"importance_data": "refused requests with harmful answers"}
        needed |= {"base": "the base model"} if self.importance == "kl" else {}
        needed |= {"safety_data": "other requests with refusals"} if self.importance == "learned" else {}
        for name, what in needed.items():
            if not getattr(self, name):
                raise DataError(f"expected --{name} with --importance {self.importance}: {what}")
