"""Holm's p-values against the step-down procedure itself, and by counting false findings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.measure.multiple import holm


def rejected(p_values: list[float], level: float) -> list[bool]:
    """Holm's procedure as he states it: step down until one is not below its bound."""
    found = [False] * len(p_values)
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - step):
            break
        found[index] = True
    return found


def test_holms_p_values_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_a_test_that_was_not_made_stays_none_and_does_not_count() -> None:
    assert holm([None, 0.02, None, 0.04]) == [None, 0.04, None, 0.04]
    assert holm([None]) == [None]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.2))
def test_those_at_or_below_the_level_are_those_that_the_procedure_rejects(
    p_values: list[float], level: float
) -> None:
    adjusted = holm(p_values)
    for one, p, kept in zip(adjusted, p_values, rejected(p_values, level), strict=True):
        assert one is not None
        assert p <= one <= 1
        if abs(one - level) > 1e-9:
            assert (one <= level) == kept


def test_among_twenty_tests_of_nothing_a_false_finding_stays_rare() -> None:
    rng = np.random.default_rng(0)
    false = sum(min(p for p in holm(list(rng.random(20))) if p is not None) <= 0.05 for _ in range(2000))
    assert 0.03 <= false / 2000 <= 0.07


def test_what_is_no_p_value_is_named() -> None:
    with pytest.raises(ValueError, match=r"found 1\.5"):
        holm([0.2, 1.5])
    with pytest.raises(ValueError, match="found nan"):
        holm([float("nan")])
