"""Conversations in the toy language, and constrained fine-tuning written as loops in float64.

Equations (3) to (5) of section 4.2 term by term: one sequence at a time, unpadded, the
reference a frozen copy. Nothing is shared with what is tested.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from safedepth.nouns import Message
from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.constrained_config import ConstrainedSFTConfig
from tokenizer_zoo import word_tokenizer
from train.toys import STEPS, Gradient, question, random_llama, toy_chat

CHAT = toy_chat()
CLOSE = 1e-5
"""How far a float32 loss or gradient may be from the float64 one, as a share of it."""

SOFT = "I cannot help with that. Be kind."

Beta = Callable[[int], float]

BETAS: Mapping[str, Beta] = {
    "paper": lambda t: 0.5 if t == 1 else 2.0 if t <= 5 else 0.1,
    "2": lambda _t: 2.0,
    "0.01": lambda _t: 0.01,
    "30": lambda _t: 30.0,
    "0.5,3,0.2": lambda t: {1: 0.5, 2: 3.0}.get(t, 0.2),
}
"""What `--beta` may say, and what that means."""


def answer_of(text: str) -> Message:
    return Message(role="assistant", content=text)


def toy_conversations(count: int) -> list[list[Message]]:
    """One question and one answer each, prompts and answers of different lengths."""
    answers = [" ".join([*STEPS, *STEPS, *STEPS][: 1 + index % 5]) for index in range(count)]
    answers[0] = "Sure"
    words = ["krell", "torin", "fennix"]
    return [
        [question(*(words * count)[: 1 + index % 4]), answer_of(answer)]
        for index, answer in enumerate(answers)
    ]


def long_conversation() -> list[Message]:
    """Three questions and three answers."""
    turns: list[Message] = []
    for asked, answer in (("krell", "Sure: " + STEPS[0]), ("torin", SOFT), ("fennix krell", STEPS[2])):
        turns += [question(*asked.split()), answer_of(answer)]
    return turns


@dataclass(frozen=True)
class Sample:
    """A sequence as the model is to read it; `positions[i]` says where in its response token i is, or 0."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def labels(self) -> list[int]:
        return [token if position else -100 for token, position in zip(self.ids, self.positions, strict=True)]


def sample_of(messages: Sequence[Message]) -> Sample:
    """The last answer as the response to all before it."""
    tokenizer: Any = CHAT.tokenizer
    prompt = tokenizer.apply_chat_template(list(messages[:-1]), add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(list(messages), return_dict=False)
    assert whole[: len(prompt)] == prompt
    return Sample(tuple(whole), (*[0] * len(prompt), *range(1, len(whole) - len(prompt) + 1)))


def as_messages(conversations: Sequence[Any]) -> Dataset:
    return Dataset.from_list([{"messages": messages} for messages in conversations])


def as_prompts(conversations: Sequence[Any]) -> Dataset:
    return Dataset.from_list([{"prompt": one[:-1], "completion": one[-1:]} for one in conversations])


def as_text(conversations: Sequence[Any]) -> Dataset:
    """Prompt and completion as text, without a template; TRL adds the end of the sequence."""
    return Dataset.from_list(
        [{"prompt": one[0]["content"] + " ", "completion": one[-1]["content"]} for one in conversations]
    )


def text_sample(messages: Sequence[Message]) -> Sample:
    tokenizer: Any = CHAT.tokenizer
    prompt, answer = (
        tokenizer(messages[0]["content"])["input_ids"],
        tokenizer(messages[-1]["content"])["input_ids"],
    )
    learnt = [*answer, tokenizer.eos_token_id]
    return Sample((*prompt, *learnt), (*[0] * len(prompt), *range(1, len(learnt) + 1)))


def as_tokens(samples: Sequence[Sample]) -> Dataset:
    return Dataset.from_list([{"input_ids": one.ids, "labels": one.labels} for one in samples])


def protect_config(folder: Path, **options: Any) -> ConstrainedSFTConfig:
    """One step over twelve rows, neither warmed up nor clipped; nothing is written or shown unless asked."""
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": 12, "max_steps": 1, "save_strategy": "no", "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "warmup_steps": 0, "max_grad_norm": 0.0,
        "diagnostics": False,
    }  # fmt: skip
    return ConstrainedSFTConfig(output_dir=str(folder), **chosen | options)


def protect(
    config: ConstrainedSFTConfig, model: Any, dataset: Any | None = None, **others: Any
) -> ConstrainedSFTTrainer:
    """A trainer over twelve conversations of one turn, unless another data set is given."""
    rows = as_messages(toy_conversations(12)) if dataset is None else dataset
    return ConstrainedSFTTrainer(
        model, config, train_dataset=rows, **{"processing_class": word_tokenizer()} | others
    )


def adapted(*, seed: int = 0, random: bool = False, **options: Any) -> PreTrainedModel:
    """A random Llama with an adapter that changes nothing yet, or (`random`) something."""
    model = random_llama(CHAT, seed=seed, **options)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=not random, task_type="CAUSAL_LM"
    )
    return cast(PreTrainedModel, get_peft_model(model, lora))


def move(model: Any, *, by: float = 0.1) -> None:
    """Change what is trained as a training might: every weight by noise, the same each time."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += by * torch.randn(p.shape, generator=generator)


def exact(model: Any) -> Any:
    """A float64 copy without dropout."""
    return copy.deepcopy(model).double().eval()


def log_probs_of(model: Any, sample: Sample) -> dict[int, Tensor]:
    """log pi(y_t | ...) by place in the sequence, of the tokens with loss."""
    said = torch.log_softmax(model(input_ids=torch.tensor([sample.ids])).logits[0], dim=-1)
    return {
        place: said[place - 1, token]
        for place, token in enumerate(sample.ids)
        if sample.positions[place] and place
    }


@dataclass(frozen=True)
class Term:
    """A token's loss and what is told of it, in float64."""

    position: int
    loss: Tensor
    nll: float
    weight: float
    advantage: float


def slow_terms(model: Any, reference: Any, samples: Sequence[Sample], beta: Beta) -> list[Term]:
    """Every token with loss under the constrained objective; float64 copies are given."""
    terms = []
    for sample in samples:
        own = log_probs_of(model, sample)
        with torch.no_grad():
            of = log_probs_of(reference, sample)
        for place, log_p in own.items():
            b, gap = beta(sample.positions[place]), of[place].item() - log_p
            loss = 2 / b * torch.log1p(torch.exp(b * gap))
            weight = 2 / (1 + math.exp(-b * gap.item()))
            terms.append(Term(sample.positions[place], loss, -log_p.item(), weight, -b * gap.item()))
    return terms


def slow_step(
    model: Any, reference: Any, samples: Sequence[Sample], beta: Beta
) -> tuple[float, Gradient, list[Term]]:
    """Loss and gradient of a step over all samples, the mean over their tokens with loss."""
    copied = exact(model)
    terms = slow_terms(copied, exact(reference), samples, beta)
    loss = cast(Tensor, sum(term.loss for term in terms)) / len(terms)
    return loss.item(), gradient_of(copied, loss), terms


def gradient_of(model: Any, loss: Tensor) -> Gradient:
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
