"""A Hugging Face decoder as the engine uses it: prefill ragged rows, then one token a row at a time.

Only the model's public forward is called, so any decoder works whose forward takes
positions, a four-dimensional mask and a cache. That this holds is not looked up by
family: a new decoder first continues two short rows both ways and compares.

Knows models and caches; knows neither sampling nor scheduling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from safedepth.errors import ModelError
from safedepth.provider.cache import SlotCache, bytes_per_token

__all__ = ["Chunk", "Decoder", "is_out_of_memory"]

_SERVE = "Serve it with vLLM and name it vllm/... instead"


@dataclass(frozen=True)
class Chunk:
    """Logits [n, V] of wanted places of a prefill: place i is column `columns[i]` of row `rows[i]`.

    Places come in the order of rows, then of columns.
    """

    rows: list[int]
    columns: list[int]
    logits: Tensor


class Decoder:
    """The forward passes of `model`. Raises ModelError for a model that cannot be decoded this way."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        self.config = model.config.get_text_config()
        self.vocabulary = len(cast(Tensor, model.get_input_embeddings().weight))
        self.bytes_per_token = 0
        name = type(model).__name__
        if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False):
            raise ModelError(
                f"expected a decoder with attention layers only, found {name}, which has an encoder or "
                f"recurrent state. {_SERVE}"
            )
        attention = self.config._attn_implementation
        self._additive = attention == "eager"
        if attention not in ("eager", "sdpa"):
            raise ModelError(
                f"expected attention of the kind 'sdpa' or 'eager', found {attention!r}. "
                "Load the model with attn_implementation='sdpa'"
            )
        try:
            self._verify()
        except (
            AttributeError,
            IndexError,
            KeyError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(f"{name} cannot be decoded row by row: {error}. {_SERVE}") from error

    def prefill(
        self,
        rows: Sequence[Sequence[int]],
        wanted: Sequence[Collection[int]],
        *,
        columns: int,
        visit: Callable[[Chunk], None],
    ) -> Cache:
        """Run `rows` of token ids through the model, `columns` of them at a time; return the filled cache.

        `wanted` lists each row's places whose logits, those of the token after, are
        computed; `visit` is shown them chunk by chunk. Rows are padded on the right,
        where causal attention never looks.
        """
        longest = max(map(len, rows))
        # Repeating a row's last token needs no pad token and cannot be mistaken for one.
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=self.device)
        keep = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, places in enumerate(wanted):
            keep[row, list(places)] = True
        cache = DynamicCache()
        for start in range(0, longest, columns):
            end = min(start + columns, longest)
            part = keep[:, start:end]
            logits = self._forward(
                ids[:, start:end],
                position_ids=torch.arange(start, end, device=self.device)[None].expand(len(rows), -1),
                cache=cache,
                logits_to_keep=part.to(self.device),
            )
            if part.any():
                found_rows, found_columns = part.nonzero(as_tuple=True)
                visit(Chunk(found_rows.tolist(), (found_columns + start).tolist(), logits))
        return cache

    def step(self, tokens: Sequence[int], lengths: Sequence[int], cache: SlotCache) -> Tensor:
        """Logits [n, V] after one more token per row; row i has `lengths[i]` tokens in slot i of `cache`."""
        at = torch.tensor(lengths, device=self.device)
        columns = cache.aim(at, max(lengths) + 1)
        logits = self._forward(
            torch.tensor(tokens, device=self.device)[:, None],
            position_ids=at[:, None],
            attention_mask=self._masks(at, columns),
            cache=cache,
            logits_to_keep=1,
        )
        return logits[:, -1]

    def _forward(self, ids: Tensor, **arguments: Any) -> Tensor:
        return cast(Tensor, self.model(input_ids=ids, use_cache=True, **arguments).logits)

    def _masks(self, lengths: Tensor, columns: int) -> Tensor | dict[str, Tensor]:
        """Which columns each row's new token sees [n, 1, 1, columns]; by layer type where they differ.

        The same layer types and the same dictionary that transformers' own
        `create_masks_for_generate` makes, for rows of different lengths.
        """
        config = self.config
        kinds = set(getattr(config, "layer_types", None) or ())
        if not kinds:
            window = getattr(config, "sliding_window", None)
            chunk = getattr(config, "attention_chunk_size", None)
            kinds = {"sliding_attention" if window else "chunked_attention" if chunk else "full_attention"}
        column = torch.arange(columns, device=lengths.device)[None]
        place = lengths[:, None]
        masks = {}
        for kind in kinds:
            seen = column <= place
            if kind == "sliding_attention":
                seen = seen & (column > place - config.sliding_window)
            elif kind == "chunked_attention":
                seen = seen & (column // config.attention_chunk_size == place // config.attention_chunk_size)
            elif kind != "full_attention":
                raise NotImplementedError(f"layers of the type {kind!r}")
            masks[kind] = self._expressed(seen[:, None, None])
        return masks.popitem()[1] if len(masks) == 1 else masks

    def _expressed(self, seen: Tensor) -> Tensor:
        if not self._additive:
            return seen
        nothing = torch.zeros((), dtype=self.model.dtype, device=seen.device)
        return torch.where(seen, nothing, torch.finfo(self.model.dtype).min)

    @torch.inference_mode()
    def _verify(self) -> None:
        """Continue two short rows by prefill and one step, and compare with the plain forward."""
        rows = [[(3 * place + row) % self.vocabulary for place in range(5 - 2 * row)] for row in range(2)]
        cache = self.prefill([row[:-1] for row in rows], [[], []], columns=3, visit=lambda _: None)
        self.bytes_per_token = bytes_per_token(cache)
        if not self.bytes_per_token:
            raise NotImplementedError("it keeps no keys and values")
        slots = SlotCache(slots=2, capacity=16)
        slots.reserve(2, 5, most=5, like=cache)
        for row, ids in enumerate(rows):
            slots.load(row, cache, row, len(ids) - 1)
        ours = self.step([row[-1] for row in rows], [len(row) - 1 for row in rows], slots).double()
        plain = torch.stack(
            [self.model(input_ids=torch.tensor([row], device=self.device)).logits[0, -1] for row in rows]
        ).double()
        error = (ours - plain).norm() / (plain - plain.mean(-1, keepdim=True)).norm()
        allowed = 1e-3 if self.model.dtype in (torch.float32, torch.float64) else 0.2
        if not error <= allowed:
            raise NotImplementedError(
                f"its logits differ by {float(error):.1%} from those of the plain forward"
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
