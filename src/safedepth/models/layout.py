"""A model laid out without its weights: what each part of it takes in bytes, in a given format.

It is built from its configuration on torch's meta device, so that no family needs to be known
by name, and transformers' own rule says which of its layers are quantised. It refuses to know
devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from safedepth.errors import ModelError
from safedepth.models.adapters import WEIGHTS, base_folder, is_adapter
from safedepth.models.checkpoint import UNLOADABLE, checkpoint_in, first_line, require_config
from safedepth.models.precision import quantised_as

__all__ = ["FLOATS", "Layout"]

FLOATS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Formats that are not quantised, in bytes a number."""

NF4_BLOCK = 64
"""Weights that share one float32 scale in NF4 without double quantisation (QLoRA, section 3)."""

_WRITTEN = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Layout:
    """A model of that `name` without weights, and the format `dtype` it would be in: never "auto".

    `stored` are the bytes of weights that lie on disk quantised already, None for plain ones;
    `adapter` those of the adapter that `name` is, 0 for a model.
    """

    name: str
    dtype: str
    model: PreTrainedModel
    stored: int | None
    adapter: int

    @classmethod
    def of(cls, name: str, folder: Path, revision: str | None, dtype: str) -> Layout:
        """Of the model or adapter in the folder that `find_folder` gave for `name`.

        Raises ModelError where that is no causal language model, or is stored in another format
        than the one asked for and quantised.
        """
        adapter = 0
        if is_adapter(folder):
            adapter = sum(file.stat().st_size for file in folder.glob(WEIGHTS))
            folder, revision = base_folder(name, folder)
        require_config(name, folder)
        try:
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except UNLOADABLE as error:
            raise ModelError(
                f"expected a causal language model in {name}, found one that cannot be loaded: "
                f"{first_line(error)}. Save it again with save_pretrained; code that a model brings is not "
                "run"
            ) from error
        said, stored = quantised_as(config), None
        if said is not None:
            if dtype not in ("auto", said):
                raise ModelError(
                    f"expected plain weights in {name} to load it in {dtype}, found them quantised ({said}). "
                    "Leave --dtype out, or give the model as it was before"
                )
            stored = sum(file.stat().st_size for file in checkpoint_in(name, folder, revision).weights)
        elif dtype == "auto":
            said = _written_dtype(config, folder)
        return cls(name, said or dtype, cast(PreTrainedModel, model), stored, adapter)

    def within(self, dtype: str) -> Layout:
        """The same model in another format."""
        return replace(self, dtype=dtype)

    @property
    def width(self) -> int:
        """Bytes of a number that is not quantised, and of those computed with."""
        return FLOATS.get(self.dtype, 2)

    @property
    def parameters(self) -> int:
        """How many there are, those that two layers share counted once."""
        return sum(int(weight.numel()) for weight in self.model.parameters())

    @property
    def linear(self) -> list[Any]:
        """The layers that are quantised: linear ones of the blocks."""
        kept = set(get_keys_to_not_convert(self.model))
        return [
            layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, nn.Linear | Conv1D) and name not in kept
        ]

    @property
    def weights(self) -> int:
        """Bytes of all weights, an adapter's with them."""
        if self.stored is not None:
            return self.stored + self.adapter
        if self.dtype in FLOATS:
            return self.parameters * self.width + self.adapter
        less = self.linear
        small = sum(_quantised_bytes(layer, self.dtype) for layer in less)
        plain = self.parameters - sum(int(layer.weight.numel()) for layer in less)
        return plain * self.width + small + self.adapter

    @property
    def _text(self) -> Any:
        return self.model.config.get_text_config()

    def cache(self, tokens: int) -> int:
        """Bytes of the keys and values of that many tokens, with full attention in every layer."""
        text = self._text
        heads = getattr(text, "num_attention_heads", 0) or 0
        width = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        kept = getattr(text, "num_key_value_heads", None) or heads
        return int(text.num_hidden_layers * 2 * kept * width * self.width * tokens)

    def working(self, rows: int, tokens: int) -> int:
        """Bytes of one block's inside (four hidden states, three of the MLP) and one position's logits."""
        text = self._text
        inside = 4 * text.hidden_size + 3 * (getattr(text, "intermediate_size", None) or 4 * text.hidden_size)
        return int(rows * tokens * inside * self.width + rows * text.vocab_size * 4)

    def activations(self, tokens: int, *, checkpointing: bool) -> int:
        """Bytes that a backward pass over that many tokens needs, with logits in float32."""
        text = self._text
        state = text.hidden_size * self.width
        inside = (
            17 * state
        )  # 34 d bytes in 16 bits: Korthikanti et al. (2022), equation 2, without the scores
        layers = text.num_hidden_layers
        kept = layers * state + inside if checkpointing else layers * inside
        return int(tokens * (kept + 2 * 4 * text.vocab_size))


def _quantised_bytes(layer: Any, dtype: str) -> int:
    """Numbers and scales: a float32 for every output of LLM.int8, and for every 64 weights of NF4."""
    count = int(layer.weight.numel())
    if dtype == "int8":
        return count + 4 * int(layer.weight.shape[1 if isinstance(layer, Conv1D) else 0])
    return math.ceil(count / 2) + 4 * math.ceil(count / NF4_BLOCK)


def _written_dtype(config: PretrainedConfig, folder: Path) -> str:
    """The format that `auto` means: the configuration's, or that of the first weight that lies there."""
    if (named := getattr(config, "dtype", None)) is not None:
        return str(named).removeprefix("torch.")
    for file in sorted(folder.glob("*.safetensors"))[:1]:
        with safe_open(file, framework="pt") as tensors:
            first = next(iter(tensors.keys()))
            return _WRITTEN.get(tensors.get_slice(first).get_dtype(), "float32")
    return "float32"
