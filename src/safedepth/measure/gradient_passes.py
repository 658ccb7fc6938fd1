"""The two ways through a model: squared gradient norms of all tokens, or derivatives along random directions.

Both begin at the head, where everything is known in closed form: with r_t = softmax(z_t) -
e_y the loss of token t has the gradient r_t h_t^T in the head's matrix and the cotangent
W^T r_t in the hidden state. From there on exactly: the cotangents of K tokens through the
blocks together, each block read again up to the last of them. Or along m directions of all
weights for all tokens, from the first block to the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safedepth.measure.gradient_graphs import Recorded
from safedepth.measure.gradient_layers import Layers
from safedepth.measure.gradient_products import normal, squares
from safedepth.nouns import Head

__all__ = ["HeadRows", "derivatives", "left_out", "squared_norms"]

TILE = 2**23
"""Logits held at once."""


@dataclass(frozen=True)
class HeadRows:
    """What the head says of n tokens.

    `loss` [n] in nats; `hidden` [n, d] and the `cotangents` [n, d] of it; `squared` [n], the squared
    norm of the gradient in the head's own parameters; `residuals` [n, U], r_t at the ids that the
    sequence holds, for a head that shares the embedding's matrix.
    """

    loss: Tensor
    hidden: Tensor
    cotangents: Tensor
    squared: Tensor
    residuals: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, head: Head, hidden: Tensor, targets: Tensor, present: Tensor) -> HeadRows:
        """Rows of `hidden` [n, d] that predict `targets` [n]; `present` [U] are ids to keep r_t at."""
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        rows = max(1, TILE // head.weight.shape[0])
        parts = [
            _head_rows(head, h.to(wide), y, present, hidden.dtype)
            for h, y in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
        loss, cotangents, squared, residuals = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(loss, hidden, cotangents, squared, residuals)


def _head_rows(
    head: Head, hidden: Tensor, targets: Tensor, present: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight = head.weight.to(hidden.dtype)
    logits = hidden @ weight.T
    if head.bias is not None:
        logits += head.bias
    logits *= head.scale
    slope: Tensor | float = head.scale
    if head.softcap is not None:
        capped = torch.tanh(logits / head.softcap)
        logits, slope = head.softcap * capped, head.scale * (1 - capped.square())
    y = targets.unsqueeze(-1)
    loss = (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, y)).double()
    r = logits.softmax(-1).scatter_(-1, y, 0.0)
    others = r.sum(-1, keepdim=True)  # 1 - p_y, also where that is too small for a difference
    loss = torch.where(others < 0.5, -torch.log1p(-others.double()), loss).squeeze(-1)
    r.scatter_(-1, y, -others)
    r *= slope
    biased = squares(r) if head.bias is not None else 0.0
    return loss, (r @ weight).to(dtype), squares(r) * squares(hidden) + biased, r[:, present]


def squared_norms(
    recorded: Recorded, layers: Layers, rows: HeadRows, *, chunk: int, last_blocks: int | None
) -> Tensor:
    """Squared gradient norms [n, layers] in float64 of the losses of the last n tokens of a sequence.

    `last_blocks` stops after so many blocks; what was not computed for then is NaN.
    """
    n, count, width = len(rows.loss), len(layers.blocks), rows.cotangents.shape[1]
    stop = _stop(layers, last_blocks)
    column = _Columns(layers)
    found = rows.loss.new_zeros(n, len(layers.names))
    for start in range(0, n, chunk):
        some = slice(start, min(start + chunk, n))
        k, end = some.stop - some.start, len(recorded.ids) - n + some.stop
        segments = recorded.segments(end)
        g = rows.cotangents.new_zeros(k, 1, end, width)
        g[torch.arange(k), 0, torch.arange(end - k, end)] = rows.cotangents[some]
        g, norms = segments.tail.pull(g)
        found[some, column.rest] += norms
        for i in range(count - 1, stop - 1, -1):
            g, norms = segments.blocks[i]().pull(g)
            found[some, column.blocks[i]] += norms
        if stop == 0:
            g, norms = segments.front.pull(g)
            found[some, column.rest] += norms
            found[some, column.embedding] += _embedding_squared(recorded, rows, some, g[:, 0], layers)
    found[:, column.head] += rows.squared
    found[:, left_out(layers, last_blocks)] = torch.nan
    return found


def left_out(layers: Layers, last_blocks: int | None) -> list[int]:
    """The columns of `squared_norms` that are not computed."""
    stop = _stop(layers, last_blocks)
    column = _Columns(layers)
    return [column.embedding, *column.blocks[:stop]] if stop else []


def _stop(layers: Layers, last_blocks: int | None) -> int:
    """The first block that cotangents are taken through, counted from 0."""
    return 0 if last_blocks is None else max(0, len(layers.blocks) - last_blocks)


def _embedding_squared(recorded: Recorded, rows: HeadRows, some: slice, g: Tensor, layers: Layers) -> Tensor:
    """Squared norms [K] of the embedding's gradient, with its product with the head's where they are one."""
    place = recorded.place[: g.shape[1]]
    g = recorded.looked_up(g)
    summed = g.new_zeros(len(g), len(recorded.present), g.shape[-1]).index_add_(1, place, g)
    squared = squares(summed)
    if layers.tied:
        along = torch.einsum("kud,kd->ku", summed, rows.hidden[some])
        squared += 2 * (along.double() * rows.residuals[some]).sum(-1)
    return squared


def derivatives(
    recorded: Recorded, layers: Layers, rows: HeadRows, *, directions: int, random: torch.Generator
) -> Tensor:
    """Derivatives [m, n] of the losses of the last n tokens along m Gaussian directions of all weights.

    Each is normal with mean 0 and the token's squared gradient norm as variance, and those of one
    token are independent. What the head's own matrix adds is drawn for every token anew.
    """
    n, width = len(rows.loss), rows.hidden.shape[1]
    segments = recorded.segments(len(recorded.ids))
    noise = normal((directions, len(recorded.present), width), random, rows.hidden)
    tangents = segments.front.push(recorded.looked_up(noise[:, recorded.place]).unsqueeze(1), random)
    for block in segments.blocks:
        tangents = block().push(tangents, random)
    tangents = segments.tail.push(tangents, random)
    found = torch.einsum("mnd,nd->mn", tangents[:, 0, -n:].double(), rows.cotangents.double())
    beside = rows.squared
    if layers.tied:
        along = torch.einsum("mud,nd->mnu", noise, rows.hidden)
        found += torch.einsum("mnu,nu->mn", along, rows.residuals).double()
        beside = (beside - squares(rows.residuals) * squares(rows.hidden)).clamp(min=0)
    return found + beside.sqrt() * normal((directions, n), random, found)


class _Columns:
    """Where the parts of a model stand among its layers; the last column is for nobody's."""

    def __init__(self, layers: Layers) -> None:
        def column(module: Any) -> int:
            return layers.of[next(iter(module.parameters()))]

        self.embedding, self.head = column(layers.embedding), column(layers.head)
        self.blocks = [column(block) for block in layers.blocks]
        self.rest = layers.of[layers.rest[0]] if layers.rest else self.head
