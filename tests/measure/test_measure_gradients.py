"""Gradient norms of tokens against a float64 loop of one backward pass each; estimates against theory."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from safedepth.errors import ModelError
from safedepth.measure.gradients import GradientMeter
from safedepth.models import head_of

Floats = NDArray[np.float64]

VOCABULARY, PADDING = 60, 3
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": PADDING, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip

GEMMA = {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("Llama", {"tie_word_embeddings": False}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "biases and grouped queries, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "biases and grouped queries, untied": ("Qwen2", {"tie_word_embeddings": False}),
    "scaled embedding, soft caps, windows": ("Gemma2", GEMMA),
    "layer norms with biases": ("GPTNeoX", {}),
    "scaled logits": ("Cohere", {}),
}


def model_of(family: str, **changed: Any) -> PreTrainedModel:
    """A model of random weights, vectors included, so that no gradient is zero by chance."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changed})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return cast(PreTrainedModel, model)


def random_ids(length: int, *, seed: int = 1) -> Tensor:
    """Ids with the padding token and a repetition among them."""
    ids = torch.randint(4, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))
    ids[length // 3] = PADDING
    ids[length // 2] = ids[0]
    return ids


def loop(
    model: nn.Module, ids: Tensor, first: int, stop: int | None = None
) -> tuple[Floats, list[dict[str, float]]]:
    """Losses, and by parameter the squared norm of their gradients, in float64 one token after another."""
    model = copy.deepcopy(model).double().eval()
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad} or dict(model.named_parameters())
    for parameter in wanted.values():
        parameter.requires_grad_(True)
    log_probs = cast(Any, model)(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    losses, squared = [], []
    for token in range(first, stop or len(ids)):
        model.zero_grad()
        loss = -log_probs[token - 1, ids[token]]
        torch.autograd.backward(loss, retain_graph=True)
        losses.append(loss.item())
        squared.append({n: 0.0 if p.grad is None else p.grad.pow(2).sum().item() for n, p in wanted.items()})
    return np.array(losses), squared


def by_layer(squared: list[dict[str, float]], layer: str) -> Floats:
    """The loop's norms of one layer, told by the names that parameters have in transformers."""
    number = int(layer.removeprefix("block ")) - 1 if layer.startswith("block ") else None

    def belongs(name: str) -> bool:
        is_block = ".layers." in name or ".h." in name
        if number is not None:
            return f".layers.{number}." in name or f".h.{number}." in name
        embedding = any(part in name for part in ("embed_tokens", "embed_in", "wte"))
        head = any(part in name for part in ("lm_head", "embed_out"))
        kinds = {"embedding": embedding, "head": head, "embedding and head": embedding or head}
        return not is_block and kinds.get(layer, not embedding and not head)

    return np.array([math.sqrt(sum(v for name, v in one.items() if belongs(name))) for one in squared])


def whole(squared: list[dict[str, float]]) -> Floats:
    return np.array([math.sqrt(sum(one.values())) for one in squared])


def require_agreement(
    meter: GradientMeter,
    model: nn.Module,
    ids: Tensor,
    first: int,
    count: int | None = None,
    *,
    rel: float = 1e-5,
) -> None:
    """Every layer's norm, the whole model's and the loss are those of the loop."""
    found = meter.norms(ids, first, count)
    losses, squared = loop(model, ids, first, None if count is None else first + count)
    np.testing.assert_allclose(found.loss, losses, rtol=rel)
    np.testing.assert_allclose(found.whole, whole(squared), rtol=rel)
    assert found.by_layer.shape == (len(losses), len(found.layers))
    for index, layer in enumerate(found.layers):
        np.testing.assert_allclose(
            found.by_layer[:, index], by_layer(squared, layer), rtol=rel, err_msg=layer
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_of_every_layer_agree_with_a_float64_loop(family: str) -> None:
    name, changed = FAMILIES[family]
    model = model_of(name, **changed)
    meter = GradientMeter(model, head_of(model), chunk=5)
    require_agreement(meter, model, random_ids(23), 8)
    assert meter.fallback is None


def test_layers_are_named_in_order_and_a_shared_matrix_is_one_layer() -> None:
    untied, tied = (model_of("Llama", tie_word_embeddings=tied) for tied in (False, True))
    blocks = ("block 1", "block 2", "block 3")
    names = [GradientMeter(m, head_of(m)).norms(random_ids(5), 3).layers for m in (untied, tied)]
    assert names[0] == ("embedding", *blocks, "final norm", "head")
    assert names[1] == ("embedding and head", *blocks, "final norm")


@pytest.mark.parametrize(
    ("length", "first", "count"),
    [(2, 1, None), (3, 1, 1), (17, 1, None), (17, 16, None), (31, 9, 13), (64, 7, 20)],
)
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_neither_length_nor_chunk_changes_them(
    length: int, first: int, count: int | None, chunk: int
) -> None:
    # Of 64 tokens there are more than the 32 and 48 entries of a weight's inputs: no shared products then.
    model = model_of("Qwen2", tie_word_embeddings=True)
    meter = GradientMeter(model, head_of(model), chunk=chunk)
    require_agreement(meter, model, random_ids(length, seed=length), first, count)
    assert meter.fallback is None


def test_in_float64_nothing_but_rounding_is_left() -> None:
    model = model_of("GPTNeoX").double()
    meter = GradientMeter(model, head_of(model))
    require_agreement(meter, model, random_ids(19), 4, rel=1e-10)
    assert meter.fallback is None


def test_in_bfloat16_norms_are_right_to_a_few_hundredths() -> None:
    model = model_of("Llama").bfloat16()
    meter = GradientMeter(model, head_of(model))
    found = meter.norms(random_ids(19), 4)
    assert meter.fallback is None
    np.testing.assert_allclose(found.whole, whole(loop(model, random_ids(19), 4)[1]), rtol=0.05)


def test_tokens_that_the_model_is_sure_of_keep_their_digits() -> None:
    # Their gradients are those of 1 - p, which as a difference from 1 has no digit left in float32.
    model = model_of("Llama", tie_word_embeddings=False)
    head = cast(nn.Linear, model.get_output_embeddings())
    head.weight.data.mul_(60)
    ids = random_ids(6)
    for _ in range(8):
        following = cast(Any, model)(input_ids=ids[None]).logits[0, -1].argmax()
        ids = torch.cat([ids, following[None]])
    losses = loop(model, ids, 6)[0]
    assert 0 < losses.min() < 1e-8
    meter = GradientMeter(model, head_of(model))
    require_agreement(meter, model, ids, 6, rel=1e-4)
    assert meter.fallback is None


@pytest.mark.parametrize("tied", [False, True])
def test_the_last_blocks_alone_have_the_same_norms_and_the_rest_is_nan(tied: bool) -> None:
    model = model_of("Llama", tie_word_embeddings=tied)
    everything = GradientMeter(model, head_of(model)).norms(random_ids(20), 6)
    meter = GradientMeter(model, head_of(model), last_blocks=2)
    found = meter.norms(random_ids(20), 6)
    assert meter.fallback is None
    measured = [name in ("block 2", "block 3", "final norm", "head") for name in found.layers]
    assert np.isnan(found.by_layer[:, ~np.array(measured)]).all()
    np.testing.assert_allclose(found.by_layer[:, measured], everything.by_layer[:, measured], rtol=1e-6)
    np.testing.assert_allclose(
        found.whole, np.sqrt((everything.by_layer[:, measured] ** 2).sum(axis=1)), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("family", "reason"), [("GPT2", "beside those of embedding"), ("Mixtral", "beside those of linear maps")]
)
def test_models_put_together_in_another_way_get_a_pass_a_token(family: str, reason: str) -> None:
    changed = {"n_embd": 32, "n_layer": 3, "n_head": 4} if family == "GPT2" else {"num_local_experts": 4}
    model = model_of(family, **changed)
    model.set_experts_implementation("eager")  # others know no float64
    meter = GradientMeter(model, head_of(model))
    found = meter.norms(random_ids(15), 5)
    assert reason in str(meter.fallback)
    np.testing.assert_allclose(found.whole, whole(loop(model, random_ids(15), 5)[1]), rtol=1e-5)


def test_without_a_head_every_token_gets_a_pass() -> None:
    model = model_of("Llama")
    meter = GradientMeter(model, None)
    require_agreement(meter, model, random_ids(12), 5)
    assert meter.fallback == "its head is not known apart"


class Unbatchable(torch.autograd.Function):
    """x + x with a backward pass that vmap knows no rule for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.from_numpy(2 * grads[0].numpy())


class OwnKernel(nn.Module):
    """An MLP that ends in an operation of its own."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, Unbatchable.apply(self.mlp(x)))  # type: ignore[no-untyped-call]


def test_an_operation_that_cannot_be_batched_gets_a_pass_a_token() -> None:
    model = model_of("Llama")
    block = cast(Any, model).model.layers[2]
    block.mlp = OwnKernel(block.mlp)
    meter = GradientMeter(model, head_of(model))
    require_agreement(meter, model, random_ids(12), 5)
    assert "could not be taken apart (RuntimeError" in str(meter.fallback)


class TwoUses(nn.Module):
    """An MLP that also uses a matrix behind the back of its own module: taken apart, a part is missed."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        seen = functional.linear(x, self.mlp.gate_proj.weight)
        return cast(Tensor, self.mlp(x)) + functional.linear(seen, self.mlp.down_proj.weight)


class LooksAhead(nn.Module):
    """Attention that sees later tokens: cut off behind a token, a sequence says something else of it."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states: Tensor, **given: Any) -> tuple[Tensor, Any]:
        out, weights = self.attention(hidden_states=hidden_states, **given)
        return out + hidden_states.mean(1, keepdim=True), weights


@pytest.mark.parametrize(("part", "wrapper"), [("mlp", TwoUses), ("self_attn", LooksAhead)])
def test_a_model_that_would_be_measured_wrongly_is_found_out(part: str, wrapper: type[nn.Module]) -> None:
    model = model_of("Llama")
    block = cast(Any, model).model.layers[1]
    setattr(block, part, wrapper(getattr(block, part)))
    meter = GradientMeter(model, head_of(model), chunk=4)
    require_agreement(meter, model, random_ids(18), 5)
    assert meter.fallback == "taken apart it has other gradients than as it stands"


def test_of_a_model_with_adapters_only_what_is_trained_counts() -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(model_of("Llama"), config).eval()
    meter = GradientMeter(model, None)
    found = meter.norms(random_ids(14), 6)
    assert found.layers == ("block 1", "block 2", "block 3")
    _, squared = loop(model, random_ids(14), 6)
    assert all("lora" in name for name in squared[0])
    np.testing.assert_allclose(found.whole, whole(squared), rtol=1e-5)
    for index, layer in enumerate(found.layers):
        np.testing.assert_allclose(found.by_layer[:, index], by_layer(squared, layer), rtol=1e-5)


@pytest.mark.parametrize("head", [True, False])
def test_the_model_is_left_as_it_was(head: bool) -> None:
    model = model_of("Llama")
    known = head_of(model) if head else None
    ids = random_ids(12)
    before = cast(Any, model)(input_ids=ids[None]).logits
    before.sum().backward()
    model.train()
    cast(Any, model).model.norm.eval()
    gradients = [p.grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    for _ in range(2):
        meter = GradientMeter(model, known)
        meter.norms(ids, 4)
        if head:
            meter.estimate(ids, 4, seed=0)
    assert [p.grad for p in model.parameters()] == gradients
    assert all(p.requires_grad for p in model.parameters())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or "forward" in m.__dict__ for m in model.modules())
    assert torch.equal(cast(Any, model)(input_ids=ids[None]).logits, before)


def test_a_frozen_model_is_measured_whole_and_stays_frozen() -> None:
    model = model_of("Llama").requires_grad_(False)
    meter = GradientMeter(model, head_of(model))
    require_agreement(meter, model, random_ids(12), 4)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("family", ["untied", "tied", "scaled embedding, soft caps, windows"])
@pytest.mark.parametrize("length", [14, 40])
def test_many_directions_come_to_the_exact_norm(family: str, length: int) -> None:
    # 40 tokens are more than the width of the model: then directions of matrices are drawn as they are.
    name, changed = FAMILIES[family]
    model = model_of(name, **(changed | {"num_hidden_layers": 1}))
    meter = GradientMeter(model, head_of(model), chunk=128)
    exact = meter.norms(random_ids(length), length - 9)
    directions = 1024
    found = meter.estimate(random_ids(length), length - 9, directions=directions, seed=0)
    assert meter.fallback is None
    assert np.abs(found.whole / exact.whole - 1).max() < 4 / math.sqrt(2 * directions)
    np.testing.assert_allclose(found.loss, exact.loss, rtol=1e-6)


def test_estimates_are_unbiased_and_err_as_the_theory_says() -> None:
    model = model_of("Qwen2", tie_word_embeddings=True, num_hidden_layers=1)
    meter = GradientMeter(model, head_of(model))
    ids, first, directions, seeds = random_ids(10), 7, 4, 200
    exact = meter.norms(ids, first).whole
    found = [meter.estimate(ids, first, directions=directions, seed=seed) for seed in range(seeds)]
    relative = np.array([one.whole for one in found]) / exact
    mean = math.sqrt(2) * math.gamma((directions + 1) / 2) / math.gamma(directions / 2)
    spread = math.sqrt(directions / mean**2 - 1)
    assert np.abs(relative.mean(axis=0) - 1).max() < 4 * spread / math.sqrt(seeds)
    assert relative.std(axis=0) == pytest.approx(spread, rel=0.15)
    inside = np.mean([(one.low <= exact) & (exact <= one.high) for one in found], axis=0)
    assert np.abs(inside - 0.95).max() < 4 * math.sqrt(0.95 * 0.05 / seeds)


def test_the_same_seed_gives_the_same_estimate_and_another_seed_another() -> None:
    model = model_of("Llama")
    ids = random_ids(14)
    one, again = (GradientMeter(model, head_of(model)).estimate(ids, 6, seed=3).whole for _ in range(2))
    other = GradientMeter(model, head_of(model)).estimate(ids, 6, seed=4).whole
    assert np.array_equal(one, again)
    assert np.abs(one / other - 1).min() > 1e-3


def test_a_model_that_only_an_exact_measurement_serves_says_so() -> None:
    model = model_of("GPT2", n_embd=32, n_layer=1, n_head=4)
    with pytest.raises(ModelError, match=r"found that it could not be taken apart .*--directions 0"):
        GradientMeter(model, head_of(model)).estimate(random_ids(9), 4, seed=0)
    llama = model_of("Llama")
    with pytest.raises(ModelError, match="only its last blocks are measured"):
        GradientMeter(llama, head_of(llama), last_blocks=1).estimate(random_ids(9), 4, seed=0)


@pytest.mark.parametrize(("first", "count"), [(0, None), (9, None), (5, 5), (5, 0), (-1, 2)])
def test_tokens_that_are_not_there_or_have_no_loss_are_refused(first: int, count: int | None) -> None:
    model = model_of("Llama", num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"at least one token from ids\[1\] on"):
        GradientMeter(model, head_of(model)).norms(random_ids(9), first, count)


def test_sizes_below_one_are_refused() -> None:
    model = model_of("Llama", num_hidden_layers=1)
    with pytest.raises(ValueError, match="found 0 and None"):
        GradientMeter(model, None, chunk=0)
    with pytest.raises(ValueError, match="found 16 and 0"):
        GradientMeter(model, None, last_blocks=0)
    with pytest.raises(ValueError, match="at least 1 direction, found 0"):
        GradientMeter(model, head_of(model)).estimate(random_ids(9), 4, directions=0, seed=0)
