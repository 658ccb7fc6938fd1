"""One token per row from its logits: greedy, or sampled with the row's own random key.

The result for a row depends on its own logits, settings and key alone, never on its
neighbours. The key gives every token luck of its own, so that the last digits of the
logits, which do depend on the batch, rarely decide (with one uniform number and an
inverse CDF they would: any shift moves all later boundaries). Top-k is taken first and
top-p inside it, the distribution of Hugging Face's warpers without sorting the whole
vocabulary (performance study, (d)). Knows tensors, not models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from safedepth.provider.jobs import Job, Sampling

__all__ = ["Distribution", "choose", "distribution", "random_keys"]

_NUCLEUS = 256
"""Tokens looked at for top-p without top-k, before sorting all of them."""

_BLOCK = 128
"""Tokens raced together where all of them are candidates."""


def random_keys(job: Job) -> Iterator[int]:
    """The job's own random keys, one for each generated token, from a counter-based generator."""
    stream = np.random.Philox(key=job.stream)
    while True:
        yield _as_int64(int(stream.random_raw()))


def choose(logits: Tensor, settings: Sequence[Sampling], keys: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pick a token for each row of `logits` [n, V] by its own settings and 64-bit key.

    Returns the tokens [n] and the rows' largest logits [n], which are not finite where
    a row's logits are not numbers; the token of such a row means nothing.
    """
    logits = _biased(logits, settings)
    tokens = torch.zeros(len(settings), dtype=torch.long, device=logits.device)
    peaks = torch.zeros(len(settings), dtype=logits.dtype, device=logits.device)
    for rows in _kinds(settings):
        index = torch.tensor(rows, device=logits.device)
        part = logits if len(rows) == len(settings) else logits[index]
        if settings[rows[0]].greedy:
            peaks[index], tokens[index] = part.max(dim=-1)
            continue
        found = distribution(part, [settings[row] for row in rows])
        peaks[index] = found.peaks
        tokens[index] = _winners(found, torch.tensor([keys[row] for row in rows], device=logits.device))
    return tokens, peaks


def _biased(logits: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """`logits` with the rows' biases added; the argument itself stays as it is, for log-probs."""
    found = [(row, *pair) for row, chosen in enumerate(settings) for pair in chosen.bias]
    if not found:
        return logits
    rows, ids, values = (torch.tensor(column, device=logits.device) for column in zip(*found, strict=True))
    return logits.index_put((rows, ids), values.to(logits.dtype), accumulate=True)


def _kinds(settings: Sequence[Sampling]) -> list[list[int]]:
    """Rows that can be computed together: greedy, with one top-k, with top-p alone, with neither.

    Rows with different top-k stay apart because among equal logits (common in
    bfloat16) the order that topk returns depends on how many it is asked for.
    """
    kinds: dict[int | str, list[int]] = {}
    for row, chosen in enumerate(settings):
        kind = chosen.top_k if chosen.top_k is not None else "top-p" if chosen.top_p < 1 else "all"
        kinds.setdefault("greedy" if chosen.greedy else kind, []).append(row)
    return list(kinds.values())


@dataclass(frozen=True)
class Distribution:
    """What n rows sample from: `tokens` [n, m], likeliest first, and their `weights` [n, m] of any sum.

    Tokens that are cut off weigh 0. `tokens` None stands for all tokens in the order
    of their ids. `peaks` [n] are the rows' largest logits.
    """

    tokens: Tensor | None
    weights: Tensor
    peaks: Tensor


def distribution(logits: Tensor, settings: Sequence[Sampling]) -> Distribution:
    """What the rows of `logits` [n, V] are sampled from.

    All settings are of one kind: with the same top-k, with top-p alone, or with neither.
    """
    temperature = _column([chosen.temperature for chosen in settings], logits)
    top_p = _column([chosen.top_p for chosen in settings], logits)
    top_k = settings[0].top_k
    if top_k is not None:
        best, tokens = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        peaks = best[:, 0]
        # Subtracting the peak first keeps tiny temperatures from overflowing.
        weights = ((best - peaks[:, None]) / temperature).exp()
        return Distribution(tokens, _nucleus(weights, top_p, weights.sum(-1, keepdim=True)), peaks)
    peaks = logits.amax(dim=-1)
    weights = ((logits - peaks[:, None]) / temperature).exp_()
    if all(chosen.top_p == 1 for chosen in settings):
        return Distribution(None, weights, peaks)
    total = weights.sum(-1, keepdim=True)
    best, tokens = weights.topk(min(_NUCLEUS, weights.shape[-1]), dim=-1)
    # Only rows whose nucleus reaches beyond these candidates are sorted whole.
    wide = (best.sum(-1, keepdim=True) < top_p * total)[:, 0]
    if bool(wide.any()):
        beyond = (0, weights.shape[-1] - best.shape[-1])
        best, tokens = nn.functional.pad(best, beyond), nn.functional.pad(tokens, beyond)
        best[wide], tokens[wide] = weights[wide].sort(dim=-1, descending=True)
    return Distribution(tokens, _nucleus(best, top_p, total), peaks)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _nucleus(weights: Tensor, top_p: Tensor, total: Tensor) -> Tensor:
    """Keep the likeliest candidates whose predecessors hold less than `top_p` of `total`, never none."""
    before = weights.cumsum(-1) - weights
    cut = before >= top_p * total
    cut[:, 0] = False
    return weights.masked_fill(cut & (top_p < 1), 0)


def _winners(found: Distribution, keys: Tensor) -> Tensor:
    """The token [n] that each row draws with its key [n]."""
    if found.tokens is not None:
        return found.tokens.gather(1, _race(found.weights, found.tokens, keys)[:, None])[:, 0]
    # A race of blocks, then one inside the winner: the same distribution with far fewer runners.
    weights = nn.functional.pad(found.weights, (0, -found.weights.shape[-1] % _BLOCK)).unflatten(
        1, (-1, _BLOCK)
    )
    blocks = torch.arange(weights.shape[1], device=keys.device).expand(len(keys), -1)
    block = _race(weights.sum(-1), blocks, keys)
    inside = torch.arange(_BLOCK, device=keys.device) + _BLOCK * block[:, None]
    rows = torch.arange(len(keys), device=keys.device)
    # Runners of both races need numbers of their own, so tokens count on from the blocks.
    place = _race(weights[rows, block], inside + blocks.shape[-1], keys)
    return inside.gather(1, place[:, None])[:, 0]


def _race(weights: Tensor, names: Tensor, keys: Tensor) -> Tensor:
    """Index [n] of the runner that comes first: each is as fast as its weight [n, m], with luck of its own.

    Arrival times are exponential with the weights as rates, so the first is runner i
    with probability weight i over their sum. Luck belongs to the name [n, m] of the
    runner: rounding that changes weights a little, or their order, seldom changes the winner.
    """
    luck = -_uniforms(names, keys).log()
    return (luck / weights.double()).argmin(dim=-1)


def _uniforms(names: Tensor, keys: Tensor) -> Tensor:
    """Independent numbers in (0, 1), float64, one for each key [n] and name [n, m]: SplitMix64's output."""
    state = keys[:, None] + names * _as_int64(0x9E3779B97F4A7C15)
    state = (state ^ _shifted(state, 30)) * _as_int64(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _as_int64(0x94D049BB133111EB)
    state = state ^ _shifted(state, 31)
    return (_shifted(state, 11).double() + 0.5) * 2.0**-53


def _shifted(state: Tensor, bits: int) -> Tensor:
    """`state` as unsigned 64 bits, shifted right; torch's own shift of int64 keeps the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _as_int64(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
