"""The hypergradient against finite differences of the outer loss in float64."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from safedepth.errors import DataError
from safedepth.train.hypergradient import Batch, adam_direction, hypergradient
from safedepth.train.positions import GROUPS
from train.toys import random_rows

G = len(GROUPS)
CPU = torch.device("cpu")


def tiny() -> GPT2LMHeadModel:
    """In float64 throughout; a Llama would go through float32 in its norms."""
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=12, n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    model: GPT2LMHeadModel = GPT2LMHeadModel(config).double().eval()
    return model


class Bed:
    """A tiny model that has moved away from its reference, rows to train on and to keep, and betas."""

    def __init__(self) -> None:
        self.model = tiny()
        self.rows, self.safety = random_rows([3, 5, 2], [12, 2, 7], 1, 12), random_rows([4, 3], [5, 9], 2, 12)
        with torch.no_grad():
            of = tiny()
            for parameter in of.parameters():
                random = torch.Generator().manual_seed(3)
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        self.batch = Batch.of(self.rows, CPU)
        self.reference = self.batch.log_probs(of).detach()
        self.log_betas = torch.linspace(-1, 1.5, G, dtype=torch.float64)

    def slow_log_probs(self, given: Sequence[Mapping[str, list[int]]]) -> list[tuple[int, Tensor]]:
        """(position, log-probability) of every learnt token, one unpadded sequence at a time."""
        found = []
        for row in given:
            said = self.model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            begin = row["labels"].count(-100)
            found += [
                (t - begin + 1, said[t - 1, row["labels"][t]]) for t in range(begin, len(row["labels"]))
            ]
        return found

    def slow_inner(self, log_betas: Tensor) -> Tensor:
        terms = []
        said = self.slow_log_probs(self.rows)
        for (position, value), of in zip(said, self.reference, strict=True):
            group = next(i for i, (a, b) in enumerate(GROUPS) if a <= position <= (b or 10**9))
            beta = math.exp(float(log_betas[group]))
            terms.append(2 / beta * torch.log1p(torch.exp(beta * (of - value))))
        return sum(terms, torch.tensor(0.0, dtype=torch.float64)) / len(terms)

    def slow_outer(self) -> Tensor:
        said = [value for _, value in self.slow_log_probs(self.safety)]
        return -sum(said, torch.tensor(0.0, dtype=torch.float64)) / len(said)

    def finite_differences(self, outer_after: Any, width: float = 1e-4) -> Tensor:
        found = []
        for group in range(G):
            moved = [self.log_betas.clone() for _ in range(2)]
            moved[0][group] += width
            moved[1][group] -= width
            found.append((outer_after(moved[0]) - outer_after(moved[1])) / (2 * width))
        return torch.tensor(found, dtype=torch.float64)


def test_padded_batches_have_the_log_probabilities_and_groups_of_single_sequences() -> None:
    bed = Bed()
    said = bed.slow_log_probs(bed.rows)
    expected = torch.stack([value for _, value in said])
    torch.testing.assert_close(bed.batch.log_probs(bed.model), expected, rtol=1e-9, atol=1e-9)
    first = [GROUPS[group][0] for group in bed.batch.groups.tolist()]
    assert [position for position, _ in said][:12] == list(range(1, 13))
    assert first[:12] == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 11, 11]


def test_the_hypergradient_of_a_plain_step_is_that_of_finite_differences() -> None:
    bed, rate = Bed(), 0.05
    parameters = dict(bed.model.named_parameters())
    begun = {name: p.detach().clone() for name, p in parameters.items()}

    def step(log_betas: Tensor) -> None:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(begun[name])
        slopes = torch.autograd.grad(bed.slow_inner(log_betas), list(parameters.values()))
        with torch.no_grad():
            for p, slope in zip(parameters.values(), slopes, strict=True):
                p.sub_(rate * slope)

    def outer_after(log_betas: Tensor) -> float:
        step(log_betas)
        with torch.no_grad():
            return float(bed.slow_outer())

    expected = bed.finite_differences(outer_after)
    step(bed.log_betas)
    towards = torch.autograd.grad(bed.slow_outer(), list(parameters.values()))
    direction = {name: rate * t for name, t in zip(parameters, towards, strict=True)}
    found = hypergradient(bed.model, bed.batch, bed.reference, bed.log_betas, at=begun, direction=direction)
    assert float(expected.abs().max()) > 1e-5
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-9)  # weights are float32
    assert found[-2:].tolist() == [0, 0]  # no answer is as long


def test_the_hypergradient_of_adams_step_is_that_of_finite_differences() -> None:
    bed = Bed()
    parameters = dict(bed.model.named_parameters())

    def inner(optimizer: torch.optim.AdamW, log_betas: Tensor) -> None:
        optimizer.zero_grad()
        bed.slow_inner(log_betas).backward()
        optimizer.step()

    optimizer = torch.optim.AdamW(bed.model.parameters(), lr=2e-3, betas=(0.5, 0.999), eps=1e-3)
    for _ in range(3):
        inner(optimizer, bed.log_betas)
    begun = {name: p.detach().clone() for name, p in parameters.items()}
    state = copy.deepcopy(optimizer.state_dict())

    def outer_after(log_betas: Tensor) -> float:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(begun[name])
        optimizer.load_state_dict(copy.deepcopy(state))
        inner(optimizer, log_betas)
        with torch.no_grad():
            return float(bed.slow_outer())

    expected = bed.finite_differences(outer_after)
    outer_after(bed.log_betas)
    towards = torch.autograd.grad(bed.slow_outer(), list(parameters.values()))
    direction = adam_direction(optimizer, parameters, dict(zip(parameters, towards, strict=True)))
    found = hypergradient(bed.model, bed.batch, bed.reference, bed.log_betas, at=begun, direction=direction)
    assert float(expected.abs().max()) > 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_a_row_without_prompt_or_response_is_an_error() -> None:
    for labels in ([-100, -100, -100], [1, -100, -100]):
        with pytest.raises(DataError, match="a prompt and a response in every row"):
            Batch.of([{"input_ids": [1, 2, 3], "labels": labels}], CPU)
