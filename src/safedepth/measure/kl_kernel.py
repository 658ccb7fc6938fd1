"""A tile of two models' logits reduced to block statistics in one pass on a GPU, in Triton.

The statistics are those of `kl`, whose formula says what they are for. There a tile goes through
memory once for every operation; here a block of it stays in registers from the first to the last.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["block_statistics"]

BLOCK = 4096
"""Vocabulary entries a program holds; a power of two."""

WARPS = 8


def _statistics(
    p_rows: tl.tensor, p_stride: tl.tensor, q_rows: tl.tensor, q_stride: tl.tensor, found: tl.tensor,
    size: tl.tensor, columns: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One block of one row: its four statistics, `size` apart in `found`."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    entry = block * BLOCK + tl.arange(0, BLOCK)
    inside = entry < columns
    p = tl.load(p_rows + row * p_stride + entry, mask=inside, other=-float("inf"))
    q = tl.load(q_rows + row * q_stride + entry, mask=inside, other=0.0)
    peak = tl.max(p, axis=0)
    weight = tl.exp(p - peak)
    total = tl.sum(weight, axis=0)
    difference = tl.where(inside, q - p, 0.0)
    mean = tl.sum(weight * difference, axis=0) / total
    x = tl.where(inside, difference - mean, 0.0)
    # e^x - 1 - x: its series to x^8 where subtracting would leave nothing.
    series = 1 / 5040 + x * (1 / 40320)
    series = 1 / 720 + x * series
    series = 1 / 120 + x * series
    series = 1 / 24 + x * series
    series = 1 / 6 + x * series
    series = x * x * (0.5 + x * series)
    growth = tl.where(tl.abs(x) < 0.5, series, tl.exp(x) - 1 - x)
    place = found + row * tl.num_programs(1) + block
    tl.store(place, peak + tl.log(total))
    tl.store(place + size, mean)
    tl.store(place + 2 * size, tl.sum(weight * growth, axis=0) / total)
    tl.store(place + 3 * size, tl.max(tl.where(inside, x, -float("inf")), axis=0))


_kernel: Any = triton.jit(_statistics, do_not_specialize=["size"])


def block_statistics(logits_p: Tensor, logits_q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-mass, mean, gap and widest log-ratio, [n, blocks] each, of float32 logits [n, c] of both models.

    Not finite where a logit is masked or no number, as in `kl`; rows may be strided. Raises what
    Triton raises where it cannot compile.
    """
    rows, columns = logits_p.shape
    blocks = -(-columns // BLOCK)
    found = torch.empty(4, rows, blocks, dtype=torch.float32, device=logits_p.device)
    with torch.cuda.device_of(logits_p):  # Triton launches on the current device, whatever it is given
        _kernel[(rows, blocks)](
            logits_p, logits_p.stride(0), logits_q, logits_q.stride(0), found, rows * blocks, columns,
            BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    log_mass, mean, gap, widest = found
    return log_mass, mean, gap, widest
