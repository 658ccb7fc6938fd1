"""Slow and plain versions of what the provider does fast, written from the definitions.

One row at a time, no cache, float64 where it matters, and Hugging Face's own logits
warpers for the distributions.
"""

import math
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from safedepth.provider import Job, Sampling
from safedepth.provider.sampling import random_keys

VOCABULARY = 97

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
_SHARED: dict[str, Any] = {**_SHAPE, "num_key_value_heads": 1}
_EAGER: dict[str, Any] = {"attn_implementation": "eager"}
_MIXED = ["sliding_attention", "full_attention"]


def _gpt2() -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=256, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "llama with eager attention": LlamaConfig(**_SHAPE, **_EAGER),
    "qwen 2 (shared heads, some windows)": Qwen2Config(
        **_SHARED, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen 3 (normed queries)": Qwen3Config(**_SHARED, head_dim=32),
    "gemma 2 (soft caps, windows)": Gemma2Config(
        **_SHARED, head_dim=32, query_pre_attn_scalar=32, sliding_window=8, layer_types=_MIXED
    ),
    "gemma 3 (two ropes, windows)": Gemma3TextConfig(
        **_SHARED, head_dim=32, sliding_window=8, layer_types=_MIXED
    ),
    "mistral (windows everywhere)": MistralConfig(**_SHARED, sliding_window=8),
    "gpt-2 (absolute positions)": _gpt2(),
    "gpt-neox (partial rope)": GPTNeoXConfig(**_SHAPE),
}


def random_decoder(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    return model


def random_ids(*lengths: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(0, VOCABULARY, (n,), generator=rng).tolist()) for n in lengths]


@torch.no_grad()
def slow_logits(model: PreTrainedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits [T, V] of a whole sequence, alone in its batch."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities [V] in float64 by Hugging Face's warpers, in the order of `generate`."""
    scores = logits.double()[None]
    scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    if sampling.top_k is not None:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    probabilities: torch.Tensor = scores.softmax(-1)[0]
    return probabilities


def uniform(key: int, name: int) -> float:
    """SplitMix64 in Python's own integers: a number in (0, 1) for a token's name under a key."""
    wrap = 2**64 - 1
    z = (key + name * 0x9E3779B97F4A7C15) & wrap
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & wrap
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
    return (((z ^ (z >> 31)) >> 11) + 0.5) / 2**53


def first_to_arrive(rates: dict[int, float], key: int) -> int:
    """The name whose exponential arrival time is least."""
    times = {name: -math.log(uniform(key, name)) / rate for name, rate in rates.items() if rate > 0}
    return min(times, key=lambda name: times[name])


def slow_choice(probabilities: torch.Tensor, key: int, *, whole: bool) -> int:
    """A race of all tokens; where none is cut off (`whole`), of blocks of 128 and then in the winner."""
    shares = dict(enumerate(probabilities.tolist()))
    if not whole:
        return first_to_arrive(shares, key)
    count = math.ceil(len(shares) / 128)
    blocks = {b: sum(shares[i] for i in shares if i // 128 == b) for b in range(count)}
    winner = first_to_arrive(blocks, key)
    return first_to_arrive({i + count: shares[i] for i in shares if i // 128 == winner}, key) - count


def slow_completion(model: PreTrainedModel, job: Job) -> tuple[int, ...]:
    """The job's tokens, each from a forward over everything before it."""
    keys = random_keys(job)
    ids = job.ids
    whole = job.sampling.top_k is None and job.sampling.top_p == 1
    while len(ids) < len(job.ids) + job.sampling.max_tokens:
        logits = slow_logits(model, ids)[-1]
        if job.sampling.greedy:
            token = int(logits.argmax())
        else:
            token = slow_choice(warped(logits, job.sampling), next(keys), whole=whole)
        if token in job.sampling.stop_ids:
            break
        ids = (*ids, token)
    return ids[len(job.ids) :]
