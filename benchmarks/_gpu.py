"""What the stages of `gpu.py` share: sizes, a random model made where it runs, times and peaks on a GPU.

It refuses to know what is measured.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = [
    "Part",
    "Setting",
    "Sizes",
    "interleaved",
    "median",
    "peak",
    "random_model",
    "ratio",
    "sampled",
    "spent",
]

T = TypeVar("T")
R = TypeVar("R")

Part = tuple[str, dict[str, Any]]
"""A name and what was found, to be written at once."""


@dataclass(frozen=True)
class Sizes:
    """The model, and how much of everything is measured."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    shared_heads: int
    inner: int
    kl_batches: tuple[int, ...]
    loss_batch: int
    prompts: int
    seeds: int
    tokens: int
    decoding_prompts: int
    decoding_tokens: int
    slots: tuple[int, ...]
    candidates: int
    few_layers: int
    length: int
    first: int
    measured: int
    peer_tokens: int
    full_layers: int
    rows_a_step: int
    shorter: int
    repeats: int


FULL = Sizes(
    vocabulary=128_256, width=4096, layers=32, heads=32, shared_heads=8, inner=14_336,
    kl_batches=(10, 42), loss_batch=10, prompts=20, seeds=3, tokens=64, decoding_prompts=6,
    decoding_tokens=32, slots=(64, 256), candidates=512, few_layers=2, length=400, first=100, measured=50,
    peer_tokens=5, full_layers=8, rows_a_step=16, shorter=1, repeats=3,
)  # fmt: skip
"""The shape of Llama 3.1 8B."""

SMALL = Sizes(
    vocabulary=32_000, width=64, layers=2, heads=4, shared_heads=2, inner=176,
    kl_batches=(1,), loss_batch=1, prompts=2, seeds=1, tokens=8, decoding_prompts=2, decoding_tokens=4,
    slots=(4, 16), candidates=32, few_layers=1, length=40, first=10, measured=8, peer_tokens=2,
    full_layers=1, rows_a_step=8, shorter=8, repeats=1,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Sizes, the device, and the precision of the weights."""

    sizes: Sizes
    device: str
    dtype: torch.dtype = torch.bfloat16

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


def random_model(
    setting: Setting, *, layers: int | None = None, dtype: torch.dtype | None = None
) -> LlamaForCausalLM:
    """A Llama of random weights, made on the device itself, as `from_pretrained` would leave it."""
    sizes = setting.sizes
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, intermediate_size=sizes.inner,
        num_hidden_layers=sizes.layers if layers is None else layers, num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.shared_heads, max_position_embeddings=8192, bos_token_id=None,
        eos_token_id=None, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype or setting.dtype)
    try:
        with torch.device(setting.device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(usual)
    cast(Any, model.generation_config).pad_token_id = 0
    model.eval()
    return model


def spent(work: Callable[[], R]) -> tuple[float, R]:
    """Seconds by the clock, and what `work` found, when the GPU is done too."""
    _wait()
    started = time.perf_counter()
    found = work()
    _wait()
    return time.perf_counter() - started, found


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(work: Callable[[], object]) -> float | None:
    """GB above what the GPU holds now, at the peak of one call; None without a GPU."""
    gc.collect()
    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    _wait()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def interleaved(variants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every variant, in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(repeats + 1):
        for name, work in variants.items():
            taken = spent(work)[0]
            if number:
                seconds[name].append(taken)
    return seconds


@dataclass(frozen=True)
class Sampled:
    """Some of the peer's work: what it took, and what all of it would take at that pace."""

    seconds: float
    done: int
    of: int
    everything: float

    @property
    def entry(self) -> dict[str, Any]:
        return {"timed": self.done, "of": self.of, "seconds": self.seconds, "all": self.everything}


def sampled(
    pieces: Sequence[T], work: Callable[[T], R], cost: Callable[[T], float], *, most: float
) -> tuple[Sampled, Iterator[tuple[int, R]]]:
    """Do pieces in random order until `most` seconds are gone; scale by `cost`. Also what each piece gave."""
    order = list(range(len(pieces)))
    random.Random(0).shuffle(order)
    spent(lambda: work(pieces[order[0]]))  # the warm-up
    found: list[tuple[int, R]] = []
    total = 0.0
    for index in order:
        seconds, result = spent(lambda: work(pieces[index]))  # noqa: B023 - called at once
        total += seconds
        found.append((index, result))
        if total >= most:
            break
    share = sum(cost(pieces[i]) for i, _ in found) / sum(map(cost, pieces))
    return Sampled(total, len(found), len(pieces), total / share), iter(found)


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def ratio(what: str, value: float | None, goal: float, *, most: bool = False) -> dict[str, Any]:
    """One comparison: a value, its goal, and whether it is met; `most` where less is better."""
    met = None if value is None else value <= goal if most else value >= goal
    return {"what": what, "value": value, "goal": goal, "at most" if most else "at least": goal, "met": met}
