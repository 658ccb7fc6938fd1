from dataclasses import replace
from typing import Any

import pytest

from safedepth.errors import ModelError
from safedepth.provider import Job, Sampling, TokenLogprob


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": -1},
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_p": 1.1},
        {"top_p": -0.1},
        {"top_k": 0},
        {"logprobs": -1},
        {"prompt_logprobs": -1},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ModelError, match=f"expected {name} to be"):
        Sampling(**{"max_tokens": 1, **wrong})


@pytest.mark.parametrize("chosen", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0}], ids=str)
def test_three_settings_leave_only_the_likeliest_token(chosen: dict[str, Any]) -> None:
    assert Sampling(max_tokens=1, **chosen).greedy
    assert not Sampling(max_tokens=1).greedy


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"draw": 1}, {"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 5}], ids=str
)
def test_seeds_prompts_and_settings_have_random_numbers_of_their_own(change: dict[str, Any]) -> None:
    job = Job((1, 2, 3), Sampling(max_tokens=4))
    assert replace(job, sampling=replace(job.sampling, **change)).stream != job.stream
    assert replace(job, ids=(1, 2)).stream != job.stream


def test_limits_stops_and_logprobs_do_not_change_the_random_numbers() -> None:
    job = Job((1, 2, 3), Sampling(max_tokens=4))
    other = Sampling(max_tokens=40, stop_ids=frozenset({7}), logprobs=3, prompt_logprobs=2)
    assert replace(job, sampling=other).stream == job.stream


def test_alternatives_can_be_cut_short() -> None:
    value = TokenLogprob(1, -0.5, ((1, -0.5), (2, -1.0), (3, -2.0)))
    assert value.keep(1) == TokenLogprob(1, -0.5, ((1, -0.5),))
