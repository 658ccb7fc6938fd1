"""Betas learnt on models whose safety is known to sit at one position, and what cannot be learnt from."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from safedepth.errors import DataError, RunError
from safedepth.train.bilevel import Bilevel, learn_betas, within_budget
from safedepth.train.positions import GROUPS
from train.toys import random_llama, random_rows, toy_chat

G = len(GROUPS)


class Table(nn.Module):
    """Logits that depend on the place alone: what is learnt at one position says nothing elsewhere."""

    def __init__(self, places: int = 24, vocabulary: int = 4) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(places, vocabulary))
        self.idle = nn.Parameter(torch.ones(3))  # takes no part, as an expert that no token goes to

    def forward(self, input_ids: Tensor, **_others: Any) -> Any:
        return SimpleNamespace(logits=self.table[: input_ids.shape[1]].expand(len(input_ids), -1, -1))


HARM = {"input_ids": [0] * 4 + [1] * 20, "labels": [-100] * 4 + [1] * 20}


def refusal(place: int) -> dict[str, list[int]]:
    """Another answer to the same prompt, of which only the token at `place` says anything."""
    labels = [-100] * 24
    labels[3 + place] = 2
    return {"input_ids": [0] * 4 + [2] * 20, "labels": labels}


@pytest.mark.parametrize(("place", "group"), [(1, 0), (3, 2), (8, 5), (15, 6)])
def test_the_position_that_alone_carries_safety_is_the_one_that_is_held(place: int, group: int) -> None:
    model = Table()
    width = 1 if group < 5 else (5, 10)[group - 5]
    how = Bilevel(rounds=10, steps=10, batch=2, learning_rate=0.3, rate=0.5, low=0.1, high=10, budget=width)
    learnt = learn_betas(model, [HARM], [refusal(place)], how)
    others = [beta for i, beta in enumerate(learnt.betas) if i != group]
    assert learnt.betas[group] == pytest.approx(10)
    assert others == pytest.approx([0.1] * (G - 1))
    assert min(learnt.safety) < learnt.safety[0] - 0.02


def test_a_model_is_left_as_it_was() -> None:
    chat = toy_chat()
    model = random_llama(chat, attention_dropout=0.1).train()
    begun = {name: value.clone() for name, value in model.state_dict().items()}
    size = len(chat.tokenizer)
    how = Bilevel(rounds=2, steps=3, batch=2, learning_rate=1e-2)
    learnt = learn_betas(model, random_rows([3, 5], [8, 4], 1, size), random_rows([4], [5], 2, size), how)
    assert len(learnt.betas) == G
    assert len(learnt.safety) == 2
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, begun[name]), name
    again = learn_betas(model, random_rows([3, 5], [8, 4], 1, size), random_rows([4], [5], 2, size), how)
    assert again == learnt


def test_only_what_is_trained_moves_and_counts() -> None:
    chat = toy_chat()
    model = random_llama(chat).requires_grad_(False)
    with pytest.raises(DataError, match="require gradients"):
        learn_betas(model, [HARM], [HARM])
    model.lm_head.requires_grad_(True)
    size = len(chat.tokenizer)
    how = Bilevel(rounds=2, steps=3, batch=2, learning_rate=1e-2)
    learnt = learn_betas(model, random_rows([3], [8], 1, size), random_rows([4], [5], 2, size), how)
    assert learnt.safety[0] != learnt.safety[1]


def test_learning_refuses_what_it_cannot_learn_from() -> None:
    with pytest.raises(DataError, match="rows to train on to learn betas from, found none"):
        learn_betas(Table(), [], [HARM])
    with pytest.raises(DataError, match="refusals to keep to learn betas from, found none"):
        learn_betas(Table(), [HARM], [])
    with pytest.raises(DataError, match="a prompt and a response in every row"):
        learn_betas(Table(), [{"input_ids": [0, 1], "labels": [-100, -100]}], [HARM])
    for budget in (0.0, 80.0):
        with pytest.raises(DataError, match=r"budget in 0\.\.80 tokens"):
            learn_betas(Table(), [HARM], [HARM], Bilevel(budget=budget))
    with pytest.raises(DataError, match="above 0"):
        learn_betas(Table(), [HARM], [HARM], Bilevel(steps=1))
    with pytest.raises(DataError, match="0 < low < high"):
        learn_betas(Table(), [HARM], [HARM], Bilevel(low=3, high=2))


def test_an_inner_training_that_diverges_is_an_error_and_leaves_the_model_alone() -> None:
    model = Table()
    with pytest.raises(RunError, match=r"diverged at step 1.*Lower its learning rate"):
        learn_betas(model, [HARM], [refusal(8)], Bilevel(learning_rate=1e38))
    assert not bool(model.table.any())


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=G, max_size=G), st.floats(0.1, 79))
def test_the_budget_is_kept_by_one_shift(strengths: list[float], budget: float) -> None:
    found = within_budget(torch.tensor(strengths, dtype=torch.float64), budget)
    widths = [1, 1, 1, 1, 1, 5, 10, 20, 40]
    spent = math.fsum(w * s for w, s in zip(widths, found.tolist(), strict=True))
    assert spent == pytest.approx(budget, abs=1e-6)
    assert all(0 <= strength <= 1 for strength in found.tolist())
    shifts = [new - old for new, old in zip(found.tolist(), strengths, strict=True) if 0 < new < 1]
    assert max(shifts, default=0) - min(shifts, default=0) < 1e-9
