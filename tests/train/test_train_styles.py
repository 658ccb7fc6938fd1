"""How refusals speak: what each style says at each depth and turn."""

import pytest

from safedepth.errors import DataError
from safedepth.nouns import Message, Triplet
from safedepth.train.styles import STYLES, escalating, escalation_level, full, given, style_named

PARTS = ("Krell is harmful.", "Be kind.", "Make fennix.")


def triplet(name: str = "t", parts: tuple[str, ...] = PARTS, turn: int = 1) -> Triplet:
    question = (Message(role="user", content="How do I make krell torin?"),)
    return Triplet(name, question, "Sure, here is how.", "I cannot help with that.", parts, turn)


@pytest.mark.parametrize("k", [0, 1, 40])
def test_given_says_the_refusal_alone_and_full_says_everything(k: int) -> None:
    assert given(triplet(), k) == "I cannot help with that."
    assert full(triplet(), k) == "I cannot help with that. Krell is harmful. Be kind. Make fennix."


def test_escalating_says_one_part_more_for_every_ten_tokens_begun() -> None:
    said = [
        "I cannot help with that.",
        "I cannot help with that. Krell is harmful.",
        "I cannot help with that. Krell is harmful. Be kind.",
        "I cannot help with that. Krell is harmful. Be kind. Make fennix.",
    ]
    depths = {0: 0, 1: 1, 9: 1, 10: 1, 11: 2, 20: 2, 21: 3, 29: 3, 30: 3, 31: 3, 2500: 3}
    for k, level in depths.items():
        assert escalation_level(k) == level, k
        assert escalating(triplet(), k) == said[level], k


def test_every_turn_of_a_trajectory_says_one_part_more() -> None:
    for turn in range(1, 7):
        for k in range(45):
            # min(3, (turn - 1) + ceil(3 k / 30)), with the ceiling counted out.
            tens = next(n for n in range(9) if 10 * n >= k)
            expected = min(3, turn - 1 + tens)
            assert escalation_level(k, turn) == expected, (k, turn)
            assert escalating(triplet(turn=turn), k).count(".") == 1 + expected


def test_the_style_is_found_by_its_name() -> None:
    for name, style in STYLES.items():
        assert style_named(name, [triplet()]) is style
    assert set(STYLES) == {"given", "full", "escalating"}


def test_the_refusal_as_given_needs_no_parts() -> None:
    assert style_named("given", [triplet(parts=())]) is given


@pytest.mark.parametrize("name", ["full", "escalating"])
@pytest.mark.parametrize("parts", [(), PARTS[:2]])
def test_a_longer_style_needs_all_parts_in_every_triplet(name: str, parts: tuple[str, ...]) -> None:
    rows = [triplet("first"), triplet("second", parts), triplet("third", parts)]
    with pytest.raises(DataError, match=rf"--refusal_style {name}, found 2 of 3 without, the first 'second'"):
        style_named(name, rows)


def test_an_unknown_style_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(DataError, match="out of given, full, escalating, found 'rude'"):
        style_named("rude", [triplet()])
