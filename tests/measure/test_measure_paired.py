"""Paired differences against numbers worked by hand, slow enumeration, and counts of how often they cover."""

import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from safedepth.measure import paired
from safedepth.measure.paired import PairedDifference, paired_difference

Floats = NDArray[np.float64]

VALUES = st.sampled_from([0.0, 1 / 3, 0.5, 1.0])


def pairs(both: int, risen: int, fallen: int, neither: int) -> tuple[Floats, Floats]:
    """Before and after from the four counts of a paired two by two table."""
    before = [1] * both + [0] * risen + [1] * fallen + [0] * neither
    after = [1] * both + [1] * risen + [0] * fallen + [0] * neither
    return np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)


def test_bonett_and_prices_interval_and_mcnemars_test_agree_with_numbers_worked_by_hand() -> None:
    # a = 2/23, b = 8/23, a - b = -6/23, half width 1.959964 * sqrt((10/23 - 36/529) / 23) = 0.247490;
    # 1 of the 8 that changed rose: p = 2 * (1 + 8) / 2^8.
    found = paired_difference(*pairs(both=1, risen=1, fallen=7, neither=12), seed=0)
    assert (found.before, found.after, found.difference) == pytest.approx((8 / 21, 2 / 21, -6 / 21))
    assert (found.low, found.high) == pytest.approx((-6 / 23 - 0.247490, -6 / 23 + 0.247490), abs=1e-6)
    assert found.p == pytest.approx(18 / 256)
    assert found.n == 21


@pytest.mark.parametrize(
    ("risen", "fallen", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64), (1, 4, 2 * (1 + 5) / 32), (10, 0, 2 / 1024)],
)
def test_whole_outcomes_get_mcnemars_exact_test_on_those_that_changed(
    risen: int, fallen: int, p: float
) -> None:
    found = paired_difference(*pairs(both=4, risen=risen, fallen=fallen, neither=9), seed=0)
    assert found.p == pytest.approx(p)


def test_nothing_changed_still_has_a_width() -> None:
    found = paired_difference(*pairs(both=0, risen=0, fallen=0, neither=48), seed=0)
    half = 1.959964 * (2 / 50 / 50) ** 0.5
    assert (found.low, found.difference, found.high) == pytest.approx((-half, 0.0, half), abs=1e-6)
    assert found.p == 1.0


def test_several_replies_a_prompt_are_tested_by_every_flip_of_signs() -> None:
    before, after = np.array([0.5, 1.0, 0.25, 0.75, 0.5, 1.0]), np.array([0.25, 0.5, 0.25, 1.0, 0.0, 0.25])
    differences = after - before
    observed = differences.sum()
    flipped = [float(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=6)]
    tails = [sum(s <= observed for s in flipped), sum(s >= observed for s in flipped)]
    expected = min(1.0, 2 * min(tails) / len(flipped))
    assert paired_difference(before, after, seed=0).p == pytest.approx(expected)


def test_many_prompts_draw_their_flips_from_the_seed() -> None:
    rng = np.random.default_rng(5)
    before = rng.integers(0, 4, 60) / 3
    after = np.clip(before + rng.choice([-1, 0, 1], 60, p=[0.3, 0.6, 0.1]) / 3, 0, 1)
    first, again, other = (paired_difference(before, after, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.p is not None
    assert other.p == pytest.approx(first.p, abs=0.02)
    assert (other.low, other.high) == (first.low, first.high)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=8))
def test_before_and_after_changing_places_changes_the_sign_and_nothing_else(
    values: list[tuple[float, float]],
) -> None:
    before, after = np.array(values, dtype=np.float64).reshape(-1, 2).T
    there, back = paired_difference(before, after, seed=0), paired_difference(after, before, seed=0)
    json.dumps(asdict(there), allow_nan=False)
    assert (there.before, there.after) == (back.after, back.before)
    if there.difference is not None:
        assert back.difference == pytest.approx(-there.difference)
    if there.low is not None and there.high is not None:
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
        assert there.p == pytest.approx(back.p)
        assert there.difference is not None
        assert -1 <= there.low <= there.difference <= there.high <= 1


@pytest.mark.parametrize(
    ("base", "risen", "fallen", "replies"),
    [(0.02, 0.0, 0.0, 1), (0.1, 0.05, 0.5, 1), (0.5, 0.3, 0.3, 1), (0.9, 0.5, 0.8, 1), (0.5, 0.2, 0.6, 3)],
)
def test_intervals_cover_the_true_difference_as_often_as_they_say(
    base: float, risen: float, fallen: float, replies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reply is 1 with chance `base` before; after, it rises or falls with the other two."""
    monkeypatch.setattr(paired, "RESAMPLES", 9)  # p is not looked at
    rng = np.random.default_rng(0)
    truth = (1 - base) * risen - base * fallen
    n, trials, covered = 40, 500, 0
    for _ in range(trials):
        before, after = np.zeros((2, n))
        for i in range(n):
            for _ in range(replies):
                was = rng.random() < base
                now = rng.random() >= fallen if was else rng.random() < risen
                before[i] += was
                after[i] += now
        found = paired_difference(before / replies, after / replies, seed=0)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / trials <= 1.0


def test_one_prompt_has_a_difference_and_no_interval_and_none_has_neither() -> None:
    assert paired_difference(np.zeros(0), np.zeros(0), seed=0) == PairedDifference(
        None, None, None, None, None, None, 0
    )
    assert paired_difference(np.ones(1), np.zeros(1), seed=0) == PairedDifference(
        1.0, 0.0, -1.0, None, None, None, 1
    )


def test_a_loss_is_ruled_out_where_the_whole_interval_lies_above_the_margin() -> None:
    held = paired_difference(*pairs(both=190, risen=1, fallen=1, neither=8), seed=0)
    lost = paired_difference(*pairs(both=150, risen=1, fallen=40, neither=9), seed=0)
    few = paired_difference(*pairs(both=9, risen=0, fallen=0, neither=1), seed=0)
    assert held.non_inferior(0.05) is True
    assert lost.non_inferior(0.05) is False
    assert few.non_inferior(0.05) is False
    assert paired_difference(np.ones(1), np.ones(1), seed=0).non_inferior(0.05) is None
    with pytest.raises(ValueError, match=r"0 or more, found -0\.1"):
        held.non_inferior(-0.1)


def test_what_is_no_pair_of_shares_is_named() -> None:
    with pytest.raises(ValueError, match=r"found \(2,\) and \(3,\)"):
        paired_difference(np.zeros(2), np.zeros(3), seed=0)
    with pytest.raises(ValueError, match=r"found nan at after\[1\]"):
        paired_difference(np.zeros(2), np.array([0.0, np.nan]), seed=0)
    with pytest.raises(ValueError, match=r"found 1\.5 at before\[0\]"):
        paired_difference(np.array([1.5, 0.0]), np.zeros(2), seed=0)
