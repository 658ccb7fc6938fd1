from dataclasses import replace
from itertools import islice, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from provider_oracles import VOCABULARY, slow_choice, uniform, warped
from safedepth.provider import Job, Sampling
from safedepth.provider import sampling as sampling_module
from safedepth.provider.sampling import choose, distribution, random_keys

SETTINGS = [
    Sampling(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k)
    for temperature, top_p, top_k in product(
        (0.05, 0.6, 1.0, 2.5), (0.1, 0.6, 0.95, 1.0), (None, 2, 50, 5000)
    )
]


def random_logits(rows: int, vocabulary: int = 1000, *, spread: float = 3.0, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def some_keys(count: int) -> list[int]:
    return [int(key) for key in np.random.default_rng(0).integers(-(2**63), 2**63 - 1, count)]


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
    logits = random_logits(1, VOCABULARY, spread=0.7, seed=2)
    tokens, _ = choose(logits.expand(draws, -1), [sampling] * draws, some_keys(draws))
    expected = warped(logits[0], sampling).numpy() * draws
    counted = np.bincount(tokens.numpy(), minlength=VOCABULARY)
    assert counted[expected == 0].sum() == 0
    common = expected >= 5
    rare = (~common) & (expected > 0)
    observed = [*counted[common], *([counted[rare].sum()] if rare.any() else [])]
    wanted = [*expected[common], *([expected[rare].sum()] if rare.any() else [])]
    assert len(observed) > 5
    assert chisquare(observed, np.array(wanted) * draws / np.sum(wanted)).pvalue > 0.001


@pytest.mark.parametrize("sampling", SETTINGS, ids=lambda s: f"T={s.temperature} p={s.top_p} k={s.top_k}")
def test_tokens_are_those_of_the_race_in_plain_python(sampling: Sampling) -> None:
    logits = random_logits(8, 300, seed=6)
    keys = some_keys(8)
    whole = sampling.top_k is None and sampling.top_p == 1
    tokens, _ = choose(logits, [sampling] * 8, keys)
    for row, key, token in zip(logits, keys, tokens.tolist(), strict=True):
        assert token == slow_choice(warped(row, sampling), key, whole=whole)


def test_luck_is_the_published_output_of_splitmix64() -> None:
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    names = torch.arange(1, 5)[None]
    found = sampling_module._uniforms(names, torch.tensor([1234567]))[0].tolist()
    assert found == [((word >> 11) + 0.5) / 2**53 for word in published]
    for key in (-(2**63), -1, 0, 2**63 - 1):
        ours = sampling_module._uniforms(names, torch.tensor([key]))[0].tolist()
        assert ours == [uniform(key, name) for name in range(1, 5)]


def test_small_changes_of_the_logits_change_few_tokens() -> None:
    """What rounding to half precision does: the share that changes is near that of a greedy choice."""
    rows = 4000
    logits = random_logits(1, 2000, spread=2.0, seed=8).expand(rows, -1)
    noise = 1 + 2e-3 * torch.randn(rows, 2000, generator=torch.Generator().manual_seed(9))
    for sampling in (Sampling(max_tokens=1), Sampling(max_tokens=1, temperature=0.9, top_k=50)):
        pair = [choose(x, [sampling] * rows, some_keys(rows))[0] for x in (logits, logits * noise)]
        assert float((pair[0] != pair[1]).double().mean()) < 0.03


def test_a_row_gets_the_same_token_whatever_stands_beside_it() -> None:
    settings = [*SETTINGS, Sampling(max_tokens=1, temperature=0)]
    logits = random_logits(len(settings), seed=3)
    # Equal logits are common in half precision; their order must not depend on neighbours either.
    logits = logits.bfloat16().float()
    keys = some_keys(len(settings))
    together, _ = choose(logits, settings, keys)
    order = torch.randperm(len(settings), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled, _ = choose(logits[order], [settings[i] for i in order], [keys[i] for i in order])
    alone = [
        choose(logits[i : i + 1], settings[i : i + 1], keys[i : i + 1])[0].item()
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
    assert choose(logits, settings, some_keys(4))[0].tolist() == logits.argmax(-1).tolist()


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
    tokens, peaks = choose(logits, [sampling] * 3, some_keys(3))
    assert peaks.isfinite().tolist() == [True, False, True]
    assert tokens[2] >= 5


def test_keys_are_fixed_by_their_job_and_independent_of_other_jobs() -> None:
    jobs = [Job((1, 2), Sampling(max_tokens=9, seed=seed)) for seed in range(200)]
    keys = [[list(islice(random_keys(job), 50)) for job in jobs] for _ in range(2)]
    first, again = np.array(keys, dtype=np.float64) / 2**64
    assert (first == again).all()
    assert len(np.unique(first)) == first.size
    assert abs(np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(first[:-1].ravel(), first[1:].ravel())[0, 1]) < 0.05
    assert abs(first.mean()) < 0.01
