"""How much memory a model takes, to be known before it is loaded, and what would fit where it does not.

By arithmetic on its layout: nothing is loaded, and nothing downloaded but small files. It refuses
to know what the model is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from safedepth.errors import ModelError
from safedepth.models.checkpoint import find_folder
from safedepth.models.devices import device_of, free_memory, said_bytes
from safedepth.models.layout import FLOATS, Layout
from safedepth.models.precision import QUANTISED, compute_dtype

__all__ = ["MemoryNeed", "TrainingNeed", "need_of", "require_memory", "training_need_of"]

ROWS, TOKENS = 1, 512
"""What a model is asked to have room for before it is loaded: one request."""

MARGIN = 0.1
"""What a server wants beyond weights and keys, as a share: vLLM leaves about a tenth of a device alone."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a model takes on `device`: its `weights`, the `cache` of keys and values, and `working`.

    `working` is what activations and the logits of one position take at once. `free` is what the
    device has left now, None where that cannot be found out.
    """

    name: str
    dtype: str
    device: str
    weights: int
    cache: int
    working: int
    free: int | None

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.cache + self.working

    @property
    def fits(self) -> bool:
        """False where it is known not to fit."""
        return self.free is None or self.total <= self.free

    @property
    def sentence(self) -> str:
        """One sentence for tables and errors."""
        there = "an unknown amount" if self.free is None else said_bytes(self.free)
        return (
            f"{self.name} in {self.dtype} takes {said_bytes(self.total)} ({said_bytes(self.weights)} of "
            f"weights, {said_bytes(self.cache)} of keys and values, {said_bytes(self.working)} at work), and "
            f"{there} is free on {self.device}"
        )


@dataclass(frozen=True)
class TrainingNeed:
    """Bytes that each of `processes` takes to train: of what, see the fields.

    `weights` are the model's, `reference` a frozen second model's, `gradients` and `optimiser` those
    of what is trained, `activations` what the backward pass needs and the logits.
    """

    weights: int
    reference: int
    gradients: int
    optimiser: int
    activations: int
    trained: int
    processes: int

    @property
    def total(self) -> int:
        """All of it, in bytes a process."""
        return self.weights + self.reference + self.gradients + self.optimiser + self.activations


def need_of(
    name: str, *, dtype: str = "auto", device: str = "auto", rows: int = ROWS, tokens: int = TOKENS
) -> MemoryNeed:
    """What the model or adapter of that folder or hub id takes to answer `rows` requests of `tokens` at once.

    Keys and values are those of full attention in every layer, which is too much for models with
    sliding windows or recurrent layers. Raises ModelError where there is no causal language model.
    """
    compute_dtype(dtype)  # raises where there is no such format
    return _need(Layout.of(name, *find_folder(name), dtype), device_of(device), rows, tokens)


def require_memory(
    name: str, folder: Path, revision: str | None, *, dtype: str, device: torch.device
) -> None:
    """Raise ModelError unless one request of 512 tokens fits, saying what would: a format, or more devices.

    `folder` and `revision` are what `find_folder` gave for `name`.
    """
    layout = Layout.of(name, folder, revision, dtype)
    need = _need(layout, device, ROWS, TOKENS)
    if need.fits or need.free is None:
        return
    plain = layout.stored is None
    others = [
        _need(layout.within(other), device, ROWS, TOKENS) for other in ("bfloat16", *QUANTISED) if plain
    ]
    fitting = [other.dtype for other in others if other.fits and other.total < need.total]
    if fitting:
        cure = f"It would fit with --dtype {fitting[0]}"
    elif device.type == "cpu":
        cure = "Use a machine with more memory, or a model that a server holds (docs/servers.md)"
    else:
        count = _devices(need, need.free)
        cure = (
            f"It takes {count} such devices: serve it with vLLM (--tensor-parallel-size {count}) and audit "
            "it there (docs/servers.md), or try --device cpu"
        )
    raise ModelError(f"expected a model that fits {device}, but {need.sentence}. {cure}")


def _need(layout: Layout, device: torch.device, rows: int, tokens: int) -> MemoryNeed:
    return MemoryNeed(
        name=layout.name,
        dtype=layout.dtype,
        device=str(device),
        weights=layout.weights,
        cache=layout.cache(rows * tokens),
        working=layout.working(rows, tokens),
        free=free_memory(device),
    )


def _devices(need: MemoryNeed, free: int) -> int:
    """How many such devices share it out alike, a power of two as the heads of attention are."""
    alone = need.total * (1 + MARGIN) / max(1, free)
    return int(2 ** math.ceil(math.log2(max(2.0, alone))))


def training_need_of(
    name: str,
    *,
    dtype: str = "float32",
    lora_rank: int | None = None,
    reference: bool = False,
    rows: int = 1,
    tokens: int = 512,
    checkpointing: bool = True,
    processes: int = 1,
) -> TrainingNeed:
    """What one of `processes` takes to train the model with AdamW, `rows` examples of `tokens` at a time.

    All weights are trained, in `dtype`, with gradients and AdamW's two moments in it too: 16 bytes a
    parameter in float32, 8 in bfloat16. With `lora_rank` the weights are frozen (in `dtype`, which may
    be quantised: QLoRA) and low-rank matrices of that rank in float32 on all linear layers of the
    blocks are trained. `reference` adds a frozen second model in the same format; with LoRA it is the
    model without its adapter and takes nothing. Over several processes all of it but activations is
    shared out in equal parts (FSDP2's full sharding, ZeRO stage 3). Activations: with `checkpointing`
    the hidden states between blocks and one block's inside, without it 34 * d bytes in 16 bits for
    every token and block (Korthikanti et al., 2022, equation 2, the scores left out as in flash
    attention); logits of all tokens in float32 with their gradient. Raises as `need_of`.
    """
    compute_dtype(dtype)
    layout = Layout.of(name, *find_folder(name), dtype)
    if lora_rank is None:
        if layout.dtype not in FLOATS:
            raise ModelError(
                f"expected weights in 16 or 32 bits to train all of them, found {layout.dtype}. Train an "
                "adapter (--use_peft), or in another format"
            )
        trained, own = layout.parameters, layout.width
        weights, frozen = layout.weights, layout.weights if reference else 0
    else:
        trained, own = sum(lora_rank * sum(layer.weight.shape) for layer in layout.linear), 4
        weights, frozen = layout.weights + own * trained, 0
    return TrainingNeed(
        weights=math.ceil(weights / processes),
        reference=math.ceil(frozen / processes),
        gradients=math.ceil(own * trained / processes),
        optimiser=math.ceil(2 * own * trained / processes),
        activations=layout.activations(rows * tokens, checkpointing=checkpointing),
        trained=trained,
        processes=processes,
    )
