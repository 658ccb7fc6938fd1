"""Penalties against full softmaxes in float64: of tensors, and of whole steps of the trainer."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from safedepth.errors import DataError
from safedepth.nouns import Head
from safedepth.train.penalties import kl_to_reference, safety_token_kl
from safedepth.train.safety import FIRST, safety_rows, safety_tokens
from tokenizer_zoo import word_tokenizer
from train.constrained_toys import (
    CHAT,
    CLOSE,
    Sample,
    adapted,
    answer_of,
    exact,
    gradient_of,
    move,
    protect,
    protect_config,
    sample_of,
    toy_conversations,
)
from train.toys import Gradients, distance, random_llama, toy_triplets

V, D, N = 50, 16, 23

HEADS: dict[str, Callable[[Tensor, Tensor], Head]] = {
    "plain": lambda weight, _bias: Head(weight),
    "bias": Head,
    "scaled": lambda weight, bias: Head(weight, bias, scale=0.3),
    "capped": lambda weight, _bias: Head(weight, softcap=2.5),
    "all": lambda weight, bias: Head(weight, bias, scale=1.7, softcap=4.0),
}


def said(hidden: Tensor, head: Head) -> Tensor:
    """Log-probabilities over the vocabulary, the logits in full."""
    logits = hidden @ head.weight.T
    logits = head.scale * (logits if head.bias is None else logits + head.bias)
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1)


def slow_kl(own: Tensor, of: Tensor) -> Tensor:
    """KL(own || of) term by term."""
    return torch.stack([(p.exp() * (p - q)).sum() for p, q in zip(own, of, strict=True)])


def coarse(log_p: Tensor, tokens: Tensor) -> Tensor:
    """The distribution over each of some tokens, and all others together."""
    inside = log_p.exp()[:, tokens]
    return torch.cat([inside, 1 - inside.sum(-1, keepdim=True)], dim=-1).log()


def tensors(kind: str) -> dict[str, Any]:
    """Hidden states and heads of a model and its reference in float64, the model's with gradients."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made: dict[str, Any] = {"targets": torch.randint(V, (N,), generator=generator)}
    for name in ("", "of_"):
        head = HEADS[kind](normal(V, D) / 2, normal(V))
        made |= {f"{name}hidden": normal(N, D), f"{name}head": head}
    return made


def leaf(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    return None if tensor is None else tensor.detach().to(dtype).clone().requires_grad_()


def gradients_of(
    loss: Callable[..., Tensor], made: dict[str, Any], dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """What a penalty is, and its gradient to hidden states and head, every token weighed its own way."""
    hidden = leaf(made["hidden"], dtype)
    own: Head = made["head"]
    head = own._replace(weight=leaf(own.weight, dtype), bias=leaf(own.bias, dtype))
    of: Head = made["of_head"]
    of = of._replace(weight=of.weight.to(dtype), bias=None if of.bias is None else of.bias.to(dtype))
    found = loss(hidden, head, made["of_hidden"].to(dtype), of)
    (found * torch.linspace(0.1, 2, N)).sum().backward()
    leaves: list[Any] = [hidden, head.weight, *([] if head.bias is None else [head.bias])]
    return found.detach().double(), [own.grad.double() for own in leaves]


def assert_close(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=2e-6)
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one - other).norm() < CLOSE * other.norm()


@pytest.mark.parametrize("kind", HEADS)
def test_kl_to_the_reference_is_that_of_the_full_softmaxes(kind: str) -> None:
    made = tensors(kind)
    expected = gradients_of(lambda h, head, g, of: slow_kl(said(h, head), said(g, of)), made, torch.float64)
    assert_close(gradients_of(kl_to_reference, made, torch.float32), expected)
    assert expected[0].min() > 0.01


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("count", [1, 7, 20])
def test_the_kl_on_safety_tokens_is_that_of_the_coarse_distributions(kind: str, count: int) -> None:
    made = tensors(kind)
    tokens = torch.randperm(V, generator=torch.Generator().manual_seed(1))[:count].sort().values
    targets = made["targets"][:, None]

    def slow(h: Tensor, head: Head, g: Tensor, of: Head) -> Tensor:
        return slow_kl(coarse(said(g, of), tokens), coarse(said(h, head), tokens))

    def fast(h: Tensor, head: Head, g: Tensor, of: Head) -> Tensor:
        own, other = (said(*pair).gather(-1, targets)[:, 0] for pair in ((h, head), (g, of)))
        return safety_token_kl(h, head, own, g, of, other.detach(), made["targets"], tokens)

    expected = gradients_of(slow, made, torch.float64)
    assert_close(gradients_of(fast, made, torch.float32), expected)
    assert expected[0].max() > 0.01


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Requests with refusals, as a user's file has them."""
    path = tmp_path_factory.mktemp("safety") / "safety.jsonl"
    rows = [{"messages": [*triplet.messages, answer_of(triplet.refusal)]} for triplet in toy_triplets(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def refusal_samples() -> list[Sample]:
    return [sample_of([*triplet.messages, answer_of(triplet.refusal)]) for triplet in toy_triplets(4)]


def slow_safety_tokens(model: Any, count: int) -> list[int]:
    """The likeliest tokens at the first positions of refusals, by the sum of their probabilities."""
    total = torch.zeros(len(CHAT.tokenizer), dtype=torch.float64)
    for sample in refusal_samples():
        probabilities = model(input_ids=torch.tensor([sample.ids])).logits[0].softmax(-1)
        for place, position in enumerate(sample.positions):
            if 1 <= position <= FIRST:
                total += probabilities[place - 1].detach()
    return sorted(total.topk(count).indices.tolist())


def test_safety_tokens_are_the_likeliest_where_refusals_begin(refusals: str, tmp_path: Path) -> None:
    model = random_llama(CHAT).eval()
    args = protect_config(tmp_path, objective="pact", safety_data=refusals, safety_tokens=6)
    assert safety_tokens(model, word_tokenizer(), args).tolist() == slow_safety_tokens(exact(model), 6)
    args.safety_tokens = 10_000
    assert safety_tokens(model, word_tokenizer(), args).tolist() == list(range(len(CHAT.tokenizer)))


def test_refusals_as_rows_are_learnt_with_the_end_of_their_turn(refusals: str, tmp_path: Path) -> None:
    rows = safety_rows(word_tokenizer(), refusals)
    assert [(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows] == [
        (sample.ids, tuple(sample.labels)) for sample in refusal_samples()
    ]
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError):
        safety_rows(word_tokenizer(), str(tmp_path / "none.jsonl"))


def capped() -> Any:
    torch.manual_seed(0)
    return Gemma2ForCausalLM._from_config(
        Gemma2Config(
            vocab_size=len(CHAT.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
            final_logit_softcapping=3.0, initializer_range=0.2, tie_word_embeddings=True,
        ),
        attn_implementation="eager",
    )  # fmt: skip


def scaled() -> Any:
    torch.manual_seed(0)
    return CohereForCausalLM(
        CohereConfig(
            vocab_size=len(CHAT.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, logit_scale=0.5,
            initializer_range=0.2,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: random_llama(CHAT), "adapter": adapted, "capped": capped, "scaled": scaled
}  # fmt: skip
SAMPLES = [sample_of(talk) for talk in toy_conversations(12)]


def slow_penalised(
    model: Any, reference: Any, objective: str, tokens: Tensor, weight: float
) -> tuple[float, Any]:
    """Mean over all tokens with loss of NLL plus the penalty; its gradient. One row at a time, in float64."""
    own, of = exact(model), exact(reference)
    terms = []
    for sample in SAMPLES:
        ids = torch.tensor([sample.ids])
        log_p = own(input_ids=ids).logits[0].log_softmax(-1)
        log_q = of(input_ids=ids).logits[0].log_softmax(-1).detach()
        for place, token in enumerate(sample.ids):
            if sample.positions[place]:
                p, q = log_p[place - 1][None], log_q[place - 1][None]
                kl = slow_kl(p, q) if objective == "kl" else slow_kl(coarse(q, tokens), coarse(p, tokens))
                terms.append(-p[0, token] + weight * kl[0])
    loss = cast(Tensor, sum(terms)) / len(terms)
    return loss.item(), gradient_of(own, loss)


@pytest.mark.parametrize("objective", ["kl", "pact"])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama", {}),
        ("llama", {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3, "kl_weight": 0.3}),
        ("llama", {"padding_free": True, "max_length": None}),
        ("adapter", {}),
        ("adapter", {"gradient_checkpointing": False, "pad_to_multiple_of": 32}),
        ("capped", {}),
        ("scaled", {}),
    ],
    ids=str,
)
def test_a_penalised_step_is_the_full_softmaxes(
    tmp_path: Path, refusals: str, objective: str, model: str, options: dict[str, Any]
) -> None:
    own = MODELS[model]()
    reference = copy.deepcopy(own)
    tokens = torch.tensor(slow_safety_tokens(exact(reference), 6))
    gradients = Gradients()
    config = protect_config(tmp_path, objective=objective, safety_data=refusals, safety_tokens=6, **options)
    trainer = protect(config, own, callbacks=[gradients])
    assert "reference_log_probs" not in trainer.train_dataset.column_names
    move(trainer.model)
    now = copy.deepcopy(reference)
    now.load_state_dict(trainer.model.state_dict())
    loss, expected = slow_penalised(now, reference, objective, tokens, options.get("kl_weight", 1.0))
    plain, _ = slow_penalised(now, reference, objective, tokens, 0.0)
    assert loss > plain + 0.01
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=CLOSE)
    assert distance(gradients.steps[0], expected) < CLOSE
