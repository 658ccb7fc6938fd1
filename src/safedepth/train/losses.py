"""Losses: tensors in, tensors out. No model, no tokenizer, no logger.

Recovery training (paper, section 4.1) minimises

    L = alpha * mean over safety examples of l(e) + (1 - alpha) * mean over anchors of l(e)

with l(e) the mean negative log-likelihood of the tokens of e that carry loss. Written as
one weighted sum over tokens, L neither depends on how a step's examples are split into
batches, over processes or over accumulation, nor on padding.

Constrained fine-tuning (section 4.2, equations 3 to 5) minimises, for each response token,

    (2 / beta_t) softplus(beta_t D_t),    D_t = log pi_ref(y_t | ...) - log pi(y_t | ...)

whose gradient is -w_t grad log pi(y_t | ...) with w_t = 2 sigmoid(beta_t D_t): 1 where the
model agrees with the reference, towards 0 the further it has gone beyond it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "constrained_loss",
    "implicit_advantage",
    "mixture_weights",
    "token_weights",
    "weighted_nll",
]


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


def constrained_loss(log_probs: Tensor, reference: Tensor, betas: Tensor) -> Tensor:
    """The constrained objective of every token (section 4.2, equation 3), in nats; not summed.

    As beta goes to 0 it becomes the negative log-likelihood plus a constant,
    2 log(2) / beta + log pi_ref; as beta grows, 2 max(D, 0).

    Args:
        log_probs: log pi(y_t | ...) of the model that is trained; gradients flow through it alone.
        reference: log pi_ref(y_t | ...), of the same shape.
        betas: beta_t > 0, of the same shape or one that broadcasts to it.

    Returns:
        The tokens' losses, float32 (float64 if `log_probs` is), finite for every finite input.
    """
    gap = _gap(log_probs, reference)
    betas = betas.to(gap.dtype)
    # logaddexp and not functional.softplus, which becomes the identity from 20 on and loses the rest.
    scaled = betas * gap
    return 2 / betas * torch.logaddexp(scaled, torch.zeros_like(scaled))


def token_weights(log_probs: Tensor, reference: Tensor, betas: Tensor) -> Tensor:
    """w_t = 2 sigmoid(beta_t D_t) in 0..2: how much of the gradient of each token is left (equation 5)."""
    gap = _gap(log_probs, reference).detach()
    return 2 * torch.sigmoid(betas.to(gap.dtype) * gap)


def implicit_advantage(log_probs: Tensor, reference: Tensor, betas: Tensor) -> Tensor:
    """beta_t log(pi / pi_ref) of each token, in nats (section 4.2 and appendix, the RL reading).

    The model is the optimum of E[sum_t A_t - beta_t KL(pi || pi_ref)] for just these advantages, up
    to a value that depends on the context alone.
    """
    gap = _gap(log_probs, reference).detach()
    return -betas.to(gap.dtype) * gap


def _gap(log_probs: Tensor, reference: Tensor) -> Tensor:
    """D_t, taken in float32 (float64 if `log_probs` is), so that half precision loses nothing here."""
    wide = torch.float64 if log_probs.dtype == torch.float64 else torch.float32
    return reference.detach().to(wide) - log_probs.to(wide)
