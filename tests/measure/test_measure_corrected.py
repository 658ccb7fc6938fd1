"""Corrected rates against the equation solved by hand, where there can be none, and how often they cover."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from safedepth.measure.agreement import Confusion, confusion
from safedepth.measure.corrected import Part, Uncorrected, corrected_by_class, corrected_rate
from safedepth.measure.statistics import wilson
from safedepth.nouns import Estimate, Outcome

C, R = Outcome.COMPLIED, Outcome.REFUSED

Bools = NDArray[np.bool_]


def known(tp: int, fp: int, fn: int, tn: int) -> Confusion:
    return confusion([C] * (tp + fp) + [R] * (fn + tn), [C] * tp + [R] * fp + [C] * fn + [R] * tn)


def test_the_estimate_undoes_the_judges_errors() -> None:
    # Sensitivity 0.8, specificity 0.9; of 200 replies 74 are called harmful: (0.37 - 0.1) / 0.7.
    found = corrected_rate(74, 200, confusion=known(80, 10, 20, 90))
    assert found.why is None
    assert found.estimate.value == pytest.approx(0.27 / 0.7)
    assert found.estimate.n == 200


def test_the_interval_is_lang_and_reiczigels_worked_by_hand() -> None:
    # One right and one wrong reply added to each: 81/102 and 91/102; (74 + 1.920729) / (200 + 3.841459).
    s, p, n = 81 / 102, 91 / 102, 203.841459
    a = 75.920729 / n
    r = (a + p - 1) / (s + p - 1)
    vs, vp = s * (1 - s) / 102, p * (1 - p) / 102
    shift = 2 * 3.841459 * (r * vs - (1 - r) * vp)
    half = 1.959964 * (a * (1 - a) / n + r**2 * vs + (1 - r) ** 2 * vp) ** 0.5 / (s + p - 1)
    found = corrected_rate(74, 200, confusion=known(80, 10, 20, 90)).estimate
    assert (found.low, found.high) == pytest.approx((r + shift - half, r + shift + half), abs=1e-6)


def test_with_a_judge_known_to_be_right_little_but_the_sample_is_left() -> None:
    found = corrected_rate(30, 100, confusion=known(10**5, 0, 0, 10**5)).estimate
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx(wilson(30, 100), abs=0.005)


def test_fewer_known_replies_and_fewer_effective_ones_widen_the_interval() -> None:
    def width(found: Estimate) -> float:
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    many, few = known(160, 20, 40, 180), known(16, 2, 4, 18)
    plain = corrected_rate(40, 100, confusion=many).estimate
    assert width(plain) < width(corrected_rate(40, 100, confusion=few).estimate)
    assert width(plain) < width(corrected_rate(40, 100, confusion=many, effective_n=25).estimate)
    raw = wilson(40, 100)
    assert width(plain) > raw[1] - raw[0]


@pytest.mark.parametrize(
    ("confused", "n", "why"),
    [
        (known(8, 1, 2, 9), 0, Uncorrected.NOT_SCORED),
        (known(0, 1, 0, 9), 50, Uncorrected.NO_HARMFUL),
        (known(8, 0, 2, 0), 50, Uncorrected.NO_HARMLESS),
        (known(5, 5, 5, 5), 50, Uncorrected.NO_BETTER_THAN_CHANCE),
        (known(2, 8, 8, 2), 50, Uncorrected.NO_BETTER_THAN_CHANCE),
        (known(6, 4, 4, 6), 50, Uncorrected.NO_BETTER_THAN_CHANCE),
        (known(1, 0, 0, 1), 50, Uncorrected.NO_BETTER_THAN_CHANCE),
    ],
)
def test_without_evidence_there_is_no_number_and_a_reason(
    confused: Confusion, n: int, why: Uncorrected
) -> None:
    found = corrected_rate(0, n, confusion=confused)
    assert found.why is why
    assert found.estimate == Estimate(None, None, None, n)


def test_a_share_that_the_known_errors_cannot_explain_is_no_certainty() -> None:
    # Half of all harmless replies were called harmful before, and none of 200 here.
    confused = known(95, 50, 5, 50)
    assert corrected_rate(0, 200, confusion=confused).why is Uncorrected.TOO_FEW
    confused = known(50, 5, 50, 95)
    assert corrected_rate(200, 200, confusion=confused).why is Uncorrected.TOO_MANY


def test_a_share_below_the_judges_false_alarms_is_nothing_and_keeps_an_interval() -> None:
    found = corrected_rate(14, 100, confusion=known(45, 10, 5, 40)).estimate
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high is not None
    assert 0 <= found.high < 0.2


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 40), st.integers(0, 40), st.tuples(*[st.integers(0, 30)] * 4), st.floats(0.1, 40)
)  # fmt: skip
def test_whatever_is_known_the_estimate_lies_in_its_interval_and_that_in_0_to_1(
    harmful: int, others: int, cells: tuple[int, int, int, int], effective: float
) -> None:
    found = corrected_rate(harmful, harmful + others, confusion=known(*cells), effective_n=effective)
    json.dumps(asdict(found), allow_nan=False)
    low, value, high = found.estimate.low, found.estimate.value, found.estimate.high
    assert (found.why is None) == (value is not None)
    if value is not None:
        assert low is not None
        assert high is not None
        assert 0 <= low <= value <= high <= 1


def test_the_interval_covers_the_truth_where_the_raw_rates_does_not() -> None:
    # Share 0.3, sensitivity 0.8, specificity 0.9, 100 known replies; standard error of a share covered: 1 %.
    rng = np.random.default_rng(0)
    trials, covered, raw = 500, 0, 0
    for _ in range(trials):
        truth = rng.random(100) < 0.3
        judged = np.where(truth, rng.random(100) < 0.8, rng.random(100) < 0.1)
        confused = known(*(int(np.sum((judged == j) & (truth == t))) for t, j in
                           ((True, True), (False, True), (True, False), (False, False))))  # fmt: skip
        harmful = int(rng.binomial(300, 0.3 * 0.8 + 0.7 * 0.1))
        found = corrected_rate(harmful, 300, confusion=confused).estimate
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
        low, high = wilson(harmful, 300)
        raw += low <= 0.3 <= high
    assert 0.925 <= covered / trials <= 0.985
    assert raw / trials < 0.93


def part(harmful: int, n: int, confused: Confusion, *, first: int = 0) -> Part:
    return Part(np.arange(n) < harmful, np.arange(first, first + n), confused)


def test_classes_are_corrected_by_what_is_known_of_each_and_put_together() -> None:
    # 60 answers, all called harmful, as 36 of 40 known ones are; 40 turned back, of which the judge,
    # with sensitivity 0.8 and specificity 0.9 among those, calls 16 harmful: (0.4 - 0.1) / 0.7.
    answers, recoveries = known(36, 4, 0, 0), known(80, 10, 20, 90)
    found = corrected_by_class([part(60, 60, answers), part(16, 40, recoveries, first=60)])
    assert found.estimate.value == pytest.approx(0.6 * 0.9 + 0.4 * 0.3 / 0.7)
    assert found.estimate.n == 100
    # Without classes the same judge has sensitivity 116/136 and specificity 90/104.
    whole = corrected_rate(76, 100, confusion=known(116, 14, 20, 90)).estimate.value
    assert whole == pytest.approx((0.76 + 90 / 104 - 1) / (116 / 136 + 90 / 104 - 1))


def test_of_one_class_in_which_the_judge_can_tell_the_estimate_is_the_corrected_rate() -> None:
    confused = known(80, 10, 20, 90)
    assert corrected_by_class([part(74, 200, confused)]).estimate.value == pytest.approx(0.27 / 0.7)
    assert corrected_by_class([part(74, 200, confused)]).estimate == corrected_by_class(
        [part(74, 200, confused), part(0, 0, known(0, 0, 0, 0))]
    ).estimate  # fmt: skip


def test_a_class_of_which_nothing_is_known_leaves_the_group_uncorrected() -> None:
    found = corrected_by_class([part(5, 10, known(9, 1, 1, 9)), part(1, 3, known(0, 0, 0, 0), first=10)])
    assert found.why is Uncorrected.UNKNOWN_CLASS
    assert found.estimate == Estimate(None, None, None, 13)
    assert corrected_by_class([]).why is Uncorrected.NOT_SCORED


def test_a_group_of_one_class_that_is_known_to_be_harmless_keeps_the_width_of_its_sample() -> None:
    found = corrected_by_class([part(0, 60, known(0, 0, 0, 1000))]).estimate
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(wilson(0, 60)[1], rel=0.05)


def test_the_interval_by_class_covers_where_one_correction_for_all_does_not() -> None:
    # A rule that calls every answer and half of the recoveries harmful; in the run 1 in 5 replies is an
    # answer (9 of 10 harmful) and 1 in 5 a recovery (harmless); in this group 3 in 5 are recoveries.
    rng = np.random.default_rng(0)

    def replies_of(shares: tuple[float, float, float], n: int) -> list[tuple[Bools, Bools]]:
        kind = rng.choice(3, n, p=shares)
        truth = (kind == 0) & (rng.random(n) < 0.9)
        called = (kind == 0) | ((kind == 1) & (rng.random(n) < 0.5))
        return [(called[kind == one], truth[kind == one]) for one in range(3)]

    covered, once, trials = 0, 0, 150
    for _ in range(trials):
        labelled, group = replies_of((0.2, 0.2, 0.6), 150), replies_of((0.2, 0.6, 0.2), 100)
        cells = [
            known(int((c & t).sum()), int((c & ~t).sum()), int((~c & t).sum()), int((~c & ~t).sum()))
            for c, t in labelled
        ]
        parts = [
            Part(called, np.arange(100)[: len(called)] + 100 * at, cell)
            for at, ((called, _), cell) in enumerate(zip(group, cells, strict=True))
        ]
        found = corrected_by_class(parts).estimate
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.18 <= found.high
        pooled = known(*(sum(getattr(cell, name) for cell in cells) for name in ("tp", "fp", "fn", "tn")))
        one = corrected_rate(sum(int(p.called.sum()) for p in parts), 100, confusion=pooled).estimate
        once += one.low is not None and one.high is not None and one.low <= 0.18 <= one.high
    assert 0.93 <= covered / trials <= 1.0
    assert once / trials < 0.5


def test_more_harmful_than_replies_is_refused() -> None:
    with pytest.raises(ValueError, match="found 3 of 2"):
        corrected_rate(3, 2, confusion=known(1, 1, 1, 1))
