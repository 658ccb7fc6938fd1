"""Keys and values of the rows being decoded: one slot a row, each row with its own length.

A row starts at column 0 of its slot and writes every new token at its own length, so
rows of any length share a batch without padding on the left; the caller's mask hides
the columns beyond a row's end. The buffers grow by a good part where they grow, so that
the copying is amortised. Behind a row's end there are zeros, never what the slot held
before: a masked NaN would still poison an attention sum.

Knows transformers' cache protocol and nothing of models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

__all__ = ["SlotCache", "attention_layers", "bytes_per_token"]

_WORTH_READING = 0.85
"""Share of the columns that must be in use for all of them to be read."""


def attention_layers(cache: Cache) -> list[tuple[Tensor, Tensor] | None]:
    """Keys and values [rows, heads, tokens, width] of each layer; None for layers that hold nothing."""
    return [
        (layer.keys, layer.values)
        if isinstance(layer, CacheLayerMixin) and layer.keys is not None and layer.values is not None
        else None
        for layer in cache.layers
    ]


def bytes_per_token(cache: Cache) -> int:
    """Bytes that one token of one row takes in all layers together."""
    tensors = [tensor for pair in attention_layers(cache) if pair is not None for tensor in pair]
    return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in tensors)


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values [slots, heads, columns, width]."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.rows = torch.arange(0)
        self.lengths = torch.arange(0)
        self.columns = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("a slot layer is made with its buffers")

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one new token [n, heads, 1, width] per row at the row's length; return what is in use."""
        used = len(self.rows)
        self.keys[self.rows, :, self.lengths] = key_states[:, :, 0]
        self.values[self.rows, :, self.lengths] = value_states[:, :, 0]
        return self.keys[:used, :, : self.columns], self.values[:used, :, : self.columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.columns, 0

    def get_seq_length(self) -> int:
        return max(0, self.columns - 1)

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """Slots for up to `slots` rows, at most `capacity` tokens in all, filled from prefilled caches."""

    def __init__(self, *, slots: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.slots = slots
        self.capacity = capacity

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns allocated."""
        return next(((layer.keys.shape[0], layer.keys.shape[2]) for layer in self._buffers()), (0, 0))

    def release(self) -> None:
        """Give the buffers back."""
        self.layers = []

    def reserve(self, rows: int, columns: int, *, most: int, like: Cache | None = None) -> None:
        """Have room for `rows` rows of `columns` tokens, which may grow to `most` tokens a row.

        Rows in use are the first ones. `like` gives the layers' shapes the first time.
        Goes beyond the capacity only where a single row needs it; the caller admits no
        second row then.
        """
        if not self.layers and like is not None:
            self.layers = [
                DummyLayer() if pair is None else SlotLayer(pair[0][:0, :, :0], pair[1][:0, :, :0])
                for pair in attention_layers(like)
            ]
        have = self.shape
        wide = have[0] if rows <= have[0] else max(rows, min(rows + rows // 2, self.slots))
        wide = max(rows, min(wide, self.capacity // most))
        long = have[1] if columns <= have[1] else max(columns, min(columns + columns // 4, most))
        long = max(columns, min(long, self.capacity // wide))
        if (wide, long) != have:
            for layer in self._buffers():
                layer.keys = _resized(layer.keys, wide, long)
                layer.values = _resized(layer.values, wide, long)

    def load(self, row: int, prefilled: Cache, source: int, length: int) -> None:
        """Copy the first `length` columns of row `source` of `prefilled` into slot `row`."""
        pairs = [pair for pair in attention_layers(prefilled) if pair is not None]
        for layer, (keys, values) in zip(self._buffers(), pairs, strict=True):
            _fill(layer.keys[row], keys[source], length)
            _fill(layer.values[row], values[source], length)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of one slot to another."""
        for layer in self._buffers():
            _fill(layer.keys[target], layer.keys[source], length)
            _fill(layer.values[target], layer.values[source], length)

    def aim(self, lengths: Tensor, columns: int) -> int:
        """Prepare the next forward, for which row i writes its token at `lengths[i]` [n] < `columns`.

        Returns how many columns it will read: all there are, if only a few are not in
        use, because attention reads whole buffers faster than slices of them (by a
        quarter on a CPU).
        """
        allocated = self.shape[1]
        columns = allocated if columns >= _WORTH_READING * allocated else columns
        rows = torch.arange(len(lengths), device=lengths.device)
        for layer in self._buffers():
            layer.rows, layer.lengths, layer.columns = rows, lengths, columns
        return columns

    def _buffers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]


def _fill(slot: Tensor, tokens: Tensor, length: int) -> None:
    """Write the first `length` columns of `tokens` [heads, any, width] into a slot, and zeros after them."""
    slot[:, :length] = tokens[:, :length]
    slot[:, length:] = 0


def _resized(old: Tensor, rows: int, columns: int) -> Tensor:
    """The same slots in a buffer of another size; slots that were never filled are not read."""
    new = old.new_empty(rows, old.shape[1], columns, old.shape[3])
    kept = old[:rows, :, :columns]
    new[: kept.shape[0], :, : kept.shape[2]] = kept
    new[: kept.shape[0], :, kept.shape[2] :] = 0
    return new
