"""What a suffix is to achieve: functions of target tokens' log-probabilities. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log

import torch
from torch import Tensor

__all__ = ["OBJECTIVES", "Objective", "cross_entropy", "mellowmax", "over_targets"]

Objective = Callable[[Tensor], Tensor]
"""Log-probabilities of a target's tokens [n, T], to losses [n]; lower is better."""

SHARPNESS = 1.0


def cross_entropy(logprobs: Tensor) -> Tensor:
    """The mean negative log-likelihood of the target (Zou et al. 2023, eq. 3, per token)."""
    return -logprobs.mean(dim=-1)


def mellowmax(logprobs: Tensor) -> Tensor:
    """A soft maximum of the tokens' losses, log(mean(exp(a loss))) / a: the worst token counts most.

    After Asadi and Littman 2017 (arXiv 1612.05628); with a = `SHARPNESS`.
    """
    tokens = logprobs.shape[-1]
    return (torch.logsumexp(-SHARPNESS * logprobs, dim=-1) - log(tokens)) / SHARPNESS


OBJECTIVES: Mapping[str, Objective] = {"cross_entropy": cross_entropy, "mellowmax": mellowmax}


def over_targets(losses: Sequence[Tensor]) -> Tensor:
    """Of several targets, each with losses [n], the one that is nearest counts."""
    return torch.stack(list(losses)).amin(dim=0)
