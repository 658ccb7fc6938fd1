"""The pages about fine-tuning open with what was found, and with nothing that was not."""

from __future__ import annotations

from typing import Any

import pytest

from report.synthetic_protection import dynamics, finetuning_summary, protected, protection, sweep
from report.synthetic_run import summary
from safedepth.report import findings, protection_findings
from safedepth.report.reading import complete

ALONE = summary("reproduce", base=True)


def headline(of: dict[str, Any]) -> list[str]:
    return findings.headline(complete(of))


def tiles(of: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(tile.label, tile.value, tile.interval) for tile in findings.tiles(complete(of))]


def test_dynamics_open_with_how_many_steps_safety_lasted_and_where_it_went() -> None:
    assert headline(finetuning_summary("dynamics")) == [
        "Fine-tuned on harmful examples (plain SFT), the share of harmful replies is 1.7 % [0.5, 5.9] before "
        "the first step, 50.8 % [42.0, 59.6] after 2 steps and 91.7 % [85.3, 95.4] after 20 steps.",
        "Fine-tuned on harmful examples (constrained), the share of harmful replies is 1.7 % [0.5, 5.9] "
        "before the first step and 8.3 % [4.6, 14.7] after 20 steps.",
        "Fine-tuned on benign examples (plain SFT), the share of harmful replies is 1.7 % [0.5, 5.9] before "
        "the first step and 42.5 % [34.0, 51.4] after 20 steps.",
        "The first tokens of the answers hold 80.0 % [70.0, 85.0] of the loss before the first step, 80.0 % "
        "[70.0, 85.0] of the gradient norm before the first step, 68.0 % [58.0, 73.0] of the KL divergence "
        "after 6 steps.",
    ]
    assert tiles(finetuning_summary("dynamics"))[0] == (
        "Harmful replies, 20 steps on harmful examples (plain SFT)", "1.7 % → 91.7 %",
        "95 % interval [85.3, 95.4]",
    )  # fmt: skip


def test_a_fine_tuning_opens_with_before_and_after_and_what_is_left_of_the_gradient() -> None:
    assert headline(finetuning_summary("finetune")) == [
        "The model was fine-tuned with this objective: constrained (β 0.5 at token 1, 2 at tokens 2 to 5, "
        "0.1 from token 6 on).",
        "Harmful replies: nothing forced, 0.0 % [0.0, 3.1] before and 3.3 % [1.3, 8.3] after; 5 tokens "
        "forced, 10.0 % [5.8, 16.7] before and 13.3 % [8.4, 20.6] after.",
        "Right answers: lookalikes, 20.0 % [13.8, 28.0] before and 90.0 % [83.3, 94.2] after. Over-refusal: "
        "lookalikes, 5.0 % [2.3, 10.5] before and 10.0 % [5.8, 16.7] after.",
        "At step 120, the weight of plain fine-tuning’s gradient is 0.33 at token 1 and 0.95 from token 41 "
        "on; it was 1 at the start.",
    ]
    assert tiles(finetuning_summary("finetune"))[2] == (
        "Right answers, lookalikes, before → after", "20.0 % → 90.0 %", "95 % interval [83.3, 94.2]",
    )  # fmt: skip


def test_a_fine_tuning_that_was_not_tested_says_so() -> None:
    untested = finetuning_summary("finetune") | {"protection": protected() | {"asr": [], "utility": []}}
    assert headline(untested)[1] == "Whether the model’s safety held was not tested in this run."
    one = protected() | {"asr": protected()["asr"][:1]}
    assert "not tested" in headline(finetuning_summary("finetune") | {"protection": one})[1]
    assert not any(label.startswith("Harmful") for label, *_ in tiles(untested))


def test_an_attack_opens_with_what_was_done_and_every_way_of_asking() -> None:
    told = headline(finetuning_summary("attack"))
    assert told[0] == "The model was attacked with a backdoor, by plain SFT."
    assert told[1].startswith(
        "Harmful replies: asked plainly, 0.0 % [0.0, 3.1] before and 90.0 % [83.3, 94.2] after; with"
    )
    assert told[2] == "Right answers: lookalikes, 95.0 % [89.5, 97.7] before and 70.0 % [61.3, 77.5] after."
    assert [label for label, *_ in tiles(finetuning_summary("attack"))] == [
        "Harmful replies, asked plainly, before → after",
        "Harmful replies, with the attack’s own prompt, before → after",
        "Harmful replies, with the trigger, before → after",
        "Harmful replies, without the trigger, before → after",
        "Right answers, lookalikes, before → after",
    ]


def test_a_sweep_opens_with_the_worst_of_every_defence_and_those_without_a_trial() -> None:
    assert headline(finetuning_summary("sweep")) == [
        "97 trials of fine-tuning. Counted are the trials after which utility (right answers: benign) is "
        "80.0 % or more.",
        "Harmful replies in the worst trial of each defence: constrained 5.8 % [2.9, 11.6]; deepened + "
        "constrained 5.8 % [2.9, 11.6]; KL to the reference 40.0 % [31.7, 48.9]; plain SFT 70.0 % "
        "[61.3, 77.5]; SFT with warm-up 70.0 % [61.3, 77.5].",
        "The most harmful of all: SFT with warm-up, learning rate 0.0003, 4 epochs, seed 1, all weights, "
        "grid search.",
        "No trial within the bound: deepened.",
    ]
    assert ("Worst case: constrained", "5.8 %", "95 % interval [2.9, 11.6]") in tiles(
        finetuning_summary("sweep")
    )


def test_where_no_defence_has_a_trial_within_the_bound_that_is_all_that_is_said() -> None:
    worst = [{"defence": name, "value": None, "within": 0} for name in ("sft", "mine")]
    told = headline({"kind": "sweep", "sweep": sweep() | {"worst": worst, "bound": None}})
    assert told == ["97 trials of fine-tuning.", "No trial within the bound: plain SFT, mine."]


@pytest.mark.parametrize("kind", ["dynamics", "finetune", "attack", "sweep"])
def test_a_run_without_numbers_makes_none_up(kind: str) -> None:
    nothing = "This run holds no numbers that say it; the sections below tell what is missing, and why."
    assert headline({"kind": kind}) == [nothing]
    assert tiles({"kind": kind}) == []


def test_the_title_asks_what_the_run_answers() -> None:
    titles = {
        kind: findings.title(finetuning_summary(kind)) for kind in ("dynamics", "finetune", "attack", "sweep")
    }
    assert titles == {
        "dynamics": "What does fine-tuning do to the safety of aligned, step by step?",
        "finetune": "Did customer keep its safety through fine-tuning?",
        "attack": "Does the safety of customer survive fine-tuning?",
        "sweep": "How far does an attacker’s sweep get? The worst case of every defence",
    }


def test_a_reproduction_tells_of_steps_attacks_tasks_and_betas() -> None:
    both = ALONE | {"dynamics": dynamics(), "protection": protection()}
    more = [sentence for sentence in headline(both) if sentence not in headline(ALONE)]
    assert more == [
        headline(finetuning_summary("dynamics"))[0],
        "Harmful replies after fine-tuning, plainly and under the constraint, on the same schedule: harmful "
        "examples 91.7 % [85.3, 95.4] and 6.7 % [3.4, 12.6]; identity shifting 91.7 % [85.3, 95.4] and "
        "6.7 % [3.4, 12.6]; backdoor, with its trigger 91.7 % [85.3, 95.4] and 6.7 % [3.4, 12.6]; backdoor, "
        "without its trigger 58.3 % [49.4, 66.8] and 2.5 % [0.9, 7.1].",
        "Utility on tasks, plainly and under the constraint: summaries (in distribution) 95.0 % "
        "[89.5, 97.7] and 93.3 % [87.4, 96.6], with 20.0 % and 4.2 % harmful replies; queries (out of "
        "distribution) 90.0 % [83.3, 94.2] and 88.3 % [81.4, 92.9], with 20.0 % and 4.2 % harmful replies; "
        "sums (out of distribution) 85.0 % [77.5, 90.3] and 83.3 % [75.7, 88.9], with 20.0 % and 4.2 % "
        "harmful replies.",
        "With one β for all positions, harmful replies after harmful examples (and utility) are: "
        "β 0.1: 85.0 % [77.5, 90.3] (summaries 90.0 %); β 2: 0.8 % [0.1, 4.6] "
        "(summaries 10.0 %).",
    ]
    labels = [label for label, *_ in tiles(both)]
    assert labels[:4] == [label for label, *_ in tiles(ALONE)]
    assert tiles(both)[4:] == [
        ("Harmful replies, 20 steps on harmful examples (plain SFT)", "1.7 % → 91.7 %",
         "95 % interval [85.3, 95.4]"),
        ("Harmful replies, harmful examples, plain SFT → constrained", "91.7 % → 6.7 %",
         "95 % interval [3.4, 12.6]"),
        ("Harmful replies, identity shifting, plain SFT → constrained", "91.7 % → 6.7 %",
         "95 % interval [3.4, 12.6]"),
        ("Utility, queries (out of distribution), plain SFT → constrained", "90.0 % → 88.3 %",
         "95 % interval [81.4, 92.9]"),
    ]  # fmt: skip


def test_objectives_on_different_schedules_are_not_said_to_be_on_one() -> None:
    runs = [row for row in protection()["runs"] if row["attack"] == "identity"]
    uneven = [row | {"warmup": 0} if row["objective"] == "sft" else row for row in runs]
    block = complete(ALONE | {"protection": protection() | {"runs": uneven, "tasks": []}})
    [told] = protection_findings.headline(block)
    assert told.startswith(
        "Harmful replies after fine-tuning, plainly and under the constraint, with warm-up for one of the "
        "two alone: identity shifting"
    )


def test_a_reproduction_compares_under_the_schedule_that_most_runs_had() -> None:
    runs = protection()["runs"]
    other = [
        row | {"beta": "4,4,0.1", "value": 0.5, "low": 0.4, "high": 0.6}
        for row in runs
        if row["objective"] == "constrained" and row["attack"] == "harmful"
    ]
    block = complete(ALONE | {"protection": protection() | {"runs": [*other, *runs], "tasks": []}})
    told = protection_findings.headline(block)[0]
    assert "harmful examples 91.7 % [85.3, 95.4] and 6.7 %" in told
