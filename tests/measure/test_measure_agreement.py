"""Counts and shares by hand, kappa against its formulas, and how often the intervals cover."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.measure.agreement import confusion
from safedepth.measure.statistics import clustered_rate, wilson
from safedepth.nouns import Estimate, Outcome

C, R, U = Outcome.COMPLIED, Outcome.REFUSED, Outcome.UNSCORED
OUTCOMES = st.sampled_from([C, R, U])


def table(tp: int, fp: int, fn: int, tn: int) -> tuple[list[Outcome], list[Outcome]]:
    """Judged and true outcomes with these counts."""
    judged = [C] * (tp + fp) + [R] * (fn + tn)
    truth = [C] * tp + [R] * fp + [C] * fn + [R] * tn
    return judged, truth


def test_the_four_counts_give_the_shares_by_hand() -> None:
    found = confusion(*table(8, 2, 4, 6))
    assert (found.tp, found.fp, found.fn, found.tn, found.unscored, found.n) == (8, 2, 4, 6, 0, 20)
    for share, hits, n in (
        (found.prevalence, 12, 20),
        (found.precision, 8, 10), (found.recall, 8, 12), (found.specificity, 6, 8), (found.accuracy, 14, 20)
    ):  # fmt: skip
        assert share.value == pytest.approx(hits / n)
        assert (share.low, share.high, share.n) == (*(pytest.approx(end) for end in wilson(hits, n)), n)
    assert (found.harmful_size, found.harmless_size) == (12, 8)
    # Agreement 14/20; by chance (10 * 12 + 10 * 8) / 400.
    assert found.kappa.value == pytest.approx((14 / 20 - 0.5) / 0.5)


def test_an_unscored_reply_on_either_side_is_counted_and_enters_nothing_else() -> None:
    judged, truth = table(3, 1, 1, 3)
    plain, more = confusion(judged, truth), confusion([*judged, U, C, U], [*truth, C, U, U])
    assert more.unscored == 3
    assert asdict(more) | {"unscored": 0} == asdict(plain)


def test_what_no_reply_can_tell_is_none_and_not_zero() -> None:
    none = Estimate(None, None, None, 0)
    nothing = confusion([], [])
    assert (nothing.precision, nothing.recall, nothing.kappa) == (none, none, none)
    harmless = confusion([R] * 9, [R] * 9)
    assert (harmless.precision, harmless.recall) == (none, none)
    assert harmless.specificity.value == 1
    assert harmless.kappa == Estimate(None, None, None, 9)
    missed = confusion([R, R], [C, R])
    assert missed.precision == none
    assert missed.recall.value == 0
    assert missed.kappa.value == 0


def test_kappa_and_the_width_of_its_interval_agree_with_the_delta_method() -> None:
    # Fleiss, Cohen and Everitt's standard error, written out for two categories.
    cells = np.array([[1180, 220], [190, 910]])
    shares = cells / cells.sum()
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    agreed, by_chance = np.trace(shares), rows @ columns
    kappa = (agreed - by_chance) / (1 - by_chance)
    first = sum(shares[i, i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in range(2))
    second = (1 - kappa) ** 2 * sum(
        shares[i, j] * (columns[i] + rows[j]) ** 2 for i in range(2) for j in range(2) if i != j
    )
    third = (kappa - by_chance * (1 - kappa)) ** 2
    error = ((first + second - third) / cells.sum()) ** 0.5 / (1 - by_chance)
    found = confusion(*table(1180, 220, 190, 910)).kappa
    assert found.value == pytest.approx(kappa)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error, rel=0.01)


def test_perfect_agreement_has_a_width_that_shrinks_with_the_sample() -> None:
    few, many = (confusion(*table(n, 0, 0, n)).kappa for n in (6, 60))
    assert (few.value, few.high, many.value, many.high) == (1, 1, 1, 1)
    assert few.low is not None
    assert many.low is not None
    assert few.low < 0.6 < 0.9 < many.low < 1


def test_replies_to_one_prompt_do_not_pass_for_as_many_prompts() -> None:
    judged, truth = table(6, 2, 3, 9)
    once = confusion(judged, truth)
    thrice = confusion(judged * 3, truth * 3, clusters=list(range(20)) * 3)
    apart = confusion(judged * 3, truth * 3)
    for name in ("precision", "recall", "specificity", "accuracy", "kappa"):
        one, same, other = (getattr(found, name) for found in (once, thrice, apart))
        assert same.value == pytest.approx(one.value)
        assert same.high - same.low == pytest.approx(one.high - one.low, rel=0.1)
        assert other.high - other.low < 0.75 * (same.high - same.low)
    assert thrice.n == 60


def test_clusters_give_the_interval_of_a_clustered_rate() -> None:
    by_prompt = [[C, R], [C, C], [R, R], [C, R, R], [R]]
    judged = [outcome for outcomes in by_prompt for outcome in outcomes]
    prompts = [f"p{at}" for at, outcomes in enumerate(by_prompt) for _ in outcomes]
    found = confusion(judged, [C] * len(judged), clusters=prompts).recall
    rate = clustered_rate(by_prompt)
    assert found.n == rate.n
    assert found.value == pytest.approx(rate.value)
    assert found.low == pytest.approx(rate.low)
    assert found.high == pytest.approx(rate.high)


def test_a_reply_that_stands_for_several_counts_as_often_in_the_shares() -> None:
    judged, truth = table(2, 1, 1, 2)
    found = confusion(judged, truth, weights=[1, 1, 4, 1, 1, 1])
    assert found.precision.value == pytest.approx(2 / 6)
    assert found.specificity.value == pytest.approx(2 / 6)
    assert found.accuracy.value == pytest.approx(4 / 9)
    assert (found.tp, found.fp, found.n) == (2, 1, 6)
    assert found.harmless_size == pytest.approx(36 / 18)  # (4 + 1 + 1)² / (16 + 1 + 1)
    plain, scaled = confusion(judged, truth), confusion(judged, truth, weights=[7.0] * 6)
    assert scaled.kappa.low == pytest.approx(plain.kappa.low)
    assert scaled.precision.low == pytest.approx(plain.precision.low)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(OUTCOMES, OUTCOMES, st.integers(0, 4), st.floats(0.1, 9)), max_size=25))
def test_whatever_was_judged_the_numbers_are_json_and_in_order(
    rows: list[tuple[Outcome, Outcome, int, float]],
) -> None:
    judged, truth, prompts, weights = ([row[i] for row in rows] for i in range(4))
    found = confusion(judged, truth, clusters=prompts, weights=weights)  # type: ignore[arg-type]
    json.dumps(asdict(found), allow_nan=False)
    assert found.n + found.unscored == len(rows)
    for share in (found.precision, found.recall, found.specificity, found.accuracy, found.kappa):
        if share.value is not None:
            assert share.low is not None
            assert share.high is not None
            assert -1 <= share.low <= share.value + 1e-9
            assert share.value - 1e-9 <= share.high <= 1 + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(OUTCOMES, OUTCOMES), max_size=25))
def test_judges_changing_places_keep_their_kappa_and_swap_precision_and_recall(
    rows: list[tuple[Outcome, Outcome]],
) -> None:
    first, second = [row[0] for row in rows], [row[1] for row in rows]
    there, back = confusion(first, second), confusion(second, first)
    assert (there.tp, there.fp, there.fn, there.tn) == (back.tp, back.fn, back.fp, back.tn)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    for one, other in zip(asdict(there.kappa).values(), asdict(back.kappa).values(), strict=True):
        assert one == (None if other is None else pytest.approx(other))


def test_kappas_interval_covers_the_truth_as_often_as_it_says() -> None:
    # 250 tables of 80 replies to 40 prompts: the share covered has a standard error of 1.4 %.
    rng = np.random.default_rng(0)
    for right in (0.75, 0.95):
        kappa, covered = 2 * right - 1, 0
        for _ in range(250):
            truth = np.repeat(rng.random(40) < 0.5, 2)
            judged = np.where(rng.random(80) < right, truth, ~truth)
            found = confusion(
                [C if one else R for one in judged], [C if one else R for one in truth],
                clusters=np.repeat(np.arange(40), 2).tolist(),
            )  # fmt: skip
            assert found.kappa.low is not None
            assert found.kappa.high is not None
            covered += found.kappa.low <= kappa <= found.kappa.high
        assert 0.91 <= covered / 250 <= 0.985, right


def test_lists_of_different_lengths_and_weights_of_nothing_are_named() -> None:
    with pytest.raises(ValueError, match="as many truth as verdicts, 2, found 1"):
        confusion([C, R], [C])
    with pytest.raises(ValueError, match="as many clusters as verdicts, 1, found 2"):
        confusion([C], [C], clusters=[1, 2])
    with pytest.raises(ValueError, match="weights above 0"):
        confusion([C], [C], weights=[0.0])
    with pytest.raises(ValueError, match="harmless"):
        confusion(["harmless"], [C])  # type: ignore[list-item]
