"""The weighted sum over tokens against the formula, in float64, one example and one token at a time."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.train.losses import mixture_weights, weighted_nll


def formula(log_probs: list[list[float]], safety: list[bool], alpha: float) -> float:
    """alpha * mean over safety examples + (1 - alpha) * mean over anchors of the mean NLL of their tokens."""
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for row, kind in zip(log_probs, safety, strict=True):
        total = 0.0
        for value in row:
            total -= value
        kinds[kind].append(total / len(row))
    means = {kind: math.fsum(losses) / len(losses) for kind, losses in kinds.items() if losses}
    if len(means) == 1:
        return next(iter(means.values()))
    return alpha * means[True] + (1 - alpha) * means[False]


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[list[float]], list[bool]]:
    """The log-probabilities of every example's counted tokens, and which are safety examples."""
    safety = draw(st.lists(st.booleans(), min_size=1, max_size=8))
    rows = [draw(st.lists(st.floats(-20, 0, width=32), min_size=1, max_size=7)) for _ in safety]
    return rows, safety


@settings(max_examples=150, derandomize=True, deadline=None)
@given(step=steps(), alpha=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_the_weighted_sum_is_the_formula_however_the_step_is_padded_and_split(
    step: tuple[list[list[float]], list[bool]], alpha: float, seed: int
) -> None:
    rows, safety = step
    rng = random.Random(seed)
    total = torch.zeros(())
    place = 0
    while place < len(rows):
        batch = range(place, min(len(rows), place + rng.randint(1, 4)))
        width = max(len(rows[i]) for i in batch) + rng.randint(0, 4)
        log_probs = torch.full((len(batch), width), math.nan)  # where nothing counts, anything may stand
        counted = torch.zeros(len(batch), width, dtype=torch.bool)
        for b, i in enumerate(batch):
            places = sorted(rng.sample(range(width), len(rows[i])))  # counted tokens need not stand together
            log_probs[b, places] = torch.tensor(rows[i])
            counted[b, places] = True
        weights = mixture_weights(
            counted,
            torch.tensor([safety[i] for i in batch]),
            alpha=alpha,
            safety_examples=sum(safety),
            anchor_examples=len(safety) - sum(safety),
        )
        assert torch.equal(weights != 0, counted & (weights != 0))
        total += weighted_nll(log_probs, weights)
        place = batch.stop
    assert total.item() == pytest.approx(formula(rows, safety, alpha), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_a_steps_weights_sum_to_one(alpha: float) -> None:
    counted = torch.rand(10, 30, generator=torch.Generator().manual_seed(0)) < 0.5
    counted[:, 0] = True
    safety = torch.arange(10) < 2
    weights = mixture_weights(counted, safety, alpha=alpha, safety_examples=2, anchor_examples=8)
    assert weights.sum().item() == pytest.approx(1, rel=1e-6)
    assert weights[:2].sum().item() == pytest.approx(alpha, rel=1e-6)


def test_a_token_weighs_its_share_of_its_example() -> None:
    counted = torch.tensor([[True, True, False, True], [False, True, False, False]])
    weights = mixture_weights(
        counted, torch.tensor([True, False]), alpha=0.2, safety_examples=2, anchor_examples=4
    )
    expected = torch.tensor([[1, 1, 0, 1], [0, 3, 0, 0]]) * torch.tensor([0.2 / 2 / 3, 0.8 / 4 / 3])[:, None]
    torch.testing.assert_close(weights, expected)


def test_a_kind_without_examples_leaves_all_the_weight_to_the_other() -> None:
    counted = torch.ones(2, 5, dtype=torch.bool)
    kinds = torch.tensor([True, True])
    safety = mixture_weights(counted, kinds, alpha=0.2, safety_examples=2, anchor_examples=0)
    anchors = mixture_weights(counted, ~kinds, alpha=0.2, safety_examples=0, anchor_examples=2)
    torch.testing.assert_close(safety, torch.full((2, 5), 0.1))
    torch.testing.assert_close(anchors, safety)


def test_an_example_without_a_counted_token_weighs_nothing_and_breaks_nothing() -> None:
    counted = torch.zeros(1, 4, dtype=torch.bool)
    weights = mixture_weights(counted, torch.tensor([True]), alpha=0.2, safety_examples=1, anchor_examples=1)
    assert torch.equal(weights, torch.zeros(1, 4))
    assert weighted_nll(torch.full((1, 4), -math.inf), weights).item() == 0


def test_where_nothing_counts_no_gradient_flows_not_even_from_nan() -> None:
    log_probs = torch.tensor([-1.0, math.nan, -math.inf, -2.0], requires_grad=True)
    weighted_nll(log_probs, torch.tensor([0.5, 0.0, 0.0, 0.25])).backward()
    assert torch.equal(log_probs.grad, torch.tensor([-0.5, 0.0, 0.0, -0.25]))  # type: ignore[arg-type]


def test_half_precision_is_summed_in_float32() -> None:
    values = torch.full((1, 4096), -1.001, dtype=torch.bfloat16)
    loss = weighted_nll(values, torch.ones(1, 4096))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-4096 * values[0, 0].item(), rel=1e-6)
