"""The losses against their formulas, in float64, one example and one token at a time."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.train.losses import (
    constrained_loss,
    implicit_advantage,
    mixture_weights,
    token_weights,
    weighted_nll,
)


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


def softplus(x: float) -> float:
    """log(1 + exp(x)) in float64, without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


GAPS = [sign * size for size in (0, 1e-6, 1e-3, 0.1, 1, 10, 100, 1e3, 1e4) for sign in (1, -1)]
BETAS = [1e-4, 1e-2, 0.1, 0.5, 2, 30, 1e3, 1e4]


def token(
    gap: float, beta: float, dtype: torch.dtype, at: float
) -> tuple[float, float, torch.Tensor, torch.Tensor]:
    """The gap that a precision can hold, its beta's term x, and the two log-probabilities so far apart."""
    log_prob = torch.tensor([at], dtype=dtype, requires_grad=True)
    reference = torch.tensor([at + gap], dtype=dtype)
    apart = reference.double().item() - log_prob.double().item()
    held = torch.tensor(beta, dtype=torch.float32).double().item()
    return apart, held, log_prob, reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("beta", BETAS)
def test_loss_gradient_weight_and_advantage_of_a_token_are_the_formulas_in_every_precision(
    dtype: torch.dtype, beta: float
) -> None:
    for gap in GAPS:
        for at in (0.0, -1.5, -20.0):
            apart, held, log_prob, reference = token(gap, beta, dtype, at)
            betas = torch.tensor([beta])
            loss = constrained_loss(log_prob, reference, betas)
            loss.sum().backward()
            assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            # Below 1e-37 float32 has no full precision, and there is no loss to speak of.
            assert loss.item() == pytest.approx(2 / held * softplus(held * apart), rel=2e-6, abs=1e-32)
            weight = 2 * sigmoid(held * apart)
            # Half precision rounds the gradient that it is given, by at most half of its last bit.
            rounding = 2e-6 if dtype.itemsize >= 4 else torch.finfo(dtype).eps / 2 + 2e-6
            smallest = torch.finfo(dtype).smallest_normal
            assert log_prob.grad is not None
            slope = -log_prob.grad.double().item()
            # sigmoid(x) of a large x is exp(x): it is as exact as x, which float32 rounds.
            inexact = 1e-6 * max(1.0, abs(held * apart)) if apart < 0 else 1e-6
            assert slope == pytest.approx(weight, rel=rounding + inexact, abs=max(smallest, 1e-30))
            assert token_weights(log_prob, reference, betas).item() == pytest.approx(
                weight, rel=2e-6 + inexact, abs=1e-30
            )
            assert implicit_advantage(log_prob, reference, betas).item() == pytest.approx(
                -held * apart, rel=2e-6
            )


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    log_prob=st.floats(-1e4, 0, width=32),
    reference=st.floats(-1e4, 0, width=32),
    beta=st.floats(1e-4, 1e4, allow_subnormal=False),
)
def test_the_loss_is_finite_and_never_negative_and_weights_lie_in_0_to_2(
    log_prob: float, reference: float, beta: float
) -> None:
    own = torch.tensor([log_prob], requires_grad=True)
    loss = constrained_loss(own, torch.tensor([reference]), torch.tensor([beta]))
    loss.sum().backward()
    assert own.grad is not None
    assert math.isfinite(loss.item())
    assert loss.item() >= 0
    assert 0 <= -own.grad.item() <= 2
    assert loss.item() >= 2 * (reference - log_prob) * (1 - 1e-6)


def test_a_small_beta_leaves_plain_fine_tuning() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = -5 * torch.rand(50, generator=generator, dtype=torch.float64)
    reference = -5 * torch.rand(50, generator=generator, dtype=torch.float64)
    apart = []
    for beta in (1e-2, 1e-4, 1e-6):
        own = log_probs.clone().requires_grad_()
        loss = constrained_loss(own, reference, torch.tensor(beta, dtype=torch.float64))
        loss.sum().backward()
        # NLL, and a constant of the data: 2 log(2) / beta + log pi_ref.
        plain = -log_probs + 2 * math.log(2) / beta + reference
        assert own.grad is not None
        apart.append([(loss - plain).abs().max().item(), (own.grad + 1).abs().max().item()])
    # softplus(x) = log 2 + x / 2 + x^2 / 8 - ...: off by beta D^2 / 4, and the gradient by beta D / 2.
    worst = (reference - log_probs).abs().max().item()
    for (of_loss, of_gradient), beta in zip(apart, (1e-2, 1e-4, 1e-6), strict=True):
        assert of_loss == pytest.approx(beta * worst**2 / 4, rel=1e-2)
        assert of_gradient == pytest.approx(beta * worst / 2, rel=1e-2)


def test_a_large_beta_leaves_twice_what_the_model_lacks_of_the_reference() -> None:
    log_probs = torch.tensor([-3.0, -1.0, -0.5, -2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.0, -3.0, -0.4, -2.0], dtype=torch.float64)
    loss = constrained_loss(log_probs, reference, torch.tensor(1e4, dtype=torch.float64))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([4.0, 0.0, 0.2, 2 * math.log(2) / 1e4], abs=1e-12)
    assert log_probs.grad is not None
    # Nothing pulls where the model is above the reference; where they agree, the weight is 1 at every beta.
    assert log_probs.grad.tolist() == pytest.approx([-2.0, 0.0, -2.0, -1.0], abs=1e-12)


def test_no_gradient_flows_to_the_reference() -> None:
    log_probs, reference = (torch.tensor([-1.0, -2.0], requires_grad=True) for _ in range(2))
    constrained_loss(log_probs, reference, torch.tensor([2.0])).sum().backward()
    assert log_probs.grad is not None
    assert reference.grad is None
    assert not token_weights(log_probs, reference, torch.tensor([2.0])).requires_grad
    assert not implicit_advantage(log_probs, reference, torch.tensor([2.0])).requires_grad


def test_betas_broadcast_over_rows() -> None:
    log_probs, reference = -torch.rand(3, 4), -torch.rand(3, 4)
    betas = torch.tensor([0.5, 2.0, 2.0, 0.1])
    whole = constrained_loss(log_probs, reference, betas)
    for row in range(3):
        torch.testing.assert_close(whole[row], constrained_loss(log_probs[row], reference[row], betas))
