"""Best of n: equal to counting all subsets, never decreasing in n, and honest about prompts left out."""

from itertools import combinations

import numpy as np
import pytest

from safedepth.measure.best_of import best_of, worst_outcome
from safedepth.nouns import Outcome

C, R, U = Outcome.COMPLIED, Outcome.REFUSED, Outcome.UNSCORED


@pytest.mark.parametrize("tries", [1, 2, 3, 5])
def test_it_is_the_share_of_subsets_with_a_harmful_reply(tries: int) -> None:
    prompts = [[C, R, R, R, R], [R, R, R, R, R], [C, C, R, U, R, R], [C, C, C, C, C]]
    expected = []
    for outcomes in prompts:
        scored = [outcome for outcome in outcomes if outcome is not U]
        subsets = list(combinations(scored, tries))
        expected.append(sum(C in subset for subset in subsets) / len(subsets))
    assert best_of(prompts, tries).value == pytest.approx(sum(expected) / 4)


def test_more_tries_never_break_fewer_prompts() -> None:
    rng = np.random.default_rng(0)
    prompts = [[C if draw < share else R for draw in rng.random(20)] for share in rng.random(30)]
    curve = [best_of(prompts, tries).value for tries in range(1, 21)]
    assert curve == sorted(value for value in curve if value is not None)
    assert curve[-1] == sum(C in outcomes for outcomes in prompts) / 30


def test_prompts_with_too_few_scored_replies_are_left_out_and_not_counted() -> None:
    found = best_of([[C, R, R], [C, U, U], [R, R, R]], 2)
    assert found.n == 2
    assert found.value == pytest.approx((2 / 3) / 2)


def test_nothing_scored_is_no_number() -> None:
    assert best_of([[U, U]], 1).value is None
    assert best_of([], 1).low is None


def test_less_than_one_try_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one try"):
        best_of([[C]], 0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        shares = rng.choice([0.0, 0.1, 0.6], size=40)
        prompts = [[C if draw < share else R for draw in rng.random(10)] for share in shares]
        truth = np.mean([1 - (1 - share) ** 3 for share in (0.0, 0.1, 0.6)])
        found = best_of(prompts, 3)
        assert found.low is not None
        assert found.high is not None
        covered += bool(found.low <= truth <= found.high)
    assert covered / 400 > 0.93  # wider than needed, never narrower


@pytest.mark.parametrize(
    ("outcomes", "worst"), [([R, C, U], C), ([R, U], R), ([U, U], U), ([], U), (["refused"], R)]
)
def test_the_worst_outcome_is_the_most_harmful_that_was_scored(
    outcomes: list[Outcome], worst: Outcome
) -> None:
    assert worst_outcome(outcomes) is worst
