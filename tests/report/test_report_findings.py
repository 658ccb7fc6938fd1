"""The page opens with what was found, and with nothing that was not."""

from __future__ import annotations

from typing import Any

import pytest

from report.synthetic_deepening import compare_summary, deepen_summary, deepened_rates, deepening
from report.synthetic_run import rate, summary
from safedepth.report import findings
from safedepth.report.reading import complete

DEEPEN = complete(deepen_summary())


def with_paired(*rows: dict[str, Any]) -> dict[str, Any]:
    """The synthetic deepening with these paired tests in place of its own."""
    return complete(deepen_summary() | {"deepening": deepening() | {"paired": [*rows]}})


def cost(measure: str, low: float | None, high: float | None) -> dict[str, Any]:
    return {
        "model": "deepened", "against": "aligned", "what": "benign", "measure": measure, "judge": "rules",
        "before": 0.9, "after": 0.88, "difference": -0.02, "low": low, "high": high, "p": 0.5, "n": 100,
    }  # fmt: skip


def test_the_headline_says_what_was_found() -> None:
    assert findings.headline(summary("reproduce", base=True)) == [
        "The depth of the alignment, measured as half depth, is 5.25 tokens [4.50, 6.12].",
        "Asked outright, the aligned model gave 1.7 % [0.5, 5.9] harmful replies; with the first 40 tokens "
        "of a harmful answer forced, 80.8 % [72.9, 86.9] (judge oracle, on the continuation alone).",
        "Of the KL divergence between the aligned and the base model along the first 40 tokens of a harmful "
        "answer, 90.0 % [88.0, 92.0] falls on the first five.",
        "2 of 4 claims of the paper hold on these models; C2 did not; C4 could not be decided.",
    ]


def test_a_headline_without_numbers_makes_none_up() -> None:
    empty: dict[str, Any] = {"kind": "audit", "kl": None, "depth": {}, "rates": []}
    assert findings.headline(empty) == [
        "No measure of depth has a value in this run; the table of depths says why."
    ]
    assert findings.tiles(empty) == []


def test_unscored_rates_do_not_enter_the_headline() -> None:
    what: dict[str, Any] = {"model": "aligned", "attack": "prefill", "judge": "oracle", "scope": "full"}
    nothing = rate(0.5, k=40, **what) | {"n": 0, "harmful": 0, "value": None, "low": None, "high": None}
    told = findings.headline({"depth": {}, "rates": [rate(0.25, k=0, **what), nothing]})[1]
    assert told.startswith("Asked outright, the aligned model gave 25.0 % [")
    assert "forced" not in told


@pytest.mark.parametrize("name", ["org/toy-model", "/models/toy-model/", "toy-model"])
def test_the_title_names_the_model_without_its_folder(name: str) -> None:
    title = findings.title({"kind": "audit", "models": {"aligned": {"name": name}}})
    assert title == "How deep is the safety alignment of toy-model?"


def test_a_deepening_opens_with_before_and_after_and_the_control() -> None:
    assert findings.headline(DEEPEN) == [
        "With the first 40 tokens of a harmful answer forced, 80.8 % [72.9, 86.9] of the replies were "
        "harmful before recovery training and 4.2 % [1.8, 9.4] after (judge oracle, on the continuation "
        "alone); of the control, which was trained with nothing forced, 76.7 % [68.3, 83.3].",
        "At turn 3 of the scripted conversations and with 5 tokens forced, 86.7 % [79.4, 91.6] of the "
        "replies were harmful before and 4.2 % [1.8, 9.4] after.",
        "The depth of the alignment, measured as half depth, was 5.25 tokens [4.75, 5.75] before and is at "
        "least 40 tokens after.",
        "Of the KL divergence from the base model along the first 40 tokens of harmful answers, 90.0 % "
        "[85.0, 95.0] falls on the first five before and 34.6 % [32.7, 36.5] after.",
        "Right answers (benign): 92.5 % before and 91.7 % after; they did not fall significantly (difference "
        "−0.8 points [−3.8, +2.2]). Over-refusal (benign): 0.0 % before and 0.0 % after; it did not rise "
        "significantly (difference 0.0 points [−2.0, +2.0]). Over-refusal (lookalikes): 2.5 % before and "
        "15.0 % after; it rose significantly (difference +12.5 points [+5.5, +19.5]).",
        "Harmful replies after fine-tuning, of the model before and of the deepened one: 50 steps on harmful "
        "examples, 95.0 % [90.0, 100.0] and 90.0 % [85.0, 95.0]; 50 steps on benign examples, 30.0 % "
        "[25.0, 35.0] and 28.4 % [23.4, 33.4].",
    ]


@pytest.mark.parametrize(
    ("measure", "low", "high", "told"),
    [
        (
            "right answers",
            -0.05,
            0.01,
            "they did not fall significantly (difference −2.0 points [−5.0, +1.0]).",
        ),
        (
            "right answers",
            -0.04,
            0.0,
            "they did not fall significantly (difference −2.0 points [−4.0, 0.0]).",
        ),
        ("right answers", -0.03, -0.01, "they fell significantly (difference −2.0 points [−3.0, −1.0])."),
        ("right answers", 0.01, 0.03, "they rose significantly (difference −2.0 points [+1.0, +3.0])."),
        ("right answers", None, None, "no interval of the difference says whether they changed."),
        ("over-refusal", -0.05, 0.01, "it did not rise significantly (difference −2.0 points [−5.0, +1.0])."),
        ("over-refusal", 0.01, 0.03, "it rose significantly (difference −2.0 points [+1.0, +3.0])."),
        ("over-refusal", None, 0.03, "no interval of the difference says whether it changed."),
    ],
)
def test_that_utility_did_not_fall_is_said_only_where_the_interval_allows_it(
    measure: str, low: float | None, high: float | None, told: str
) -> None:
    [sentence] = [s for s in findings.headline(with_paired(cost(measure, low, high))) if "(benign)" in s]
    assert sentence.endswith(told)
    assert ("did not" in sentence) == ("did not" in told)


def test_the_worst_depth_after_training_is_told_where_it_is_another() -> None:
    rates = deepened_rates()
    for r in rates:
        if (r["model"], r["attack"], r.get("k")) == ("deepened", "prefill", 2):
            r["value"], r["low"], r["high"] = 0.3, 0.2, 0.4
    first = findings.headline(DEEPEN | {"rates": rates})[0]
    assert "80.8 % [72.9, 86.9] of the replies were harmful before recovery training" in first
    assert first.endswith("After, the most is 30.0 % [20.0, 40.0], with 2 tokens forced.")


def test_before_and_after_are_never_compared_across_judges_or_scopes() -> None:
    rates = [
        r
        for r in deepened_rates()
        if (r["model"] == "aligned") == (r["judge"] == "oracle") and r["attack"] == "prefill"
    ]
    found = findings.headline(DEEPEN | {"rates": rates})
    assert not any("forced" in sentence for sentence in found)


def test_the_key_figures_of_a_deepening_stand_with_the_interval_of_the_difference() -> None:
    told = [(tile.label, tile.value, tile.interval) for tile in findings.tiles(DEEPEN)]
    assert told == [
        ("Harmful replies, 40 tokens forced, before → after", "80.8 % → 4.2 %",
         "difference −76.8 points [−82.8, −70.8]"),
        ("Right answers, benign, before → after", "92.5 % → 91.7 %", "difference −0.8 points [−3.8, +2.2]"),
        ("Over-refusal, lookalikes, before → after", "2.5 % → 15.0 %",
         "difference +12.5 points [+5.5, +19.5]"),
        ("Half depth, after", "at least 40 tokens", "before: 5.25 tokens [4.75, 5.75]"),
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["prefill, 40 tokens", "prefill, 40 tokens forced"])
def test_a_paired_test_is_found_by_the_forced_tokens_it_names(what: str) -> None:
    found = findings.tiles(with_paired(cost("harmful replies", -0.8, -0.6) | {"what": what}))
    assert found[0].interval == "difference −2.0 points [−80.0, −60.0]"


def test_a_deepening_without_numbers_makes_none_up() -> None:
    empty = complete({"kind": "deepen"})
    assert findings.tiles(empty) == []
    assert findings.headline(empty) == [
        "This run does not hold both a model before and one after; the sections say what it holds."
    ]
    both = complete({"kind": "deepen", "deepening": {"models": ["aligned", "deepened"]}})
    assert findings.headline(both) == ["No number of this run compares the model before and after."]


def test_a_reproduction_tells_in_two_sentences_what_recovery_training_did() -> None:
    alone = summary("reproduce", base=True)
    rates = [*alone["rates"], *(r for r in deepened_rates() if r["model"] != "aligned")]
    both = complete(alone | {"rates": rates, "deepening": deepening()})
    more = [s for s in findings.headline(both) if s not in findings.headline(alone)]
    assert len(more) == 2
    assert "before recovery training" in more[0]
    assert more[1].startswith("Right answers (benign): ")
    labels = [tile.label for tile in findings.tiles(both)]
    assert labels[-1] == "Harmful replies, 40 tokens forced, before → after"
    assert len(labels) == len(findings.tiles(alone)) == 4


def test_a_comparison_opens_with_the_studys_own_findings() -> None:
    found = complete(compare_summary())
    assert findings.title(found) == "Ways of recovery training, compared at equal updates"
    assert findings.headline(found) == [
        "7 variants of recovery training, each with the same number of updates, compared with uniform.",
        "Synthetic: dynamic recovery left fewer harmful replies than uniform.",
    ]


def test_a_deepening_is_named_after_the_model_it_began_with() -> None:
    assert "the safety alignment of aligned?" in findings.title(DEEPEN)
    assert "of this model?" in findings.title({"kind": "deepen", "models": {"aligned": None}})
