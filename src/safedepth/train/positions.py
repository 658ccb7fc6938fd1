"""Where the tokens of responses are: positions from labels, whole sequences or packed ones.

A response is a run of tokens with loss inside one sequence; its first token has position 1.
Several turns, padding and packed sequences come out right because positions follow from
the labels alone. Nothing here knows text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safedepth.train.examples import IGNORED

__all__ = ["GROUPS", "group_of", "response_positions"]

GROUPS: tuple[tuple[int, int | None], ...] = (
    (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 10), (11, 20), (21, 40), (41, None),
)  # fmt: skip
"""First and last position of the groups that diagnostics average over."""


def response_positions(labels: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
    """Position of every token in its response, 0 where a token carries no loss; of the shape of `labels`.

    Args:
        labels: [T] or [B, T], a sequence a row.
        lengths: those of the sequences packed into `labels` [T], if several are.
    """
    index = torch.arange(labels.shape[-1])
    counted = labels != IGNORED
    begins = counted.clone()
    begins[..., 1:] &= ~counted[..., :-1]
    if lengths is not None:
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        begins[starts] = counted[starts]
    first = torch.where(begins, index, -1).cummax(-1).values if labels.numel() else index
    return torch.where(counted, index - first + 1, 0)


def group_of(positions: Tensor) -> Tensor:
    """The index in `GROUPS` of each position of 1 or more."""
    ends = torch.tensor([last for _, last in GROUPS[:-1]], device=positions.device)
    return torch.bucketize(positions, ends)
