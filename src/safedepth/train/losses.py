"""Losses: tensors in, tensors out. No model, no tokenizer, no logger.

Recovery training (paper, section 4.1) minimises

    L = alpha * mean over safety examples of l(e) + (1 - alpha) * mean over anchors of l(e)

with l(e) the mean negative log-likelihood of the tokens of e that carry loss. Written as
one weighted sum over tokens, L neither depends on how a step's examples are split into
batches, over processes or over accumulation, nor on padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mixture_weights", "weighted_nll"]


def mixture_weights(
    counted_B_T: Tensor, safety_B: Tensor, *, alpha: float, safety_examples: int, anchor_examples: int
) -> Tensor:
    """Token weights [B, T] whose weighted sum over all examples of a step is L.

    A token of a safety example with n counted tokens weighs alpha / (S n), one of an anchor
    (1 - alpha) / (A n); S and A are the examples of each kind in the whole optimiser step.

    Args:
        counted_B_T: true where a token carries loss.
        safety_B: true for safety examples, false for anchors.
        alpha: weight of the safety examples, in 0..1.
    """
    counted = counted_B_T.to(torch.float32)
    tokens = counted.sum(dim=1).clamp(min=1)
    # A kind with no examples in the step has no share in it; the other then carries all.
    if safety_examples == 0 or anchor_examples == 0:
        alpha = float(anchor_examples == 0)
    of_safety = alpha / max(safety_examples, 1)
    of_anchor = (1 - alpha) / max(anchor_examples, 1)
    share = torch.where(safety_B, of_safety, of_anchor).to(counted)
    return counted * (share / tokens)[:, None]


def weighted_nll(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Minus the weighted sum of log-probabilities of one shape; positions of weight 0 count nothing.

    Summed in float32. What stands at positions of weight 0 may be anything, NaN included.
    """
    counted = weights != 0
    return -(torch.where(counted, log_probs.float(), 0.0) * weights).sum()
