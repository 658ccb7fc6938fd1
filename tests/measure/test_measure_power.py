"""Smallest detectable differences against the tests themselves, run many times on drawn samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from safedepth.measure.paired import paired_difference
from safedepth.measure.power import detectable_difference, detectable_paired


@pytest.mark.parametrize(("n", "discordant"), [(48, 0.3), (100, 0.1), (30, 0.6)])
def test_the_paired_difference_is_found_as_often_as_it_says(n: int, discordant: float) -> None:
    difference = detectable_paired(n, discordant)
    assert difference is not None
    assert difference <= discordant
    rng = np.random.default_rng(0)
    found, trials = 0, 600
    for _ in range(trials):
        kind = rng.random(n)
        risen = kind < (discordant + difference) / 2
        fallen = ~risen & (kind < discordant)
        before, after = fallen.astype(float), risen.astype(float)
        p = paired_difference(before, after, seed=0).p
        found += p is not None and p <= 0.05
    assert abs(found / trials - 0.8) < 0.055  # 3.4 standard errors


def test_with_nothing_seen_to_change_the_difference_is_one_where_all_changes_go_one_way() -> None:
    # McNemar's exact test needs 6 of 6 in one direction: 2 / 2^6 = 0.031.
    found = detectable_paired(48, 0.0)
    assert found is not None
    assert stats.binom.sf(5, 48, found) == pytest.approx(0.8, abs=1e-6)
    assert detectable_paired(48, found / 2) == pytest.approx(found)


def test_below_six_prompts_no_paired_change_is_ever_found() -> None:
    assert [detectable_paired(n, 0.3) for n in (0, 1, 5)] == [None, None, None]
    six = detectable_paired(6, 0.3)
    assert six == pytest.approx(0.8 ** (1 / 6))  # all six must change, in one direction


@pytest.mark.parametrize(("n", "share"), [(48, 0.5), (100, 0.1), (200, 0.9)])
def test_the_unpaired_difference_is_found_as_often_as_it_says(n: int, share: float) -> None:
    difference = detectable_difference(n, share)
    assert difference is not None
    rng = np.random.default_rng(0)
    other = share + difference if share <= 0.5 else share - difference
    first, second = rng.binomial(n, share, 40000) / n, rng.binomial(n, other, 40000) / n
    pooled = (first + second) / 2
    z = np.abs(first - second) / np.sqrt(2 * pooled * (1 - pooled) / n)
    assert np.mean(z > 1.959964) == pytest.approx(0.8, abs=0.03)


def test_the_unpaired_difference_solves_its_equation() -> None:
    # p = 0.1, q = 0.2 needs n = 199 a group by the usual tables (5 %, 80 %, no correction).
    assert detectable_difference(199, 0.1) == pytest.approx(0.1, abs=2e-4)
    assert detectable_difference(3, 0.5) is None
    assert detectable_difference(0, 0.5) is None


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 300), share=st.floats(0, 1), power=st.floats(0.1, 0.95))
def test_more_prompts_find_smaller_differences_and_more_power_needs_larger_ones(
    n: int, share: float, power: float
) -> None:
    for detectable in (detectable_paired, detectable_difference):
        here, more, surer = (
            detectable(n, share, power=power), detectable(2 * n, share, power=power),
            detectable(n, share, power=(1 + power) / 2),
        )  # fmt: skip
        if here is not None:
            assert 0 <= here <= 1
            assert more is not None
            assert more <= here + 1e-9
        if surer is not None:
            assert here is not None
            assert here <= surer + 1e-9
    assert detectable_difference(n, share) == pytest.approx(detectable_difference(n, 1 - share))


def test_what_is_no_number_of_prompts_share_or_power_is_named() -> None:
    with pytest.raises(ValueError, match="0 or more, found -1"):
        detectable_paired(-1, 0.1)
    with pytest.raises(ValueError, match=r"for discordant, found 1\.2"):
        detectable_paired(10, 1.2)
    with pytest.raises(ValueError, match="for share, found nan"):
        detectable_difference(10, float("nan"))
    with pytest.raises(ValueError, match=r"found 1\.0"):
        detectable_difference(10, 0.1, power=1.0)
