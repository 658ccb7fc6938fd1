"""Response positions against a loop over tokens, in one sequence and in several packed together."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.train.positions import GROUPS, group_of, response_positions

IGNORED = -100


def slow_positions(labels: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Count on from token to token; begin anew after a token without loss and at every sequence."""
    found: list[int] = []
    place = 0
    for length in lengths:
        count = 0
        for label in labels[place : place + length]:
            count = 0 if label == IGNORED else count + 1
            found.append(count)
        place += length
    return found


sequences = st.lists(st.sampled_from([IGNORED, 7]), min_size=1, max_size=12)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(rows=st.lists(sequences, min_size=1, max_size=5))
def test_positions_are_counted_as_a_loop_counts_them(rows: list[list[int]]) -> None:
    packed, lengths = [label for row in rows for label in row], [len(row) for row in rows]
    assert response_positions(torch.tensor(packed), lengths).tolist() == slow_positions(packed, lengths)
    assert response_positions(torch.tensor(packed)).tolist() == slow_positions(packed, [len(packed)])
    apart = [position for row in rows for position in response_positions(torch.tensor(row)).tolist()]
    assert response_positions(torch.tensor(packed), lengths).tolist() == apart


def test_rows_of_a_padded_batch_are_counted_one_by_one() -> None:
    labels = torch.tensor([[-100, 5, 6, 7], [5, -100, 6, -100], [-100, -100, -100, -100], [1, 2, 3, 4]])
    expected = [slow_positions(row, [4]) for row in labels.tolist()]
    assert response_positions(labels).tolist() == expected


def test_every_turn_begins_at_one_and_padding_has_no_position() -> None:
    labels = torch.tensor([-100, -100, 5, 6, 7, -100, 8, -100, -100, 9, 9, -100, -100])
    assert response_positions(labels).tolist() == [0, 0, 1, 2, 3, 0, 1, 0, 0, 1, 2, 0, 0]


def test_a_packed_sequence_begins_anew_even_where_loss_runs_on() -> None:
    labels = torch.tensor([-100, 5, 6, 7, 8, 9])
    assert response_positions(labels).tolist() == [0, 1, 2, 3, 4, 5]
    assert response_positions(labels, [3, 3]).tolist() == [0, 1, 2, 1, 2, 3]


def test_no_tokens_have_no_positions() -> None:
    assert response_positions(torch.tensor([], dtype=torch.long)).tolist() == []
    assert response_positions(torch.tensor([-100, -100])).tolist() == [0, 0]


def test_groups_follow_one_another_without_a_gap_and_the_last_is_open() -> None:
    assert GROUPS[0][0] == 1
    assert GROUPS[-1][1] is None
    for (_, last), (first, _) in pairwise(GROUPS):
        assert last is not None
        assert first == last + 1


@pytest.mark.parametrize("position", [1, 2, 5, 6, 10, 11, 20, 21, 40, 41, 1000])
def test_a_position_is_in_the_group_that_holds_it(position: int) -> None:
    first, last = GROUPS[int(group_of(torch.tensor([position]))[0])]
    assert first <= position
    assert last is None or position <= last
