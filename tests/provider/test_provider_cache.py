import pytest
import torch
from transformers.cache_utils import DynamicCache

from safedepth.provider.cache import SlotCache, attention_layers, bytes_per_token


def prefilled(rows: int, tokens: int, *, layers: int = 2) -> DynamicCache:
    """A filled cache: keys [rows, 2, tokens, 3] and values [rows, 2, tokens, 5], all different."""
    cache = DynamicCache()
    for layer in range(layers):
        keys = torch.arange(rows * 2 * tokens * 3.0).view(rows, 2, tokens, 3) + 1000 * layer + 1
        values = torch.arange(rows * 2 * tokens * 5.0).view(rows, 2, tokens, 5) - 1000 * layer - 9999
        cache.update(keys, values, layer)
    return cache


def stored(cache: SlotCache, row: int, length: int) -> list[torch.Tensor]:
    cache.aim(torch.full((row + 1,), length), length + 1)
    new_keys, new_values = torch.full((row + 1, 2, 1, 3), 7.0), torch.full((row + 1, 2, 1, 5), 8.0)
    found = []
    for layer in range(len(cache.layers)):
        keys, values = cache.update(new_keys, new_values, layer)
        assert keys.shape == (row + 1, 2, length + 1, 3)
        assert (keys[:, :, length] == 7).all()
        assert (values[:, :, length] == 8).all()
        found += [keys[row, :, :length], values[row, :, :length]]
    return found


def expected(source: DynamicCache, row: int, length: int) -> list[torch.Tensor]:
    pairs = [pair for pair in attention_layers(source) if pair is not None]
    return [tensor[row, :, :length] for pair in pairs for tensor in pair]


def test_a_slot_holds_what_was_loaded_and_a_new_token_at_the_rows_own_length() -> None:
    source = prefilled(3, 6)
    cache = SlotCache(slots=4, capacity=100)
    cache.reserve(2, 5, most=8, like=source)
    cache.load(0, source, 2, 4)
    cache.load(1, source, 1, 3)
    cache.aim(torch.tensor([4, 3]), 5)
    keys, _ = cache.update(torch.full((2, 2, 1, 3), 7.0), torch.full((2, 2, 1, 5), 8.0), 0)
    assert (keys[0, :, 4] == 7).all()
    assert (keys[1, :, 3] == 7).all()
    assert (keys[1, :, 4] == 0).all()
    for found, wanted in zip(stored(cache, 0, 4), expected(source, 2, 4), strict=True):
        assert torch.equal(found, wanted)


def test_growing_keeps_what_is_stored_and_puts_zeros_behind_it() -> None:
    source = prefilled(1, 4)
    cache = SlotCache(slots=16, capacity=10_000)
    cache.reserve(1, 5, most=90, like=source)
    cache.load(0, source, 0, 4)
    for rows, columns in ((1, 6), (3, 20), (9, 70), (16, 90)):
        cache.reserve(rows, columns, most=90)
        assert cache.shape[0] >= rows
        assert cache.shape[1] >= columns
    for found, wanted in zip(stored(cache, 0, 4), expected(source, 0, 4), strict=True):
        assert torch.equal(found, wanted)
    cache.aim(torch.tensor([80]), 90)
    for part in cache.update(torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 5), 1):
        assert part[:, :, :4].all()
        # The token of `stored` was written at 4.
        assert not part[:, :, 5:].any()


@pytest.mark.parametrize("how", ["load", "move"])
def test_nothing_of_a_slots_last_row_is_left_behind_the_next_one(how: str) -> None:
    source, broken = prefilled(2, 6), prefilled(2, 6)
    for pair in attention_layers(broken):
        assert pair is not None
        for tensor in pair:
            tensor.fill_(float("nan"))
    cache = SlotCache(slots=2, capacity=100)
    cache.reserve(2, 7, most=7, like=source)
    cache.load(0, broken, 0, 6)
    cache.load(1, source, 1, 2)
    if how == "load":
        cache.load(0, source, 1, 2)
    else:
        cache.move(1, 0, 2)
    for found, wanted in zip(stored(cache, 0, 2), expected(source, 1, 2), strict=True):
        assert torch.equal(found, wanted)
    cache.aim(torch.tensor([6]), 7)
    for part in cache.update(torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 5), 1):
        assert not part[:, :, 3:].any()


def test_growth_is_amortised() -> None:
    source = prefilled(1, 1)
    cache = SlotCache(slots=1, capacity=10**6)
    shapes = set()
    for columns in range(1, 2000):
        cache.reserve(1, columns, most=5000, like=source)
        shapes.add(cache.shape)
    assert len(shapes) < 35


@pytest.mark.parametrize("most", [10, 25, 50])
def test_the_buffers_stay_within_the_capacity(most: int) -> None:
    source = prefilled(1, 2)
    cache = SlotCache(slots=64, capacity=100)
    for rows in range(1, 100 // most + 1):
        for columns in (2, most // 2, most):
            cache.reserve(rows, columns, most=most, like=source)
            assert cache.shape[0] * cache.shape[1] <= 100


def test_a_long_row_takes_the_place_of_many_short_ones() -> None:
    source = prefilled(1, 2)
    cache = SlotCache(slots=64, capacity=100)
    cache.reserve(20, 5, most=5, like=source)
    cache.load(0, source, 0, 2)
    cache.reserve(1, 80, most=90)
    assert cache.shape[0] * cache.shape[1] <= 100
    for found, wanted in zip(stored(cache, 0, 2), expected(source, 0, 2), strict=True):
        assert torch.equal(found, wanted)


def test_a_single_row_may_exceed_the_capacity() -> None:
    cache = SlotCache(slots=4, capacity=10)
    cache.reserve(1, 30, most=40, like=prefilled(1, 2))
    assert cache.shape[0] == 1
    assert cache.shape[1] >= 30


def test_released_buffers_are_gone() -> None:
    cache = SlotCache(slots=2, capacity=100)
    cache.reserve(2, 4, most=4, like=prefilled(2, 3))
    assert cache.shape == (2, 4)
    cache.release()
    assert cache.shape == (0, 0)


@pytest.mark.parametrize(("columns", "read"), [(50, 50), (84, 84), (90, 100), (100, 100)])
def test_a_buffer_nearly_in_use_is_read_whole(columns: int, read: int) -> None:
    source = prefilled(1, 2)
    cache = SlotCache(slots=1, capacity=1000)
    cache.reserve(1, 100, most=100, like=source)
    cache.load(0, source, 0, 2)
    assert cache.aim(torch.tensor([columns - 1]), columns) == read
    keys, values = cache.update(torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 5), 0)
    assert keys.shape[2] == values.shape[2] == read


def test_bytes_per_token_counts_keys_and_values_of_all_layers() -> None:
    assert bytes_per_token(prefilled(4, 6, layers=3)) == 3 * 2 * (3 + 5) * 4
