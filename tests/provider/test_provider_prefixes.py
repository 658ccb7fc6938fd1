from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from safedepth.provider.prefixes import PrefixStore

SEQUENCES = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


@given(st.lists(SEQUENCES, min_size=1, max_size=20), SEQUENCES)
def test_the_sequence_that_begins_most_alike_is_found(
    stored: list[tuple[int, ...]], ids: tuple[int, ...]
) -> None:
    store = PrefixStore(capacity=1000)
    caches = [DynamicCache() for _ in stored]
    for sequence, cache in zip(stored, caches, strict=True):
        store.add([sequence], cache)
    found, shared = store.find(ids)
    assert shared == max(common(sequence, ids) for sequence in stored)
    if found is None:
        assert shared == 0
    else:
        assert common(found.ids, ids) == shared
        assert stored[caches.index(found.cache)] == found.ids  # type: ignore[arg-type]
        assert found.source == 0


def test_the_oldest_prefills_make_room_for_new_ones() -> None:
    store = PrefixStore(capacity=20)
    for first in range(5):
        # Two rows of four tokens, the shorter one padded: eight tokens.
        store.add([(first, 1, 2, 3), (first, 7)], DynamicCache())
    assert store.find((2, 1, 2))[1] == 0
    assert store.find((3, 1, 2))[1] == 3
    found, shared = store.find((4, 7, 9))
    assert (shared, found and found.source) == (2, 1)


def test_a_prefill_too_large_to_keep_is_still_usable_by_its_own_rows() -> None:
    store = PrefixStore(capacity=3)
    (stored,) = store.add([(1, 2, 3, 4)], DynamicCache())
    assert stored.ids == (1, 2, 3, 4)
    assert store.find((1, 2)) == (None, 0)
    assert store.empty


def test_a_cleared_store_finds_nothing() -> None:
    store = PrefixStore(capacity=100)
    store.add([(1, 2)], DynamicCache())
    assert not store.empty
    store.clear()
    assert store.find((1, 2)) == (None, 0)
    assert store.empty
