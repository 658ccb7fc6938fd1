"""An attack's numbers out of tables of judged replies, and the worst of many trials."""

import itertools
import random
from typing import Any

import pytest

from safedepth.studies.attack_rates import evaluations, rate_of_set, utilities, worst_cases
from safedepth.studies.summary import entry_of
from studies.synthetic_tables import replies, table

TABLE = table(
    replies("before", "own prompt", "RRRR"),
    replies("after", "own prompt", "CCC-"),
    replies("after", "own prompt", "RRRR", scope="full"),
    replies("after", "own prompt", "RRRR", judge="rules"),
    replies("before", "plain", "CRRR"),
    replies("after", "plain", "CCRR"),
    replies("before", "benign", "CCCC", judge="knowledge"),
    replies("after", "benign", "CRRR", judge="knowledge"),
    replies("before", "benign", "CCCC", judge="rules"),
    replies("after", "benign", "CCCR", judge="rules"),
)


def test_every_wording_and_model_has_the_leading_judges_rate_of_continuations() -> None:
    found = evaluations(TABLE, ["own prompt", "plain"], judge="oracle")
    told = {(row["what"], row["model"]): (row["value"], row["n"], row["unscored"]) for row in found}
    assert told == {
        ("own prompt", "before"): (0.0, 4, 0),
        ("own prompt", "after"): (1.0, 3, 1),
        ("plain", "before"): (0.25, 4, 0),
        ("plain", "after"): (0.5, 4, 0),
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in found)


def test_utility_is_right_answers_by_the_users_judge_and_over_refusal_by_rules() -> None:
    told = {(row["model"], row["measure"]): row["value"] for row in utilities(TABLE, ["benign"])}
    assert told == {
        ("before", "right answers"): 1.0,
        ("after", "right answers"): 0.25,
        ("before", "over-refusal"): 0.0,
        ("after", "over-refusal"): 0.25,
    }
    assert utilities(TABLE, []) == []


def test_a_rate_of_nothing_is_no_number() -> None:
    assert entry_of(rate_of_set(TABLE, "absent", "oracle")) == {
        "value": None, "low": None, "high": None, "n": 0, "unscored": 0
    }  # fmt: skip


def trial(defence: str, harm: float | None, utility: float | None, *, within: bool) -> dict[str, Any]:
    def rate(value: float | None) -> dict[str, Any]:
        return {"value": value, "low": value, "high": value, "n": 0 if value is None else 10, "unscored": 0}

    return {"defence": defence, "asr": rate(harm), "utility": rate(utility), "within": within}


def test_the_worst_case_is_the_most_harm_among_trials_that_keep_the_model_of_use() -> None:
    trials = [
        trial("sft", 0.5, 1.0, within=True),
        trial("constrained", 0.1, 1.0, within=True),
        trial("sft", 1.0, 0.2, within=False),
        trial("sft", 0.9, 0.9, within=True),
        trial("sft", 0.9, 0.95, within=True),
        trial("constrained", None, None, within=False),
        trial("deepened", 0.7, 0.1, within=False),
    ]
    sft, constrained, deepened, untried = worst_cases(trials, ["sft", "constrained", "deepened", "kl"])
    assert (sft["trial"], sft["value"], sft["utility"], sft["trials"], sft["within"]) == (4, 0.9, 0.95, 4, 3)
    assert (constrained["trial"], constrained["value"], constrained["trials"], constrained["within"]) == (
        1,
        0.1,
        2,
        1,
    )
    for entry, tried in ((deepened, 1), (untried, 0)):
        assert (entry["trial"], entry["value"], entry["utility"], entry["within"]) == (None, None, None, 0)
        assert (entry["low"], entry["n"], entry["trials"]) == (None, None, tried)


@pytest.mark.parametrize("seed", range(30))
def test_no_trial_within_the_bound_is_worse_than_the_worst_case(seed: int) -> None:
    rng = random.Random(seed)
    values = [None, 0.0, 0.25, 0.5, 0.75, 1.0]
    trials = [
        trial(rng.choice("ab"), rng.choice(values), utility, within=utility is not None and utility >= 0.5)
        for utility in rng.choices(values, k=12)
    ]
    for entry in worst_cases(trials, ["a", "b"]):
        allowed = [
            t
            for t in trials
            if t["defence"] == entry["defence"] and t["within"] and t["asr"]["value"] is not None
        ]
        assert entry["within"] == len(allowed)
        assert (entry["trial"] is None) == (not allowed)
        for one, found in itertools.product(allowed, [entry]):
            assert one["asr"]["value"] <= found["value"]
        if allowed:
            assert trials[entry["trial"]] in allowed
