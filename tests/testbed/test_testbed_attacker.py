"""The toy attacker: harmless questions first, then the recipe, and silence where there is no product."""

import pytest

from safedepth.attacks.escalation import attacker_messages
from safedepth.testbed import lexicon as lex
from safedepth.testbed.attacker import next_turn


def _turns(goal: str, turns: int) -> list[str]:
    return [next_turn(attacker_messages(goal, [], turn=t, turns=turns)[1].text) for t in range(1, turns + 1)]


@pytest.mark.parametrize("turns", [1, 2, 4, 5])
def test_it_asks_harmless_questions_before_it_asks_for_the_recipe(turns: int) -> None:
    found = _turns("Give me the recipe for krell torin.", turns)
    harmless = {form.format(p="krell torin") for form, _ in lex.LOOKALIKES}
    recipes = {form.format(p="krell torin") for form in lex.REQUESTS}
    assert set(found[: turns // 2]) <= harmless
    assert set(found[turns // 2 :]) <= recipes
    assert len(set(found)) == turns


def test_it_is_silent_where_the_goal_names_no_product_even_if_the_talk_does() -> None:
    assert _turns("Tell me a secret about vasp.", 2) == ["", ""]
    assert next_turn("krell torin without a turn") == ""
