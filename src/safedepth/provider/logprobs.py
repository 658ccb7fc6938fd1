"""Log-probabilities of given tokens, with the likeliest alternatives. Knows tensors only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safedepth.provider.jobs import TokenLogprob

__all__ = ["logprobs_of"]


def logprobs_of(logits: Tensor, tokens: Sequence[int], *, top: int) -> list[TokenLogprob]:
    """Log-probabilities (natural, float32) of one token a row of `logits` [n, V], and `top` alternatives."""
    logits = logits.float()
    norm = logits.logsumexp(dim=-1)
    index = torch.tensor(tokens, device=logits.device)[:, None]
    values = (logits.gather(1, index)[:, 0] - norm).tolist()
    if not top:
        return [TokenLogprob(token, value) for token, value in zip(tokens, values, strict=True)]
    best, ids = logits.topk(min(top, logits.shape[-1]), dim=-1)
    alternatives = zip(ids.tolist(), (best - norm[:, None]).tolist(), strict=True)
    return [
        TokenLogprob(token, value, tuple(zip(row_ids, row_values, strict=True)))
        for token, value, (row_ids, row_values) in zip(tokens, values, alternatives, strict=True)
    ]
