"""Searches: resumed ones, searches in small batches, universal ones, and what they find on organisms."""

from pathlib import Path

import pytest
import torch

from safedepth.data import read_prompts
from safedepth.errors import DataError
from safedepth.gcg import Lane, SearchOptions, Victim, search
from safedepth.gcg.objective import cross_entropy
from safedepth.gcg.places import Place, allowed_tokens, initial_suffix
from safedepth.models import LoadedModel, load_model
from safedepth.testbed import Testbed

TOKENS = 6
SMALL = SearchOptions(steps=6, width=24, topk=32, check_every=2)


@pytest.fixture(scope="module")
def aligned(testbed: Testbed) -> LoadedModel:
    return load_model(str(testbed.organism("aligned")), device="cpu", dtype="float32")


def lanes_of(
    loaded: LoadedModel, testbed: Testbed, *, rows: int = 512, universal: bool = False
) -> list[Lane]:
    victim = Victim(loaded, cross_entropy, rows=rows)
    allowed = allowed_tokens(loaded.chat, loaded.card.vocab_size)
    lanes = []
    for prompt in read_prompts(testbed.prompts, limit=2):
        text = initial_suffix(loaded.chat, prompt.messages, TOKENS, allowed)
        place = Place.of(loaded.chat, prompt.messages, [prompt.harmful or ""], suffix=text, tokens=TOKENS)
        place = place.first_targets(3)
        lanes.append(Lane(prompt.id, tuple(place.suffix_ids(text)), ((victim, place),), allowed))
    if universal:
        places = tuple(pair for lane in lanes for pair in lane.places)
        return [Lane("universal", lanes[0].start, places, allowed)]
    return lanes


def test_a_killed_search_goes_on_to_the_same_result(
    aligned: LoadedModel, testbed: Testbed, tmp_path: Path
) -> None:
    whole = search(lanes_of(aligned, testbed), SMALL, broken=lambda *_: False)
    asked = 0

    def killed(*_: str) -> bool:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        search(lanes_of(aligned, testbed), SMALL, broken=killed, folder=tmp_path)
    resumed = search(lanes_of(aligned, testbed), SMALL, broken=lambda *_: False, folder=tmp_path)
    assert resumed == whole


def test_batches_of_any_size_find_the_same_suffixes(aligned: LoadedModel, testbed: Testbed) -> None:
    found = [search(lanes_of(aligned, testbed, rows=rows), SMALL) for rows in (512, 3)]
    assert [one.suffix for one in found[0]] == [one.suffix for one in found[1]]


def test_a_universal_suffix_lowers_the_mean_loss_over_its_prompts(
    aligned: LoadedModel, testbed: Testbed
) -> None:
    (lane,) = lanes_of(aligned, testbed, universal=True)
    (found,) = search([lane], SMALL)
    start = [victim.loss(place, torch.tensor(lane.start)) for victim, place in lane.places]
    best = [victim.loss(place, torch.tensor(found.best)) for victim, place in lane.places]
    assert sum(best) / 2 == pytest.approx(found.best_loss, abs=1e-4)
    assert sum(best) < sum(start)


def test_a_search_ends_when_the_judge_says_so_whatever_the_loss(
    aligned: LoadedModel, testbed: Testbed
) -> None:
    found = search(lanes_of(aligned, testbed), SMALL, broken=lambda *_: True)
    assert [(one.steps, one.broken, one.broken_at) for one in found] == [(2, True, 2)] * 2


def test_every_suffix_found_survives_its_own_text(aligned: LoadedModel, testbed: Testbed) -> None:
    lanes = lanes_of(aligned, testbed)
    for lane, found in zip(lanes, search(lanes, SMALL, broken=lambda *_: False), strict=True):
        assert tuple(lane.text_place.suffix_ids(found.text)) == found.best


@pytest.mark.parametrize("name", ["steps", "width", "topk", "check_every"])
def test_a_budget_of_zero_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=name):
        SearchOptions(**{name: 0})
