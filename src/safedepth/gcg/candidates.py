"""What to try next: single swaps where the gradient promises most, and merges of the best of them.

Zou et al. 2023, algorithm 1: of every position the `topk` tokens with the steepest descent,
then swaps drawn evenly from them. The merges are ours, after the multi-coordinate update of
Jia et al. 2024 (arXiv 2405.21018). Tensors in, tensors out; it refuses to know models.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["merged", "swaps", "unique"]


def swaps(
    suffix: Tensor, gradient: Tensor, allowed: Tensor, *, width: int, topk: int, generator: torch.Generator
) -> Tensor:
    """`width` candidates [width, s], each the `suffix` [s] with one token swapped.

    `gradient` [s, V] is that of the loss by the one-hot suffix, `allowed` [n] the ids that may
    come in. Positions are taken in turn, so that all get as many; a swap for the token
    that stands there already is drawn as any other and later removed as a duplicate.
    """
    promising = -gradient[:, allowed.to(gradient.device)].float().cpu()
    best = allowed[promising.topk(min(topk, len(allowed)), dim=-1).indices]
    places = torch.arange(width) * len(suffix) // width
    picks = torch.randint(best.shape[1], (width,), generator=generator)
    candidates = suffix.repeat(width, 1)
    candidates[torch.arange(width), places] = best[places, picks]
    return candidates


def unique(candidates: Tensor, suffix: Tensor) -> Tensor:
    """The candidates [m, s] without duplicates and without `suffix` itself, in a fixed order."""
    changed = candidates[(candidates != suffix).any(dim=-1)]
    return torch.unique(changed, dim=0) if len(changed) else changed


def merged(suffix: Tensor, ranked: Tensor, *, most: int) -> Tensor:
    """Candidates [m, s] with several swaps: those of the best two, three, ... of `ranked` [n, s] together.

    `ranked` are single swaps, best first; of two swaps at one position the better one stays.
    """
    together, found, swapped = suffix.clone(), [], 0
    for candidate in ranked:
        places = (candidate != suffix) & (together == suffix)
        if not places.any():
            continue
        together = torch.where(places, candidate, together)
        swapped += 1
        if swapped > 1:
            found.append(together)
        if swapped == most:
            break
    return torch.stack(found) if found else suffix.new_empty((0, len(suffix)))
