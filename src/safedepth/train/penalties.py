"""Penalties that stay near a reference: KL over the vocabulary, and KL on safety tokens alone.

Baselines to compare the constrained objective with. They need the reference's whole
distribution at every response token, so the reference is asked again at every step;
logits [B, T, V] never exist. Tensors in, tensors out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from safedepth.nouns import Head

__all__ = ["HiddenTap", "kl_to_reference", "safety_token_kl"]


class HiddenTap:
    """The last hidden states that a backbone gave when it was run last."""

    def __init__(self, backbone: nn.Module) -> None:
        self._last: Tensor | None = None
        self._handle = backbone.register_forward_hook(self._note)

    def _note(self, _module: nn.Module, _given: Any, output: Any) -> None:
        self._last = output.last_hidden_state

    def take(self) -> Tensor:
        """[B, T, d], of the last forward; once."""
        assert self._last is not None
        found, self._last = self._last, None
        return found


def kl_to_reference(hidden: Tensor, head: Head, of_hidden: Tensor, of_head: Head) -> Tensor:
    """KL(model || reference) in nats [N], from last hidden states [N, d]; gradients to the model's alone."""
    divergence, _entropy = ChunkedDivergenceFunction.apply(
        hidden, head.weight, head.bias, of_hidden, of_head.weight, of_head.bias, 1.0, 1.0,
        head.scale, head.softcap, of_head.scale, of_head.softcap,
    )  # fmt: skip
    return divergence  # type: ignore[no-any-return]


def safety_token_kl(
    hidden: Tensor,
    head: Head,
    log_probs: Tensor,
    of_hidden: Tensor,
    of_head: Head,
    of_log_probs: Tensor,
    targets: Tensor,
    tokens: Tensor,
) -> Tensor:
    """KL(reference || model) in nats [N] of the distributions over {each safety token, all the rest}.

    The regulariser of PACT (arXiv 2603.07445) in the form of a divergence: the model keeps the
    reference's confidence in every safety token, and is free among the others.

    Args:
        hidden: [N, d] last hidden states, `head` their head; `of_...` the reference's.
        log_probs: [N] log-probabilities of `targets` [N], from which the normaliser is had.
        tokens: [S] ids of the safety tokens.
    """
    own = _at_tokens(hidden, head, log_probs, targets, tokens)
    with torch.no_grad():
        of = _at_tokens(of_hidden, of_head, of_log_probs, targets, tokens)
    return (of.exp() * (of - own)).sum(-1).clamp(min=0)


def _at_tokens(hidden: Tensor, head: Head, log_probs: Tensor, targets: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of the safety tokens and of the rest together [N, S + 1]."""
    columns = _logits(hidden, head, tokens)
    target = _capped((hidden.float() * head.weight[targets].float()).sum(-1), head, head.bias, targets)
    normaliser = (target - log_probs.float()).unsqueeze(-1)
    inside = (columns - normaliser).clamp(max=0)
    rest = torch.log1p(-inside.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))
    return torch.cat([inside, rest], dim=-1)


def _logits(hidden: Tensor, head: Head, tokens: Tensor) -> Tensor:
    return _capped(hidden.float() @ head.weight[tokens].float().T, head, head.bias, tokens)


def _capped(logits: Tensor, head: Head, bias: Tensor | None, entries: Tensor) -> Tensor:
    logits = head.scale * (logits if bias is None else logits + bias[entries].float())
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
