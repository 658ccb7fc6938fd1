"""Log-probabilities of given tokens and the likeliest tokens, from hidden states and a head.

The logits of a few rows are formed at a time, in float32, and never kept. Knows tensors only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from safedepth.nouns import Head

__all__ = ["likeliest", "token_log_probs"]

ROWS = 64
"""Rows whose logits exist at once: 32 MB of them where the vocabulary has 128,256 tokens."""


@torch.no_grad()
def token_log_probs(hidden: Tensor, head: Head, ids: Tensor) -> Tensor:
    """log p(ids[n]) in nats for each row [N] of hidden states [N, d]; float32, on their device."""
    head = _in_float32(head)
    found = torch.empty(len(ids), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(ids), ROWS):
        rows = slice(start, start + ROWS)
        said = _logits(hidden[rows], head).log_softmax(-1)
        found[rows] = said.gather(-1, ids[rows].unsqueeze(-1)).squeeze(-1)
    return found


@torch.no_grad()
def likeliest(hidden: Tensor, head: Head) -> Tensor:
    """The likeliest token [N] after each row of hidden states [N, d]."""
    head = _in_float32(head)
    parts = [_logits(hidden[start : start + ROWS], head).argmax(-1) for start in range(0, len(hidden), ROWS)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long, device=hidden.device)


def _in_float32(head: Head) -> Head:
    return head._replace(weight=head.weight.float(), bias=None if head.bias is None else head.bias.float())


def _logits(hidden: Tensor, head: Head) -> Tensor:
    logits = head.scale * functional.linear(hidden.float(), head.weight, head.bias)
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
