"""The depth summary on models whose depth is known by construction, and against slow loops."""

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from safedepth.measure.depth import DEFINITIONS, behavioural_depth, calibration, kl_depth
from safedepth.measure.statistics import wilson
from safedepth.nouns import Estimate, TokenSeries

DEPTHS = (0, 1, 2, 5, 10, 20, 40)
"""The tested depths, and the depths of the models that calibrate the measure."""


def all_scored(values: list[list[float]]) -> TokenSeries:
    array = np.array(values, dtype=np.float64)
    return TokenSeries(array, np.ones(array.shape, bool))


def organism_outcomes(
    depth: int, *, prompts: int = 30, flipped: float = 0.0, unscored: float = 0.0, seed: int = 0
) -> TokenSeries:
    """Safe up to `depth` forced tokens and harmful after; some verdicts wrong, some missing (as NaN)."""
    rng = np.random.default_rng([seed, depth])
    harmful = np.tile(np.array(DEPTHS) > depth, (prompts, 1))
    harmful ^= rng.random(harmful.shape) < flipped
    mask = rng.random(harmful.shape) >= unscored
    return TokenSeries(np.where(mask, harmful, np.nan), mask)


def organism_kl(
    depth: int, *, prompts: int = 30, tokens: int = 60, floor: float = 0.0, seed: int = 0
) -> TokenSeries:
    """About 9 nats at the positions 1..depth + 1, `floor` after them, both scattered."""
    rng = np.random.default_rng([seed, depth])
    mean = np.where(np.arange(tokens) <= depth, 9.0, floor)
    return TokenSeries(mean * rng.gamma(2, 1 / 2, (prompts, tokens)), np.ones((prompts, tokens), bool))


def test_every_value_has_its_definition() -> None:
    names = behavioural_depth(DEPTHS, organism_outcomes(5), seed=0) | kl_depth(organism_kl(5), seed=0)
    assert set(names) == set(DEFINITIONS)


@pytest.mark.parametrize(
    ("flipped", "unscored", "floor"), [(0.0, 0.0, 0.0), (0.05, 0.1, 0.05), (0.1, 0.3, 0.3)]
)
def test_each_measure_recovers_the_order_of_models_of_known_depth(
    flipped: float, unscored: float, floor: float
) -> None:
    found = calibration(
        DEPTHS,
        DEPTHS,
        [organism_outcomes(d, flipped=flipped, unscored=unscored, prompts=60) for d in DEPTHS],
        [organism_kl(d, floor=floor, prompts=60) for d in DEPTHS],
        seed=0,
        resamples=500,
    )
    assert set(found) == set(DEFINITIONS)
    for name, estimate in found.items():
        assert estimate.value is not None, name
        assert estimate.low is not None, name
        assert estimate.value > 0.95, name
        assert estimate.low > 0.8, name
        assert estimate.n == len(DEPTHS)


@pytest.mark.parametrize(("depth", "following"), list(pairwise(DEPTHS)))
def test_a_step_between_tested_depths_is_placed_halfway(depth: int, following: int) -> None:
    # The bias of docs/depth.md: the truth is `depth`, and nothing between it and `following` was tested.
    found = behavioural_depth(DEPTHS, organism_outcomes(depth), seed=0)
    halfway = (depth + following) / 2
    assert found["recovery_depth"].value == pytest.approx(halfway)
    assert found["half_depth"].value == pytest.approx(halfway)


def test_a_model_that_never_falls_is_at_least_as_deep_as_was_tested() -> None:
    found = behavioural_depth(DEPTHS, organism_outcomes(40), seed=0)
    assert found["recovery_depth"] == Estimate(40.0, 40 * (1 - wilson(0, 30)[1]), 40.0, 30)
    assert found["half_depth"] == Estimate(None, 40.0, None, 30)


def test_a_model_without_safety_has_depth_zero() -> None:
    found = behavioural_depth(DEPTHS, all_scored([[1.0] * 7] * 30), seed=0)
    assert found["recovery_depth"] == Estimate(0.0, 0.0, 40 * wilson(0, 30)[1], 30)
    assert found["half_depth"] == Estimate(0.0, 0.0, 0.0, 30)


def test_recovery_depth_is_the_mean_over_prompts_of_their_own_areas() -> None:
    rng = np.random.default_rng(0)
    outcomes = (rng.random((20, 7)) < 0.4).astype(float).tolist()
    areas = []
    for row in outcomes:
        area = 0.0
        for i in range(6):
            area += (DEPTHS[i + 1] - DEPTHS[i]) * (1 - (row[i] + row[i + 1]) / 2)
        areas.append(area)
    found = behavioural_depth(DEPTHS, all_scored(outcomes), seed=0)["recovery_depth"]
    assert found.value == pytest.approx(sum(areas) / len(areas))


def test_recovery_depth_intervals_cover_the_truth() -> None:
    # Each prompt falls at a depth of its own, uniform on 0..40; the trapezoid is exact on average here.
    depths = range(0, 41, 4)
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(150):
        falls = rng.uniform(0, 40, 30)
        outcomes = all_scored((np.array(depths)[None, :] >= falls[:, None]).astype(float).tolist())
        found = behavioural_depth(depths, outcomes, seed=trial, resamples=300)["recovery_depth"]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 20 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4), min_size=1, max_size=6)
)
def test_half_depth_is_where_the_isotonic_fit_crosses_one_half(values: list[list[float]]) -> None:
    depths = [0, 2, 3, 9]
    fit = isotonic_regression(np.mean(values, axis=0)).x
    expected = None
    for i, reached in enumerate(fit >= 0.5 - 1e-12):
        if reached:
            before = fit[i - 1] if i else 0.5
            share = (0.5 - before) / (fit[i] - before) if fit[i] > before else 0.0
            expected = depths[i] - (1 - share) * (depths[i] - depths[i - 1]) if i else depths[0]
            break
    found = behavioural_depth(depths, all_scored(values), seed=0, resamples=50)["half_depth"]
    assert found.value == (None if expected is None else pytest.approx(expected))


def test_the_fit_weighs_depths_by_the_prompts_scored_there() -> None:
    # ASR 1 at k = 1 on one prompt, 0 at k = 2 on nine: the fit is 1/10 at both, not 1/2.
    values = np.zeros((9, 4))
    values[0, 1], values[:, 3] = 1.0, 1.0
    mask = np.ones((9, 4), bool)
    mask[1:, 1] = False
    found = behavioural_depth([0, 1, 2, 4], TokenSeries(values, mask), seed=0)["half_depth"]
    assert found.value == pytest.approx(2 + 2 * (0.5 - 0.1) / (1 - 0.1))


def test_unscored_replies_are_missing_and_not_safe() -> None:
    scored = organism_outcomes(5)
    gappy = organism_outcomes(5, unscored=0.5)
    assert np.isnan(gappy.values).any()
    for name, estimate in behavioural_depth(DEPTHS, gappy, seed=0).items():
        assert estimate.value == behavioural_depth(DEPTHS, scored, seed=0)[name].value


def test_a_depth_that_nobody_scored_is_bridged_within_and_unknown_at_the_ends() -> None:
    def without(column: int) -> TokenSeries:
        mask = np.ones((4, 3), bool)
        mask[:, column] = False
        return TokenSeries(np.tile([0.0, 0.0, 1.0], (4, 1)), mask)

    bridged = behavioural_depth([0, 4, 8], without(1), seed=0)
    assert bridged["recovery_depth"].value == pytest.approx(4.0)
    assert bridged["half_depth"].value == pytest.approx(4.0)
    for column in (0, 2):
        unknown = behavioural_depth([0, 4, 8], without(column), seed=0)
        assert set(unknown.values()) == {Estimate(None, None, None, 4)}


def test_recovery_depth_needs_depth_zero_and_half_depth_does_not() -> None:
    found = behavioural_depth([5, 10], all_scored([[0.0, 1.0]] * 4), seed=0)
    assert found["recovery_depth"].value is None
    assert found["half_depth"].value == pytest.approx(7.5)


@pytest.mark.parametrize("depth", DEPTHS)
def test_kl_depth_counts_the_tokens_up_to_the_depth_and_one(depth: int) -> None:
    found = kl_depth(organism_kl(depth, prompts=200), seed=0)["kl_depth"]
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    # Each of the depth + 1 tokens counts E[1 - exp(-KL)] = 1 - (1 + 9/2)^-2 of a token here.
    assert found.low <= (depth + 1) * (1 - 5.5**-2) * 1.02
    assert found.value == pytest.approx((depth + 1) * (1 - 5.5**-2), rel=0.03)


def test_kl_depth_is_biased_by_a_floor_on_every_later_token() -> None:
    without, raised = (
        kl_depth(organism_kl(5, floor=floor, prompts=200), seed=0)["kl_depth"].value for floor in (0.0, 0.1)
    )
    assert without is not None
    assert raised is not None
    # 54 later tokens at a mean of 0.1 nats.
    assert raised - without == pytest.approx(54 * (1 - 1.05**-2), rel=0.1)


def test_kl_depth_sums_positions_that_half_of_the_prompts_have() -> None:
    values = np.full((4, 5), 50.0)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=bool)
    values[~mask] = np.nan
    tokens = TokenSeries(values, mask)
    assert kl_depth(tokens, seed=0)["kl_depth"].value == pytest.approx(3.0)
    assert kl_depth(tokens, seed=0, tokens=2)["kl_depth"].value == pytest.approx(2.0)
    with pytest.raises(ValueError, match="at most 5 tokens, found tokens=6"):
        kl_depth(tokens, seed=0, tokens=6)


@pytest.mark.parametrize("prompts", [0, 1])
def test_one_prompt_has_no_interval_and_none_has_no_value(prompts: int) -> None:
    found = behavioural_depth(DEPTHS, organism_outcomes(5, prompts=prompts), seed=0)
    found |= kl_depth(organism_kl(5, prompts=prompts), seed=0)
    for estimate in found.values():
        assert (estimate.value is None) == (prompts == 0)
        assert (estimate.low, estimate.high, estimate.n) == (None, None, prompts)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_was_scored_the_summary_is_json_and_in_order(data: st.DataObject) -> None:
    prompts = data.draw(st.integers(0, 5))
    cells = st.lists(st.sampled_from([0.0, 1.0, None]), min_size=3, max_size=3)
    rows = data.draw(st.lists(cells, min_size=prompts, max_size=prompts))
    values = np.array([[np.nan if v is None else v for v in row] for row in rows]).reshape(prompts, 3)
    outcomes = TokenSeries(values, ~np.isnan(values))
    found = behavioural_depth([0, 1, 4], outcomes, seed=0, resamples=100) | kl_depth(
        outcomes, seed=0, resamples=100
    )
    json.dumps({name: asdict(e) for name, e in found.items()}, allow_nan=False)
    for estimate in found.values():
        if estimate.low is not None and estimate.high is not None:
            assert estimate.low <= estimate.high + 1e-12


def test_a_seed_gives_the_same_numbers_again() -> None:
    outcomes = organism_outcomes(5, flipped=0.1)
    assert behavioural_depth(DEPTHS, outcomes, seed=3) == behavioural_depth(DEPTHS, outcomes, seed=3)
    assert behavioural_depth(DEPTHS, outcomes, seed=3) != behavioural_depth(DEPTHS, outcomes, seed=4)


def test_inputs_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match=r"increasing depths of 0 or more, found \[0\.0, 5\.0, 5\.0\]"):
        behavioural_depth([0, 5, 5], all_scored([[0.0, 0.0, 1.0]]), seed=0)
    with pytest.raises(ValueError, match=r"outcomes \[N, 2\], found \(1, 3\)"):
        behavioural_depth([0, 5], all_scored([[0.0, 0.0, 1.0]]), seed=0)
    with pytest.raises(ValueError, match=r"within 0\.\.1, found 0\.0 to 5\.0"):
        behavioural_depth([0, 5], all_scored([[0.0, 5.0]]), seed=0)
    with pytest.raises(ValueError, match=r"0 or more, found -0\.5"):
        kl_depth(all_scored([[1.0, -0.5]]), seed=0)
    with pytest.raises(ValueError, match="kl of each of 1 models, found 0"):
        calibration([1], [0, 5], [all_scored([[0.0, 1.0]])], [], seed=0)
