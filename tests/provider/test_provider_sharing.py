from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from safedepth.provider.sharing import share


@dataclass(eq=False)
class Waiting:
    context: tuple[int, ...]


CONTEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), max_size=30)


@given(CONTEXTS)
def test_every_row_is_in_one_group_and_a_prefix_of_its_leader(contexts: list[tuple[int, ...]]) -> None:
    rows = [Waiting(context) for context in contexts]
    groups = share(rows)
    assert sorted(id(row) for group in groups for row in group.rows) == sorted(map(id, rows))
    for group in groups:
        assert all(group.ids[: len(row.context)] == row.context for row in group.rows)
        assert any(row.context == group.ids for row in group.rows)


@given(CONTEXTS)
def test_only_sequences_that_nothing_continues_are_prefilled(contexts: list[tuple[int, ...]]) -> None:
    longest = {a for a in contexts if not any(len(b) > len(a) and b[: len(a)] == a for b in contexts)}
    assert sorted(group.ids for group in share([Waiting(context) for context in contexts])) == sorted(longest)


@given(CONTEXTS)
def test_groups_come_in_the_order_of_their_first_rows(contexts: list[tuple[int, ...]]) -> None:
    rows = [Waiting(context) for context in contexts]
    place = {id(row): index for index, row in enumerate(rows)}
    firsts = [min(place[id(row)] for row in group.rows) for group in share(rows)]
    assert firsts == sorted(firsts)


def test_a_prompts_depths_and_seeds_are_one_group() -> None:
    prompt, answer = (5, 6, 7), (8, 9, 10, 11)
    rows = [Waiting((*prompt, *answer[:k])) for _ in range(3) for k in (0, 1, 2, 4)]
    (group,) = share(rows)
    assert group.ids == (*prompt, *answer)
    assert len(group.rows) == 12
