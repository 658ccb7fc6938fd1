"""An attacker that learns: it finds the attack that works, prompt by prompt, and repeats itself exactly."""

from collections import Counter

import numpy as np

from safedepth.measure.bandit import Beliefs
from safedepth.nouns import Outcome

ARMS = ("weak", "none", "strong")
RATES = {"weak": 0.1, "none": 0.0, "strong": 0.8}


def _attacked(seed: int, rates: dict[str, dict[str, float]], *, rounds: int = 10) -> Counter[str]:
    """How often each arm was chosen on 40 prompts of two categories, every prompt tried every round."""
    beliefs, luck = Beliefs(ARMS, seed), np.random.default_rng(seed)
    chosen: Counter[str] = Counter()
    for turn in range(rounds):
        tries = [(f"p{n}", f"c{n % 2}", beliefs.choose(f"p{n}", f"c{n % 2}", turn)) for n in range(40)]
        for prompt, category, arm in tries:
            assert arm is not None
            chosen[arm] += turn > rounds // 2
            outcome = Outcome.COMPLIED if luck.random() < rates[category][arm] else Outcome.REFUSED
            beliefs.learn(arm, prompt, category, outcome)
    return chosen


def test_what_works_is_chosen_far_more_often_than_what_does_not() -> None:
    chosen = _attacked(0, {"c0": RATES, "c1": RATES})
    assert chosen["strong"] > 0.8 * chosen.total()


def test_categories_learn_apart() -> None:
    only = {"weak": 0.0, "none": 0.9, "strong": 0.0}
    beliefs = Beliefs(ARMS, 0)
    for n in range(6):
        for category, rates in (("a", RATES), ("b", only)):
            for arm in ARMS:
                outcome = Outcome.COMPLIED if rates[arm] > 0.5 else Outcome.REFUSED
                beliefs.learn(arm, f"{category}{n}", category, outcome)
    picks = {c: Counter(beliefs.choose(f"new{n}", c, 0) for n in range(50)) for c in ("a", "b")}
    assert picks["a"].most_common(1)[0][0] == "strong"
    assert picks["b"].most_common(1)[0][0] == "none"


def test_what_failed_on_a_prompt_is_believed_less_there_than_elsewhere() -> None:
    beliefs = Beliefs(ARMS, 0)
    beliefs.learn("strong", "p", "", Outcome.REFUSED)
    here, there = beliefs.belief("strong", "p", ""), beliefs.belief("strong", "q", "")
    assert here[0] == there[0]
    assert here[1] > there[1] > 1


def test_what_is_impossible_on_a_prompt_is_not_chosen_there_again() -> None:
    beliefs = Beliefs(ARMS, 0)
    for arm in ARMS[:2]:
        beliefs.learn(arm, "p", "", Outcome.UNSCORED, impossible=True)
    assert {beliefs.choose("p", "", turn) for turn in range(20)} == {"strong"}
    assert len({beliefs.choose("q", "", turn) for turn in range(20)}) == 3
    beliefs.learn("strong", "p", "", Outcome.UNSCORED, impossible=True)
    assert beliefs.choose("p", "", 21) is None


def test_an_unscored_reply_teaches_nothing() -> None:
    beliefs = Beliefs(ARMS, 0)
    beliefs.learn("weak", "p", "c", Outcome.UNSCORED)
    assert beliefs.belief("weak", "p", "c") == (1, 1)


def test_the_same_seed_chooses_the_same_in_any_order_of_prompts() -> None:
    first, second, other = Beliefs(ARMS, 3), Beliefs(ARMS, 3), Beliefs(ARMS, 4)
    names = [f"p{n}" for n in range(30)]
    forward = {name: first.choose(name, "", 1) for name in names}
    backward = {name: second.choose(name, "", 1) for name in reversed(names)}
    assert forward == backward
    assert forward != {name: other.choose(name, "", 1) for name in names}
