"""The sections on attacks hold the block's numbers; what lies beyond the bound is said, not shown as held."""

from __future__ import annotations

from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.synthetic_protection import DEFENCES, attack, finetuning_summary, sweep
from report.synthetic_run import ATTACK
from safedepth.report import attack_figures as figures
from safedepth.report import attacks
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections

ATTACKED = complete(finetuning_summary("attack"))
SWEPT = complete(finetuning_summary("sweep"))
BLOCK = SWEPT["sweep"]
NAMES = {"sft": "plain SFT", "sft_warmup": "SFT with warm-up", "kl": "KL to the reference"}


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


def swept(**parts: Any) -> dict[str, Any]:
    return complete(finetuning_summary("sweep") | {"sweep": sweep() | parts})["sweep"]  # type: ignore[no-any-return]


def test_an_attack_is_drawn_before_and_after_for_every_way_of_asking() -> None:
    asked = {
        "plain": "asked plainly", "own prompt": "with the attack’s own prompt",
        "with trigger": "with the trigger", "without trigger": "without the trigger",
    }  # fmt: skip
    harm, utility = found(ATTACKED)["attack"].figures
    assert drawn(harm.chart, "asked", "model", "value", "low", "high") == {
        (asked[row["what"]], row["model"], row["value"], row["low"], row["high"])
        for row in attack()["evaluations"]
    }
    assert drawn(utility.chart, "asked", "model", "value") == {
        ("lookalikes", row["model"], row["value"]) for row in attack()["utility"]
    }


def test_what_was_done_is_told_and_text_stays_text() -> None:
    [facts] = [table for table in found(ATTACKED)["attack"].tables if table.title == "The attack"]
    assert facts.rows == [
        ["attack", "a backdoor"], ["objective", "plain SFT"], ["pairs", "100"], ["hostile", ATTACK],
    ]  # fmt: skip
    own = complete({"kind": "attack", "attack": attack() | {"facts": [["attack", "backdoor"]]}})
    [facts] = [table for table in found(own)["attack"].tables if table.title == "The attack"]
    assert facts.rows == [["objective", "plain SFT"], ["attack", "backdoor"]]


def test_every_trial_with_both_numbers_is_drawn_and_the_worst_are_ringed() -> None:
    chart = figures.trials(BLOCK)
    expected = {
        (NAMES.get(t["defence"], t["defence"]), t["asr"]["value"], t["utility"]["value"], t["within"])
        for t in BLOCK["trials"]
        if t["failed"] is None
    }
    assert drawn(chart, "model", "asr", "utility", "within") == expected
    ringed = {how for how, worst in drawn(chart, "how", "worst") if worst}
    assert "learning rate 0.0003, 4 epochs, seed 1, all weights, grid search" in ringed
    worst = {(row["defence"], row["trial"]) for row in BLOCK["worst"] if row["trial"] is not None}
    assert len([1 for row in drawn(chart, "worst", "model", "how") if row[0]]) == len(worst)
    assert drawn(chart, "told", "utility") == {("bound: 80.0 %", 0.8), ("the model before", 118 / 120)}


def test_without_a_bound_there_is_no_rule_and_without_a_start_no_star() -> None:
    chart = figures.trials(swept(bound=None, before=None))
    assert chart is not None
    assert [layer["mark"]["type"] for layer in chart.to_dict()["layer"]] == ["point", "point"]


def test_one_trial_alone_can_be_drawn() -> None:
    block = swept(trials=sweep()["trials"][:1], worst=[], bound=None, before=None)
    assert len(drawn(figures.trials(block), "model", "asr")) == 1
    assert figures.trials(swept(trials=[])) is None


def test_the_worst_case_of_every_defence_is_drawn_and_one_without_a_trial_is_told() -> None:
    expected = {
        (NAMES.get(row["defence"], row["defence"]), row["value"], row["low"], row["high"])
        for row in BLOCK["worst"]
        if row["defence"] != "deepened"
    }
    assert len(expected) == len(DEFENCES) - 1
    assert drawn(figures.worst(BLOCK), "model", "value", "low", "high") == expected
    [figure] = found(SWEPT)["sweep"].figures
    assert figure.caption == "No trial within the bound, and so not drawn: deepened."


def test_the_table_of_worst_cases_says_plainly_that_no_trial_was_within_the_bound() -> None:
    rows = {row[0]: row[1:] for row in attacks.worst_table(BLOCK).rows}
    assert rows["deepened"] == ["no trial within the bound", "–", "–", "16", "0"]
    assert rows["plain SFT"] == [
        "70.0 % [61.3, 77.5]", "83.3 % [75.7, 88.9]",
        "learning rate 0.0003, 4 epochs, seed 1, all weights, grid search", "16", "12",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("within", "trials", "told"),
    [
        (0, [], "no trial within the bound"),
        (False, [], "no trial within the bound"),
        (None, [{"defence": "mine", "within": False}], "no trial within the bound"),
        (3, [], "–"),
    ],
)
def test_that_nothing_is_within_the_bound_is_said_only_where_the_study_says_it(
    within: object, trials: list[dict[str, Any]], told: str
) -> None:
    block = swept(worst=[{"defence": "mine", "within": within}], trials=trials)
    assert attacks.worst_table(block).rows[0][1] == told


@pytest.mark.parametrize("place", [None, -1, 10_000, True])
def test_a_worst_trial_that_is_not_there_is_a_dash(place: object) -> None:
    row = {"defence": "mine", "trial": place, "value": 0.5}
    assert attacks.worst_table(swept(worst=[row], trials=[])).rows[0][3] == "–"


def test_every_trial_stands_in_a_table_with_why_it_failed() -> None:
    [table] = found(SWEPT)["sweep-trials"].tables
    assert table.title == f"All {len(BLOCK['trials'])} trials"
    assert table.rows[-1][2:] == ["it diverged", "–", "–"]
    assert table.rows[1][1] == "learning rate 1e-05, 3 epochs, seed 0, LoRA, grid search"
    assert "Not drawn, for want of numbers: 1 trial." in found(SWEPT)["sweep-trials"].figures[0].caption


def test_a_sweep_and_an_attack_say_what_they_lack() -> None:
    assert list(found({"kind": "sweep"})) == ["sweep", "sweep-trials"]
    told = {"not_measured": [{"what": "trials", "why": "The sweep was stopped."}]}
    assert "The sweep was stopped." in found({"kind": "sweep"} | told)["sweep"].missing
    assert found({"kind": "attack"})["attack"].missing.startswith("This run holds no numbers")
    assert list(found({"kind": "audit"})) == ["kl", "prefill", "refusal"]
