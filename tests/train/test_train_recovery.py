"""Where refusals begin: the distribution of every policy against the formula it is documented with."""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from safedepth.errors import DataError
from safedepth.train.recovery import (
    RECOVERIES,
    AdaptiveRecovery,
    RecoveryPolicy,
    dynamic,
    points_of,
    refusal_only,
    uniform,
)

DRAWS = 6_000


def drawn(policy: RecoveryPolicy, length: int, draws: int = DRAWS) -> Counter[tuple[int, ...]]:
    """How often each set of points came out, every draw with a seed of its own, as in training."""
    return Counter(
        points_of(policy, random.Random(f"0 recovery {number}"), length) for number in range(draws)
    )


def assert_drawn_as(counts: Counter[tuple[int, ...]], expected: Mapping[tuple[int, ...], float]) -> None:
    """Points of probability 0 never come; the others pass a chi-square test at 0.1 % (seeds are fixed)."""
    possible = {points: p for points, p in expected.items() if p > 0}
    assert sum(possible.values()) == pytest.approx(1)
    assert counts.keys() <= possible.keys()
    total = counts.total()
    if len(possible) > 1:
        test = chisquare([counts[points] for points in possible], [p * total for p in possible.values()])
        assert test.pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize(("longest", "length"), [(100, 7), (5, 40), (1, 1), (100, 1)])
def test_uniform_begins_at_once_or_at_every_token_alike(
    probability: float, longest: int, length: int
) -> None:
    counts = drawn(uniform(probability=probability, longest=longest), length)
    deepest = min(longest, length)
    expected: dict[tuple[int, ...], float] = {
        (0,): 1 - probability,
        **{(k,): probability / deepest for k in range(1, deepest + 1)},
    }
    assert_drawn_as(counts, expected)


def test_uniform_by_default_is_the_papers_rule() -> None:
    counts = drawn(uniform(), 300)
    assert_drawn_as(counts, {(0,): 0.5, **{(k,): 0.005 for k in range(1, 101)}})


def test_the_control_never_has_a_harmful_prefix() -> None:
    assert drawn(refusal_only, 50, 100) == Counter({(0,): 100})


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("longest", "length", "most"), [(4, 30, 3), (100, 2, 9), (3, 3, 1)])
def test_dynamic_draws_every_number_of_points_and_every_set_of_that_number_alike(
    probability: float, longest: int, length: int, most: int
) -> None:
    counts = drawn(dynamic(probability=probability, longest=longest, most=most), length)
    places = range(min(longest, length) + 1)
    expected: Counter[tuple[int, ...]] = Counter()
    for wanted in range(1, most + 1):
        sets = [*combinations(places, min(wanted, len(places)))]
        for points in sets:
            expected[points] += probability / most / len(sets)  # type: ignore[assignment]
    expected[(0,)] += 1 - probability  # type: ignore[assignment]
    assert_drawn_as(counts, expected)


def adaptive_formula(
    recovered: list[float], longest: int, length: int, floor: float
) -> dict[tuple[int, ...], float]:
    """P(k) = e / N + (1 - e) (1 - q(k)) / sum_j (1 - q(j)), one point at a time."""
    count = min(longest, length) + 1
    chances: dict[tuple[int, ...], float] = {}
    for k in range(count):
        failing = 1 - recovered[k]
        total = sum(1 - recovered[j] for j in range(count))
        chances[(k,)] = floor / count + (1 - floor) * failing / total
    return chances


CURVE = [0.99, 0.6, 0.1, 0.05, 0.4, 0.7]


@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("longest", "length"), [(5, 30), (100, 5), (100, 3), (2, 9)])
def test_adaptive_draws_where_the_model_fails_to_turn_back(floor: float, longest: int, length: int) -> None:
    recovery = AdaptiveRecovery(longest=longest, floor=floor)
    recovery.learn(0, CURVE)
    counts = drawn(recovery.at(0), length)
    assert_drawn_as(counts, adaptive_formula(CURVE, longest, length, floor))


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    recovered=st.lists(st.floats(0, 0.999), min_size=1, max_size=9),
    floor=st.floats(0, 1),
    length=st.integers(0, 12),
)
def test_adaptive_never_falls_below_its_floor(recovered: list[float], floor: float, length: int) -> None:
    recovery = AdaptiveRecovery(longest=8, floor=floor)
    weights = recovery._weights(recovered, length)
    assert math.isclose(sum(weights), 1, rel_tol=1e-9)
    assert len(weights) == min(8, length) + 1
    assert min(weights) >= floor / len(weights) - 1e-12


def test_adaptive_takes_a_point_deeper_than_any_estimate_for_the_deepest_estimated() -> None:
    recovery = AdaptiveRecovery(longest=100, floor=0.0)
    recovery.learn(0, [1.0, 0.5, 0.8])
    expected = adaptive_formula([1.0, 0.5, 0.8, 0.8, 0.8], 100, 4, 0.0)
    assert_drawn_as(drawn(recovery.at(0), 4), expected)


@pytest.mark.parametrize("recovered", [None, [1.0, 1.0, 1.0]], ids=["no estimate", "turns back everywhere"])
def test_adaptive_without_anything_to_learn_from_draws_all_points_alike(
    recovered: list[float] | None,
) -> None:
    recovery = AdaptiveRecovery(longest=100)
    if recovered:
        recovery.learn(0, recovered)
    assert_drawn_as(drawn(recovery.at(7), 4), {(k,): 0.2 for k in range(5)})


def surely(k: int) -> list[float]:
    """An estimate by which the model turns back everywhere but at k."""
    return [float(j != k) for j in range(6)]


def test_an_estimate_is_in_force_from_its_step_on_and_the_ones_before_it_stay() -> None:
    recovery = AdaptiveRecovery(floor=0.0)
    for from_step, k in ((3, 1), (5, 2), (9, 3)):
        recovery.learn(from_step, surely(k))
    every = {(j,) for j in range(6)}
    in_force = {0: every, 2: every, 3: {(1,)}, 4: {(1,)}, 5: {(2,)}, 8: {(2,)}, 9: {(3,)}, 1000: {(3,)}}
    for step, points in in_force.items():
        assert drawn(recovery.at(step), 5, 500).keys() == points, step


def test_learning_again_from_a_step_forgets_what_was_learnt_for_later_ones() -> None:
    recovery = AdaptiveRecovery(floor=0.0)
    for from_step, k in ((0, 1), (4, 2), (8, 3)):
        recovery.learn(from_step, surely(k))
    recovery.learn(4, surely(5))
    assert [(step, q.index(0.0)) for step, q in recovery.estimates] == [(0, 1), (4, 5)]


def test_a_policy_restored_from_json_draws_what_the_saved_one_does() -> None:
    saved, restored = AdaptiveRecovery(longest=9), AdaptiveRecovery(longest=9)
    saved.learn(0, [0.1, 1 / 3, 0.7])
    saved.learn(5, [0.9, 2 / 3, 1e-17])
    restored.learn(0, [1.0])
    restored.restore(json.loads(json.dumps(saved.state())))
    for step in (0, 4, 5):
        assert drawn(restored.at(step), 7, 2000) == drawn(saved.at(step), 7, 2000)
    assert restored.state() == saved.state()


@pytest.mark.parametrize("recovered", [[], [0.5, 1.01], [-0.1], [math.nan], [math.inf]])
def test_an_estimate_that_is_no_probability_is_a_bug(recovered: list[float]) -> None:
    recovery = AdaptiveRecovery()
    with pytest.raises(ValueError, match="probabilities of recovery in"):
        recovery.learn(0, recovered)
    assert recovery.estimates == []


def test_a_users_function_may_return_one_point_or_several() -> None:
    rng = random.Random(0)
    assert points_of(lambda _rng, length: length // 2, rng, 9) == (4,)
    assert points_of(lambda _rng, length: [0, 3, length], rng, 9) == (0, 3, 9)
    assert points_of(lambda _rng, _length: range(2, 5), rng, 9) == (2, 3, 4)


@pytest.mark.parametrize("points", [(), (3, 3), (4, 2), -1, 10, (0, 10)])
def test_points_that_do_not_increase_within_the_answer_are_refused(points: int | tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"increasing points in 0\.\.9.*found \["):
        points_of(lambda _rng, _length: points, random.Random(0), 9)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_probability_outside_0_to_1_is_refused(probability: float) -> None:
    for make in (uniform, dynamic):
        with pytest.raises(DataError, match=r"probability in 0\.\.1, found"):
            make(probability=probability)
    with pytest.raises(DataError, match=r"probability in 0\.\.1, found"):
        AdaptiveRecovery(floor=probability)


def test_a_prefix_or_a_number_of_points_below_one_is_refused() -> None:
    for make in (uniform, dynamic, AdaptiveRecovery):
        with pytest.raises(DataError, match="at least one token, found 0"):
            make(longest=0)
    with pytest.raises(DataError, match="at least one recovery point an answer, found 0"):
        dynamic(most=0)


def test_every_policy_that_the_command_line_names_is_described() -> None:
    assert set(RECOVERIES) == {"uniform", "dynamic", "adaptive"}
    assert all(RECOVERIES.values())
