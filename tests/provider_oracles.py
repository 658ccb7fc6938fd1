"""Slow and plain versions of what the provider does fast, written from the definitions.

One row at a time, no cache, float64 where it matters, and Hugging Face's own logits
warpers for the distributions.
"""

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
from safedepth.provider.sampling import random_stream

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


def slow_completion(model: PreTrainedModel, job: Job) -> tuple[int, ...]:
    """The job's tokens, each from a forward over everything before it."""
    stream = random_stream(job)
    ids, made = job.ids, 0
    while made < job.sampling.max_tokens:
        logits = slow_logits(model, ids)[-1]
        if job.sampling.greedy:
            token = int(logits.argmax())
        else:
            probabilities = warped(logits, job.sampling)
            by_id = job.sampling.top_k is None and job.sampling.top_p == 1
            order = torch.arange(VOCABULARY) if by_id else probabilities.argsort(descending=True)
            running, goal = 0.0, stream.random()
            for candidate in order.tolist():
                running += float(probabilities[candidate])
                if running > goal:
                    break
            token = int(candidate)
        if token in job.sampling.stop_ids:
            break
        ids, made = (*ids, token), made + 1
    return ids[len(job.ids) :]
