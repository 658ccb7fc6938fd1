"""What benchmarks/recovery_training.py trains: a random Llama, toy text, and a trainer for each variant.

It refuses to know how time and memory are measured and what is said of them.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from safedepth.chat import ChatFormat
from safedepth.nouns import Anchor, Message, Triplet
from safedepth.testbed.tokenizers import make_tokenizer
from safedepth.train.config import RecoveryConfig
from safedepth.train.draws import Draws
from safedepth.train.examples import IGNORED
from safedepth.train.styles import given
from safedepth.train.trainer import RecoveryTrainer

__all__ = ["OURS", "PAPER", "PLAIN", "Case", "Run", "random_model"]

PLAIN, PAPER, OURS = "SFTTrainer", "paper's scheme", "ours"

WORDS = {"prompt": (75, 0.4), "harmful": (150, 0.4), "refusal": (40, 0.4), "answer": (100, 0.6)}
"""Median and log-normal spread of the words, each a token, of every part of an example."""

MOST_WORDS = 240


@dataclass(frozen=True)
class Case:
    """A model, the examples of one step, and the variants trained on them; the first is the peer."""

    name: str
    variants: tuple[str, ...]
    safety: int
    anchors: int
    vocabulary: int = 32_000
    width: int = 256
    layers: int = 8
    shorter: int = 1
    batch: int = 8

    @property
    def title(self) -> str:
        return (
            f"{' against '.join(reversed(self.variants))}: {self.safety} safety examples and {self.anchors} "
            f"anchors a step; width {self.width}, {self.layers} layers, V={self.vocabulary:,}"
        )


def random_model(case: Case) -> LlamaForCausalLM:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.width,
        intermediate_size=int(2.75 * case.width),
        num_hidden_layers=case.layers,
        num_attention_heads=case.width // 32,
        num_key_value_heads=case.width // 32,
        max_position_embeddings=2048,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def make_draws(case: Case, config: RecoveryConfig) -> Draws:
    """One step's plan over exactly as many triplets and anchors, of random words of the toy language."""
    tokenizer = make_tokenizer()
    words = sorted(token[1:] for token in tokenizer.get_vocab() if token[1:].isalpha() and token[0] == "▁")
    rng = random.Random(0)

    def text(part: str) -> str:
        median, spread = WORDS[part]
        count = min(MOST_WORDS, round(rng.lognormvariate(math.log(median), spread))) // case.shorter
        return " ".join(rng.choices(words, k=max(2, count)))

    def asked() -> tuple[Message, ...]:
        return (Message(role="user", content=text("prompt")),)

    triplets = [Triplet(f"t{n}", asked(), text("harmful"), text("refusal")) for n in range(case.safety)]
    anchors = [Anchor(f"a{n}", asked(), text("answer")) for n in range(case.anchors)]
    return Draws(
        ChatFormat.of(tokenizer), triplets, anchors,
        mix=config.mix, steps=1, seed=0, recovery=config.policy(), style=given, longest=config.longest_prefix,
    )  # fmt: skip


class PaperTrainer(RecoveryTrainer):
    """The paper's scheme: forwards of all safety examples and of all anchors, each padded, logits whole."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        safety = inputs["safety"].amax(1) > 0
        means = [self._pooled_mean(model, inputs, rows) for rows in (safety, ~safety)]
        return self.args.alpha * means[0] + (1 - self.args.alpha) * means[1]

    def _pooled_mean(self, model: Any, inputs: dict[str, Any], rows: Tensor) -> Tensor:
        longest = int(inputs["attention_mask"][rows].sum(1).max())
        ids, mask, labels = (
            inputs[name][rows, :longest] for name in ("input_ids", "attention_mask", "labels")
        )
        log_probs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
        wanted = labels[:, 1:]
        said = log_probs[:, :-1].gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        mean: Tensor = -said[wanted != IGNORED].mean()
        return mean


class Clock(TrainerCallback):
    """Seconds of each `train()`, without setting up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_train_begin(self, *_arguments: Any, **_others: Any) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *_arguments: Any, **_others: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


class Run:
    """One variant: a trainer with a model of its own."""

    def __init__(self, case: Case, variant: str, folder: str) -> None:
        common: dict[str, Any] = {
            "output_dir": str(Path(folder) / variant.replace(" ", "-")), "save_strategy": "no",
            "max_steps": 1, "learning_rate": 1e-4, "lr_scheduler_type": "constant", "seed": 0,
            "gradient_checkpointing": False, "activation_checkpointing": False, "max_length": None,
            "bf16": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        }  # fmt: skip
        size = case.safety + case.anchors
        whole = variant == PAPER
        config = RecoveryConfig(
            **common,
            safety_per_step=case.safety,
            anchors_per_step=case.anchors,
            per_device_train_batch_size=size if whole else case.batch,
        )
        self.alpha, self.draws, self.clock = config.alpha, make_draws(case, config), Clock()
        model = random_model(case)
        if variant == PLAIN:
            examples = [self.draws.draw(number).example for number in range(size)]
            plain = SFTConfig(
                **common,
                per_device_train_batch_size=config.per_device_train_batch_size,
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                train_sampling_strategy="sequential",
                dataset_kwargs={"skip_prepare_dataset": True},
            )
            columns = {"input_ids": [e.ids for e in examples], "labels": [e.labels for e in examples]}
            self.trainer = SFTTrainer(
                model, plain, train_dataset=Dataset.from_dict(columns), processing_class=make_tokenizer()
            )
        else:
            self.trainer = (PaperTrainer if whole else RecoveryTrainer)(model, config, draws=self.draws)
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.remove_callback(ProgressCallback)
        self.trainer.add_callback(self.clock)

    def step(self) -> float:
        """Train one optimiser step; its seconds."""
        self.trainer.train()
        return self.clock.seconds[-1]

    def first_step(self) -> float:
        """Train one optimiser step; its loss, all batches together."""
        losses: list[float] = []
        compute = self.trainer.compute_loss

        def noted(*arguments: Any, **others: Any) -> Any:
            loss = compute(*arguments, **others)
            losses.append(loss.item())
            return loss

        self.trainer.compute_loss = noted
        self.trainer.train()
        del self.trainer.compute_loss
        return math.fsum(losses)

    def batches(self) -> Iterator[tuple[list[Any], list[Any]]]:
        for batch in self.trainer.get_train_dataloader():
            yield batch["input_ids"].tolist(), batch["labels"].tolist()
