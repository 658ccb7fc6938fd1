from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from provider_oracles import warped
from safedepth.provider import Job, Sampling
from safedepth.provider.sampling import choose, distribution, random_stream

SETTINGS = [
    Sampling(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k)
    for temperature, top_p, top_k in product(
        (0.05, 0.6, 1.0, 2.5), (0.1, 0.6, 0.95, 1.0), (None, 2, 50, 5000)
    )
]


def random_logits(rows: int, vocabulary: int = 1000, *, spread: float = 3.0, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def dense(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The probabilities [V] that our sampler gives one row."""
    found = distribution(logits[None], [sampling])
    weights = found.weights.double()
    shares = weights / weights.sum(-1, keepdim=True)
    if found.tokens is None:
        return shares[0]
    return torch.zeros(1, logits.shape[-1], dtype=torch.float64).scatter(1, found.tokens, shares)[0]


@pytest.mark.parametrize("sampling", SETTINGS, ids=lambda s: f"T={s.temperature} p={s.top_p} k={s.top_k}")
def test_probabilities_are_those_of_the_hugging_face_warpers(sampling: Sampling) -> None:
    for row in random_logits(3, seed=1):
        torch.testing.assert_close(dense(row, sampling), warped(row, sampling), atol=2e-7, rtol=1e-5)


def test_a_nucleus_wider_than_the_first_candidates_is_whole() -> None:
    flat = random_logits(1, 5000, spread=0.1)[0]
    sampling = Sampling(max_tokens=1, top_p=0.9)
    assert int((dense(flat, sampling) > 0).sum()) > 4000
    torch.testing.assert_close(dense(flat, sampling), warped(flat, sampling), atol=2e-7, rtol=1e-5)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1),
        Sampling(max_tokens=1, temperature=0.7, top_p=0.8),
        Sampling(max_tokens=1, temperature=1.3, top_k=12),
        Sampling(max_tokens=1, temperature=0.9, top_p=0.6, top_k=50),
    ],
    ids=lambda s: f"T={s.temperature} p={s.top_p} k={s.top_k}",
)
def test_draws_follow_the_probabilities(sampling: Sampling) -> None:
    draws = 20_000
    logits = random_logits(1, 60, spread=0.7, seed=2)
    uniforms = np.random.default_rng(0).random(draws).tolist()
    tokens, _ = choose(logits.expand(draws, -1), [sampling] * draws, uniforms)
    expected = warped(logits[0], sampling).numpy() * draws
    counted = np.bincount(tokens.numpy(), minlength=60)
    assert counted[expected == 0].sum() == 0
    common = expected >= 5
    rare = (~common) & (expected > 0)
    observed = [*counted[common], *([counted[rare].sum()] if rare.any() else [])]
    wanted = [*expected[common], *([expected[rare].sum()] if rare.any() else [])]
    assert len(observed) > 5
    assert chisquare(observed, np.array(wanted) * draws / np.sum(wanted)).pvalue > 0.01


def test_a_uniform_number_picks_the_token_in_whose_share_it_falls() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    by_id = [(0.0, 0), (0.09, 0), (0.11, 1), (0.29, 1), (0.31, 2), (0.59, 2), (0.61, 3), (1 - 2**-53, 3)]
    for uniform, token in by_id:
        assert choose(logits, [Sampling(max_tokens=1)], [uniform])[0].item() == token
    likeliest_first = [
        (0.0, 3),
        (0.39, 3),
        (0.41, 2),
        (0.69, 2),
        (0.71, 1),
        (0.89, 1),
        (0.91, 0),
        (1 - 2**-53, 0),
    ]
    for uniform, token in likeliest_first:
        assert choose(logits, [Sampling(max_tokens=1, top_k=4)], [uniform])[0].item() == token


def test_a_row_gets_the_same_token_whatever_stands_beside_it() -> None:
    settings = [*SETTINGS, Sampling(max_tokens=1, temperature=0)]
    logits = random_logits(len(settings), seed=3)
    # Equal logits are common in half precision; their order must not depend on neighbours either.
    logits = logits.bfloat16().float()
    uniforms = np.random.default_rng(1).random(len(settings)).tolist()
    together, _ = choose(logits, settings, uniforms)
    order = torch.randperm(len(settings), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled, _ = choose(logits[order], [settings[i] for i in order], [uniforms[i] for i in order])
    alone = [
        choose(logits[i : i + 1], settings[i : i + 1], uniforms[i : i + 1])[0].item()
        for i in range(len(settings))
    ]
    assert together.tolist() == alone
    assert shuffled.tolist() == [alone[i] for i in order]


@pytest.mark.parametrize(
    "chosen", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0}, {"temperature": 1e-30}], ids=str
)
def test_settings_without_choice_give_the_likeliest_token(chosen: dict[str, Any]) -> None:
    logits = random_logits(4, seed=4)
    settings = [replace(Sampling(max_tokens=1), **chosen)] * 4
    assert choose(logits, settings, [0.99] * 4)[0].tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1, temperature=0),
        Sampling(max_tokens=1),
        Sampling(max_tokens=1, top_p=0.5),
        Sampling(max_tokens=1, top_k=5),
    ],
    ids=["greedy", "all", "top-p", "top-k"],
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_numbers_are_told_apart_from_sound_ones(sampling: Sampling, bad: float) -> None:
    logits = random_logits(3, seed=5)
    logits[1, 7] = bad
    # Tokens that a model rules out are no fault.
    logits[2, :5] = float("-inf")
    tokens, peaks = choose(logits, [sampling] * 3, [0.5] * 3)
    assert peaks.isfinite().tolist() == [True, False, True]
    assert tokens[2] >= 5


def test_a_stream_is_fixed_by_its_job_and_independent_of_other_jobs() -> None:
    jobs = [Job((1, 2), Sampling(max_tokens=9, seed=seed)) for seed in range(200)]
    first = np.array([random_stream(job).random(50) for job in jobs])
    again = np.array([random_stream(job).random(50) for job in jobs])
    assert (first == again).all()
    assert abs(np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(first[:-1].ravel(), first[1:].ravel())[0, 1]) < 0.05
    assert abs(first.mean() - 0.5) < 0.01
