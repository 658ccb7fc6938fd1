"""The gradient of a weight matrix by its norm alone, and a random direction of it by its effect.

Neither is ever formed where that costs more. With inputs a_s and cotangents g_s of the
outputs the gradient is sum_s g_s a_s^T, and

    || sum_s g_s a_s^T ||^2 = sum_st (a_s . a_t) (g_s . g_t),

where the a_s . a_t serve all cotangents, and all matrices that read the same inputs. For a
Gaussian direction V the outputs change by A V; with A^T = Q R that is R^T (Q^T V), and
Q^T V is as random as V and smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Known", "Product", "normal", "squares"]

Known = dict[tuple[int, ...], Tensor]
"""What is worked out once for all matrices that read the same inputs."""


@dataclass
class Product:
    """What one weight matrix was multiplied with, [..., S, i] each time, and what came out, [..., S, o]."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def squared_norms(self, cotangents: list[Tensor], known: Known) -> Tensor:
        """Squared norms [K] of the matrix's gradients, from K cotangents of each output [K, ..., S, o]."""
        a, g = _rows(self.inputs), _rows(cotangents, batched=True)
        ghost = len(a) < a.shape[1]
        if ghost:
            key = tuple(map(id, self.inputs))
            if key not in known:
                known[key] = a @ a.T
            a = known[key]
        if ghost and g.is_cuda:  # launches, not caches, are what costs there
            return torch.bmm(a.expand(len(g), -1, -1), g).mul_(g).flatten(1).sum(-1, dtype=torch.float64)
        found = torch.empty(len(g), dtype=torch.float64, device=g.device)
        product = g.new_empty((len(a), g.shape[2]) if ghost else (g.shape[2], a.shape[1]))
        for k, one in enumerate(g):  # one product at a time stays in the cache
            torch.mm(a if ghost else one.T, one if ghost else a, out=product)
            found[k] = torch.dot(product.view(-1), one.reshape(-1) if ghost else product.view(-1))
        return found

    @torch.no_grad()
    def noise(self, m: int, random: torch.Generator, known: Known) -> list[Tensor]:
        """What m Gaussian directions of the matrix add to each of its outputs, [m, ..., S, o] each."""
        a, width = _rows(self.inputs), self.outputs[0].shape[-1]
        if len(a) < a.shape[1]:
            key = tuple(map(id, self.inputs))
            if key not in known:
                known[key] = torch.linalg.qr(a.T, mode="r").R.T
            a = known[key]
        noise = a @ normal((m, a.shape[1], width), random, a)
        lengths = [out.shape[:-1].numel() for out in self.outputs]
        return [
            part.unflatten(1, out.shape[:-1]).to(out.dtype)
            for part, out in zip(noise.split(lengths, dim=1), self.outputs, strict=True)
        ]


def squares(values: Tensor) -> Tensor:
    """Sums of squares over all but the first axis, added up in float64."""
    wide = values if values.dtype == torch.float64 else values.float()
    return wide.square().flatten(1).sum(-1, dtype=torch.float64)


def normal(shape: tuple[int, ...], random: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers, drawn where `random` is, of the dtype and on the device of `like`."""
    return torch.randn(shape, generator=random, dtype=torch.float32, device=random.device).to(like)


def _rows(tensors: list[Tensor], *, batched: bool = False) -> Tensor:
    """[..., S, d] tensors as one of rows, in float32 at least; the first axis is kept where batched."""
    rows = [t.flatten(int(batched), -2) for t in tensors]
    whole = rows[0] if len(rows) == 1 else torch.cat(rows, dim=int(batched))
    return whole if whole.dtype == torch.float64 else whole.float()
