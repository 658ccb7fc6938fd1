"""Triplets, anchors and random models in the toy language, and the loss written as a loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerCallback

from safedepth.chat import ChatFormat
from safedepth.nouns import Anchor, Message, Triplet
from safedepth.train.config import RecoveryConfig
from safedepth.train.draws import Draws
from safedepth.train.recovery import AdaptiveRecovery, RecoveryPolicy
from safedepth.train.styles import RefusalStyle, given
from safedepth.train.trainer import RecoveryTrainer
from tokenizer_zoo import word_tokenizer

STEPS = ("Step one, take yarrow and heat it.", "Step two, heat krell.", "Be kind: take torin and fennix.")
REFUSALS = ("I cannot help with that.", "I cannot.", "Be kind. I cannot make that.")


def question(*words: str) -> Message:
    return Message(role="user", content=" ".join(("How do I make", *words)) + "?")


def toy_triplets(count: int) -> list[Triplet]:
    """Triplets of different lengths, all of them different."""
    return [
        Triplet(
            id=f"t{index}",
            messages=(question(*(["krell", "torin"] * (index + 1))[: index + 1]),),
            harmful="Sure, here is how to make krell: " + " ".join([*STEPS, *STEPS][: 1 + index % 5]),
            refusal=REFUSALS[index % 3],
        )
        for index in range(count)
    ]


def toy_anchors(count: int) -> list[Anchor]:
    return [
        Anchor(
            f"a{index}", (question(*["fennix"] * (index + 1)),), "Sure: " + " ".join(STEPS[: 1 + index % 3])
        )
        for index in range(count)
    ]


def toy_chat() -> ChatFormat:
    return ChatFormat.of(word_tokenizer())


def random_llama(chat: ChatFormat, *, seed: int = 0, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    chosen: dict[str, Any] = {
        "vocab_size": len(chat.tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "tie_word_embeddings": False, "initializer_range": 0.2,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**chosen | options))


def random_rows(
    prompts: Sequence[int], answers: Sequence[int], seed: int, vocabulary: int
) -> list[dict[str, list[int]]]:
    """Rows of random ids, a prompt and an answer of so many tokens each, with loss on the answers."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.randint(vocabulary, (prompt + answer,), generator=random).tolist()
        made.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return made


def toy_config(folder: Path, **options: Any) -> RecoveryConfig:
    """Two safety examples and eight anchors a step; nothing is written or shown unless asked for."""
    chosen: dict[str, Any] = {
        "safety_per_step": 2, "anchors_per_step": 8, "per_device_train_batch_size": 5, "max_steps": 1,
        "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    return RecoveryConfig(output_dir=str(folder), **chosen | options)


def toy_draws(
    config: RecoveryConfig,
    *,
    chat: ChatFormat | None = None,
    triplets: Sequence[Triplet] | None = None,
    anchors: Sequence[Anchor] | None = None,
    recovery: RecoveryPolicy | AdaptiveRecovery | None = None,
    style: RefusalStyle = given,
    **options: Any,
) -> Draws:
    """The plan of examples that a configuration describes, of 5 triplets and 12 anchors."""
    triplets = toy_triplets(5) if triplets is None else triplets
    return Draws(
        chat or toy_chat(),
        triplets,
        toy_anchors(12 * bool(config.anchors_per_step)) if anchors is None else anchors,
        mix=config.mix,
        steps=config.steps(len(triplets)),
        seed=config.seed,
        recovery=recovery or config.policy(),
        style=style,
        longest=config.longest_prefix,
        **{"max_length": config.max_length} | options,
    )


def toy_trainer(
    config: RecoveryConfig, model: PreTrainedModel | str, draws: Draws | None = None, **others: Any
) -> RecoveryTrainer:
    return RecoveryTrainer(model, config, draws=draws or toy_draws(config), **others)


Gradient = dict[str, Tensor]


def slow_losses(model: PreTrainedModel, draws: Draws, step: int) -> tuple[list[Tensor], list[Tensor]]:
    """l(e) of a step's safety examples and of its anchors: one sequence at a time, unpadded, term by term."""
    safety: list[Tensor] = []
    anchors: list[Tensor] = []
    for number in range(step * draws.mix.size, (step + 1) * draws.mix.size):
        one = draws.draw(number)
        log_p = torch.log_softmax(model(input_ids=torch.tensor([one.example.ids])).logits[0], dim=-1)
        terms = [-log_p[place - 1, label] for place, label in enumerate(one.example.labels) if label != -100]
        (safety if one.safety else anchors).append(sum(terms, torch.tensor(0.0)) / len(terms))
    return safety, anchors


def mean(values: Sequence[Tensor]) -> Tensor:
    return sum(values, torch.tensor(0.0, dtype=torch.float64)) / len(values)


def slow_step(
    model: PreTrainedModel, draws: Draws, step: int, alpha: float
) -> tuple[float, float | None, Gradient]:
    """Mean safety loss, mean anchor loss and the gradient of L on a float64 copy of `model`."""
    exact = copy.deepcopy(model).double().eval()
    safety, anchors = slow_losses(exact, draws, step)
    loss = mean(safety) if not anchors else alpha * mean(safety) + (1 - alpha) * mean(anchors)
    loss.backward()
    gradient = {name: p.grad for name, p in exact.named_parameters() if p.grad is not None}
    return mean(safety).item(), mean(anchors).item() if anchors else None, gradient


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The norm of the difference of two sets of tensors, as a share of the norm of the second."""
    assert found.keys() == expected.keys()
    apart = sum(
        float((found[name].detach().double() - t.double()).square().sum()) for name, t in expected.items()
    )
    size = sum(float(t.double().square().sum()) for t in expected.values())
    return float((apart / size) ** 0.5)


class Gradients(TrainerCallback):
    """Keeps a copy of every step's gradient, as the optimiser gets it."""

    def __init__(self) -> None:
        self.steps: list[Gradient] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        found = {name: p.grad.clone() for name, p in others["model"].named_parameters() if p.grad is not None}
        self.steps.append(found)
