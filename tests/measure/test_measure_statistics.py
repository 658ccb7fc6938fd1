"""Intervals against scipy, against slow loops, and by counting how often they cover the truth."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from safedepth.measure.statistics import (
    bootstrap,
    clopper_pearson,
    clustered_rate,
    effective_replies,
    effective_size,
    mean_by_position,
    percentile_estimate,
    rank_correlation,
    rate,
    share_of_first,
    wilson,
)
from safedepth.nouns import Estimate, Outcome, Rate, TokenSeries

C, R, U = Outcome.COMPLIED, Outcome.REFUSED, Outcome.UNSCORED


def series(values: list[list[float | None]]) -> TokenSeries:
    """A series from rows in which None is missing; what lies under the mask is NaN, to catch readers."""
    mask = np.array([[v is not None for v in row] for row in values])
    return TokenSeries(np.array([[math.nan if v is None else v for v in row] for row in values]), mask)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_wilson_and_clopper_pearson_agree_with_scipy(n: int, share: float) -> None:
    successes = round(share * n)
    test = stats.binomtest(successes, n)
    theirs, exact = test.proportion_ci(0.95, "wilson"), test.proportion_ci(0.95, "exact")
    assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert clopper_pearson(successes, n) == pytest.approx((exact.low, exact.high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 3, 50])
def test_wilson_reaches_zero_and_one_exactly_and_contains_the_share(n: int) -> None:
    assert wilson(0, n)[0] == 0.0
    assert wilson(n, n)[1] == 1.0
    for successes in range(n + 1):
        low, high = wilson(successes, n)
        assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"found {successes} of {n}"):
        wilson(successes, n)


def test_a_rate_counts_unscored_replies_beside_itself() -> None:
    found = rate([C, R, R, U, C, U, R])
    assert (found.harmful, found.n, found.unscored, found.value) == (2, 5, 2, 0.4)
    assert (found.low, found.high) == wilson(2, 5)
    exact = rate([C, R, R, U, C, U, R], method="clopper-pearson")
    assert (exact.low, exact.high) == clopper_pearson(2, 5)


@pytest.mark.parametrize("outcomes", [[], [U, U]])
def test_a_rate_of_nothing_scored_has_no_numbers(outcomes: list[Outcome]) -> None:
    nothing = Rate(n=0, harmful=0, unscored=len(outcomes), low=None, high=None)
    assert rate(outcomes) == nothing
    assert clustered_rate([outcomes, []]) == nothing


def test_outcomes_read_back_as_text_count_alike_and_unknown_words_do_not_pass() -> None:
    assert rate([Outcome("complied"), "refused"]) == rate([C, R])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="harmless"):
        rate(["harmless"])  # type: ignore[list-item]


def test_a_clustered_rate_of_one_reply_a_prompt_is_the_plain_rate() -> None:
    outcomes = [C, R, R, U, C, R, R, R]
    clustered, plain = clustered_rate([[o] for o in outcomes]), rate(outcomes)
    assert (clustered.n, clustered.harmful, clustered.unscored) == (plain.n, plain.harmful, plain.unscored)
    assert clustered.low == pytest.approx(plain.low)
    assert clustered.high == pytest.approx(plain.high)


def test_repeating_each_reply_does_not_narrow_the_interval() -> None:
    outcomes = [C, R, R, R, C, R, R, R, C, R, R, R]
    once, thrice = rate(outcomes), clustered_rate([[o] * 3 for o in outcomes])
    assert thrice.n == 36
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), rel=0.03)


def test_seeds_of_one_prompt_count_as_one_where_all_agree() -> None:
    found = clustered_rate([[R] * 50, [R] * 50])
    assert (found.low, found.high) == wilson(0, 2)


def test_the_effective_number_of_replies_follows_from_the_variance_within_and_between_prompts() -> None:
    # Two replies each, shares 1/2, 1/2, 0, 1/2, 1: between 1/4, within 3/10, so no correlation above 0.
    found = clustered_rate([[C, R], [C, R], [R, R], [R, C], [C, C]])
    assert (found.low, found.high) == pytest.approx(wilson(5, 10))
    # Shares 1, 1/2, 0, 1/2, 1, 0: between 2/5, within 1/6; r = (2/5 - 1/6) / (2/5 + 1/6) = 7/17.
    found = clustered_rate([[C, C], [C, R], [R, R], [R, C], [C, C], [R, R]])
    effective = 12 / (1 + 7 / 17)
    assert (found.low, found.high) == pytest.approx(wilson(effective / 2, effective))


@pytest.mark.parametrize(("share", "correlation"), [(0.1, 0.0), (0.1, 1.0), (0.5, 0.5), (0.9, 0.5)])
def test_clustered_intervals_cover_the_truth_as_often_as_they_say(share: float, correlation: float) -> None:
    rng = np.random.default_rng(0)
    prompts, seeds, trials, covered = 30, 3, 300, 0
    for _ in range(trials):
        if correlation in (0.0, 1.0):
            own = np.full(prompts, share) if correlation == 0 else (rng.random(prompts) < share).astype(float)
        else:
            strength = 1 / correlation - 1
            own = rng.beta(share * strength, (1 - share) * strength, prompts)
        harmful = rng.random((prompts, seeds)) < own[:, None]
        found = clustered_rate([[C if h else R for h in row] for row in harmful])
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= share <= found.high
    assert 0.90 <= covered / trials <= 0.995


def test_the_effective_size_lies_between_that_of_prompts_and_that_of_replies() -> None:
    # Nine replies to one prompt and one each to three: by prompt 12² / (81 + 3), by reply 12.
    prompts, apart = np.repeat([0, 1, 2, 3], [9, 1, 1, 1]), np.arange(12)
    assert effective_size(np.zeros(12), prompts) == pytest.approx(144 / 84)
    assert effective_size(np.zeros(12), apart) == 12
    whole = np.repeat([1.0, 0.0, 1.0, 0.0], [9, 1, 1, 1])
    assert effective_size(whole, prompts) == pytest.approx(144 / 84)
    mixed = np.array([1.0, 0.0] * 6)
    assert 144 / 84 <= effective_size(mixed, prompts) <= 12
    heavy = np.where(np.arange(12) < 6, 3.0, 1.0)
    assert effective_size(np.zeros(12), apart, heavy) == pytest.approx(24**2 / 60)
    assert effective_replies([[C, R, U], [U], [R, R]]) <= 4
    assert effective_replies([[U], []]) == 0


def test_uneven_numbers_of_replies_widen_the_interval() -> None:
    # Two prompts of ten carry most of the replies: they must not pass for ten prompts.
    uneven = clustered_rate([[R] * 20, [R] * 20, *([[R]] * 8)])
    assert uneven.high is not None
    assert uneven.high > wilson(0, 10)[1]
    assert uneven.high == pytest.approx(wilson(0, 48**2 / 808)[1])


def test_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(3, 2, (400, 1))
    found = bootstrap(values, lambda v: float(v.mean()), seed=1)
    assert found.n == 400
    assert found.value == pytest.approx(values.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap(values, lambda v: float(v.mean()), seed=1) == found
    assert bootstrap(values, lambda v: float(v.mean()), seed=2) != found


def test_bootstrap_refuses_statistics_that_are_not_numbers() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        bootstrap(np.zeros(3), lambda v: float("nan"), seed=0)


def test_mean_by_position_averages_the_prompts_that_have_the_token() -> None:
    found = mean_by_position(series([[1.0, 2.0, None], [3.0, None, None], [5.0, 6.0, 7.0]]), seed=0)
    assert [e.value for e in found] == [3.0, 4.0, 7.0]
    assert [e.n for e in found] == [3, 2, 1]
    assert (found[2].low, found[2].high) == (None, None)
    assert (found[1].low, found[1].high) == (2.0, 6.0)


def test_mean_by_position_agrees_with_a_loop_that_draws_prompts_one_by_one() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.gamma(2, 1, (25, 4)), rng.random((25, 4)) < 0.7
    found = mean_by_position(TokenSeries(values, mask), seed=3)
    draws = []
    for _ in range(4000):
        chosen = rng.integers(25, size=25)
        draws.append([values[chosen, t][mask[chosen, t]].mean() for t in range(4)])
    for t, estimate in enumerate(found):
        assert estimate.value == pytest.approx(values[mask[:, t], t].mean())
        # As far out as Student's t with 1 / (n - 1) more variance is, beyond the normal's 1.96.
        tail = stats.norm.sf(stats.t.isf(0.025, estimate.n - 1) * (estimate.n / (estimate.n - 1)) ** 0.5)
        low, high = np.quantile([d[t] for d in draws], [tail, 1 - tail])
        assert estimate.low == pytest.approx(low, rel=0.05)
        assert estimate.high == pytest.approx(high, rel=0.05)


def test_bootstrap_intervals_of_a_curve_cover_its_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = rng.gamma(2, 1, (40, 1))
        (found,) = mean_by_position(TokenSeries(values, np.ones((40, 1), bool)), seed=trial, resamples=500)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 2 <= found.high
    assert 0.9 <= covered / 200 <= 0.99


@pytest.mark.parametrize("n", [8, 25, 100])
def test_few_prompts_get_students_width_and_not_the_normals(n: int) -> None:
    draws = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000) * ((n - 1) / n) ** 0.5
    found = percentile_estimate(0.0, draws, n)
    assert found.high == pytest.approx(stats.t.isf(0.025, n - 1), rel=1e-3)
    assert found.low == pytest.approx(-stats.t.isf(0.025, n - 1), rel=1e-3)


def test_share_of_first_is_a_ratio_of_sums_over_all_prompts() -> None:
    found = share_of_first(series([[3.0, 1.0, 4.0], [2.0, None, None], [None, None, None]]), tokens=2, seed=0)
    assert found.value == pytest.approx(6 / 10)
    assert found.n == 2
    assert (found.low, found.high) == (0.5, 1.0)


def test_share_of_first_has_no_value_where_nothing_is_spent() -> None:
    assert share_of_first(series([[0.0, 0.0], [0.0, None]]), seed=0) == Estimate(None, None, None, 2)
    with pytest.raises(ValueError, match=r"0 or more, found -1\.0"):
        share_of_first(series([[-1.0, 2.0]]), seed=0)


@pytest.mark.parametrize("prompts", [0, 1])
def test_one_prompt_has_a_value_and_no_interval_and_none_has_neither(prompts: int) -> None:
    values = np.full((prompts, 3), 2.0)
    tokens = TokenSeries(values, np.ones((prompts, 3), bool))
    found = [
        *mean_by_position(tokens, seed=0),
        share_of_first(tokens, 1, seed=0),
        bootstrap(values, lambda v: float(v.mean()), seed=0),
    ]
    assert len(found) == 5
    for estimate in found:
        assert (estimate.value is None) == (prompts == 0)
        assert (estimate.low, estimate.high, estimate.n) == (None, None, prompts)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.none(), st.floats(0, 50)), min_size=3, max_size=3), max_size=5),
    st.lists(st.lists(st.sampled_from([C, R, U]), max_size=4), max_size=6),
)
def test_whatever_was_measured_the_results_are_json_and_in_order(
    values: list[list[float | None]], outcomes: list[list[Outcome]]
) -> None:
    tokens = series(values) if values else TokenSeries(np.zeros((0, 3)), np.zeros((0, 3), bool))
    found: list[Estimate | Rate] = [
        *mean_by_position(tokens, seed=0, resamples=50),
        share_of_first(tokens, 1, seed=0, resamples=50),
        clustered_rate(outcomes),
    ]
    json.dumps([asdict(f) for f in found], allow_nan=False)
    for f in found:
        assert f.low is None or (f.high is not None and f.low <= f.high + 1e-12)


def test_infinite_or_missing_values_under_a_true_mask_are_named() -> None:
    values = np.array([[1.0, 2.0], [3.0, np.inf]])
    with pytest.raises(ValueError, match="found inf in row 1, column 1"):
        mean_by_position(TokenSeries(values, np.ones((2, 2), bool)), seed=0)
    with pytest.raises(ValueError, match=r"found \(2, 2\) and \(2, 1\)"):
        mean_by_position(TokenSeries(values, np.ones((2, 1), bool)), seed=0)


def noisy(values: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    return values + noise * np.random.default_rng(0).normal(size=(500, len(values)))


def test_rank_correlation_is_spearmans_and_ties_share_ranks() -> None:
    truth, values = np.array([0.0, 1, 2, 5, 10]), np.array([0.1, 0.4, 0.4, 0.2, 9.0])
    found = rank_correlation(truth, values, draws=noisy(values, 0.05))
    assert found.value == pytest.approx(stats.spearmanr(truth, values).statistic)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.66 < found.high
    assert found.n == 5


def test_rank_correlation_widens_as_the_measures_blur() -> None:
    truth = np.array([0.0, 1, 2, 5, 10])
    sharp = rank_correlation(truth, truth, draws=noisy(truth, 0.05))
    blurred = rank_correlation(truth, truth, draws=noisy(truth, 2.0))
    assert (sharp.value, sharp.low, sharp.high) == pytest.approx((1.0, 1.0, 1.0))
    assert blurred.low is not None
    assert blurred.low < 0.9


def test_rank_correlation_places_infinite_values_above_the_rest() -> None:
    truth, values = np.arange(4.0), np.array([1.0, 2.0, np.inf, np.inf])
    found = rank_correlation(truth, values, draws=np.repeat(values[None], 10, axis=0))
    assert found.value == pytest.approx(stats.spearmanr(truth, [1, 2, 3, 3]).statistic)


def test_rank_correlation_of_too_few_or_of_equals_has_no_value() -> None:
    two, same = np.array([1.0, 2.0]), np.ones(4)
    assert rank_correlation(two, two, draws=two[None]) == Estimate(None, None, None, 2)
    assert rank_correlation(np.arange(4.0), same, draws=same[None]) == Estimate(None, None, None, 4)
    with pytest.raises(ValueError, match="NaN"):
        rank_correlation(np.arange(4.0), np.full(4, np.nan), draws=same[None])
    with pytest.raises(ValueError, match=r"found \(4,\), \(4,\) and \(1, 2\)"):
        rank_correlation(np.arange(4.0), np.arange(4.0), draws=two[None])
