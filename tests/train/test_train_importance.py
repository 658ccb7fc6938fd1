"""Importances to betas: known profiles, and what makes no schedule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.errors import DataError
from safedepth.train.importance import grouped_betas, importance_betas, listed_groups, means_by_group
from safedepth.train.positions import GROUPS

G = len(GROUPS)


def test_importances_are_averaged_by_group_whatever_their_order() -> None:
    positions = torch.tensor([6, 1, 2, 10, 1, 41, 90, 7])
    values = torch.tensor([1.0, 4, 3, 2, 6, 1, 5, 6])
    assert means_by_group(values, positions) == [5, 3, 3, 3, 3, 3, 3, 3, 3]


def test_a_known_profile_becomes_the_schedule_it_describes() -> None:
    betas = importance_betas([0, 8, 4, 2, 0, 0, 0, 0, 1], low=0.1, high=10)
    assert betas == pytest.approx([0.1, 10, 1, 10**-0.5, 0.1, 0.1, 0.1, 0.1, 0.1 * 10**0.25])
    schedule = grouped_betas(betas)
    for (first, last), beta in zip(GROUPS, betas, strict=True):
        positions = torch.arange(first, (last or 200) + 1)
        assert schedule(positions).tolist() == pytest.approx([beta] * len(positions))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=G, max_size=G), st.floats(0.01, 1), st.floats(1.5, 100))
def test_more_importance_never_means_a_smaller_beta_and_the_scale_does_not_matter(
    means: list[float], low: float, high: float
) -> None:
    if max(means) == 0:
        return
    betas = importance_betas(means, low=low, high=high)
    assert max(betas) == pytest.approx(high)
    assert min(betas) >= low * (1 - 1e-12)
    by_importance = [beta for _, beta in sorted(zip(means, betas, strict=True))]
    assert by_importance == sorted(by_importance)
    assert importance_betas([8 * mean for mean in means], low=low, high=high) == pytest.approx(betas)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, math.nan], "nan at position 2"),
        ([1.0, -0.5], "-0.5 at position 2"),
        ([math.inf], "inf at position 1"),
    ],
)
def test_importances_that_are_no_numbers_are_named_with_their_position(
    values: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        means_by_group(torch.tensor(values), torch.arange(1, len(values) + 1))


def test_a_profile_that_says_nothing_makes_no_schedule() -> None:
    with pytest.raises(DataError, match="first position"):
        means_by_group(torch.ones(2), torch.tensor([2, 3]))
    with pytest.raises(DataError, match="none at any position"):
        importance_betas([0.0] * G)
    for low, high in ((0.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)):
        with pytest.raises(DataError, match="0 < low < high"):
            importance_betas([1.0] * G, low=low, high=high)


def test_a_schedule_by_group_reads_back_as_a_list_of_betas() -> None:
    listed = listed_groups([float(i + 1) for i in range(G)])
    assert len(listed) == 41
    assert listed[:6] == [1, 2, 3, 4, 5, 6]
    assert listed[9:11] == [6, 7]
    assert listed[-2:] == [8, 9]
