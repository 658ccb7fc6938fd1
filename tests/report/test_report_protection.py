"""The sections on constrained fine-tuning hold the block's numbers, all of them and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.synthetic_deepening import base_summary
from report.synthetic_protection import (
    ATTACKS,
    BETAS,
    GROUPS,
    OBJECTIVES,
    TASKS,
    diagnostics,
    finetuning_summary,
    protected,
    protection,
)
from safedepth.report import objectives, protection_figures, tested
from safedepth.report import protection_tables as tables
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections

FINETUNE = complete(finetuning_summary("finetune"))
ONE = FINETUNE["protection"]
REPRODUCE = complete(base_summary("reproduce") | {"protection": protection()})
MANY = REPRODUCE["protection"]
NAMES = {"sft": "plain SFT", "constrained": "constrained", "kl": "KL to the reference"}


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


def named(row: dict[str, Any]) -> str:
    """What a row of the synthetic runs is called: sft and constrained were run with and without warm-up."""
    told = "" if row["objective"] == "kl" else ", warm-up" if row["warmup"] else ", no warm-up"
    return NAMES[row["objective"]] + told


@pytest.mark.parametrize("measure", ["nll", "weight", "kl", "advantage"])
def test_diagnostics_are_drawn_for_every_step_and_group_of_positions(measure: str) -> None:
    names = ["1", "2", "3", "4", "5", "6–10", "11–20", "21–40", "41 on"]
    assert protection_figures.groups_of(ONE["diagnostics"]) == names
    group = dict(zip(GROUPS, names, strict=True))
    expected = {
        (row["step"], group[row["position"], row["last"]], row[measure], row["n"])
        for row in ONE["diagnostics"]
    }
    chart = protection_figures.diagnostics(ONE["diagnostics"], measure)
    assert drawn(chart, "step", "group", "value", "n") == expected


@pytest.mark.parametrize(("measure", "begins"), [("weight", {(1,)}), ("advantage", {(0,)}), ("kl", set())])
def test_a_rule_says_where_a_constrained_training_begins(measure: str, begins: set[tuple[int]]) -> None:
    rows = [ONE["diagnostics"][0] | {measure: 0.5}]
    assert drawn(protection_figures.diagnostics(rows, measure), "value") == {(0.5,), *begins}


def test_what_was_not_logged_is_not_drawn() -> None:
    rows = [row | {"kl": None} for row in ONE["diagnostics"]]
    assert protection_figures.diagnostics(rows, "kl") is None
    without = found(finetuning_summary("finetune") | {"protection": protected() | {"diagnostics": rows}})
    ids = [figure.id for figure in without["protection-diagnostics"].figures]
    assert ids == ["protection-betas-by-token", "protection-nll", "protection-weight", "protection-advantage"]


def test_every_schedule_of_beta_is_drawn() -> None:
    expected = {(name, position, beta) for name, table in BETAS.items() for position, beta in table}
    assert drawn(protection_figures.betas(BETAS), "model", "position", "beta") == expected
    assert protection_figures.betas({}) is None


def test_a_schedule_is_told_in_words() -> None:
    assert objectives.beta_words(BETAS["paper"]) == "0.5 at token 1, 2 at tokens 2 to 5, 0.1 from token 6 on"
    assert objectives.beta_words(BETAS["uniform 2"]) == "2 at every token"
    assert objectives.beta_words([]) == ""


@pytest.mark.parametrize(
    ("beta", "uniform"),
    [("paper", False), ("uniform 2", True), ("2", True), ("0.5,2,0.1", False), ("", False), (None, False)],
)
def test_one_beta_for_all_positions_is_told_from_a_schedule(beta: str | None, uniform: bool) -> None:
    assert objectives.is_uniform(beta, {}) == uniform
    assert objectives.is_uniform(beta, BETAS) == uniform
    assert objectives.is_uniform("mine", {"mine": BETAS["uniform 2"]})


def test_runs_are_drawn_after_their_last_step_with_warm_up_told_for_both() -> None:
    scheduled = [row for row in MANY["runs"] if not str(row["beta"]).startswith("uniform")]
    expected = {
        (objectives.ATTACKS[row["attack"]], named(row), row["value"], row["low"], row["high"])
        for row in scheduled
        if row["step"] == 20
    }
    assert len(expected) == len(ATTACKS) * len(OBJECTIVES) + 2
    chart = protection_figures.runs(MANY)
    assert drawn(chart, "attack", "model", "value", "low", "high") == expected
    assert protection_figures.objectives(MANY)[:2] == ["plain SFT, warm-up", "plain SFT, no warm-up"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_runs_that_were_looked_at_several_times_have_a_curve(attack: str) -> None:
    assert protection_figures.attacks_with_steps(MANY) == list(ATTACKS)
    expected = {
        (named(row), row["step"], row["value"])
        for row in MANY["runs"]
        if row["attack"] == attack and not str(row["beta"]).startswith("uniform")
    }
    assert drawn(protection_figures.curve(MANY, attack), "model", "step", "value") == expected


def test_runs_of_several_models_are_told_apart_by_their_model() -> None:
    rows = [
        row | {"model": model, "step": 20} for row in MANY["runs"][:3] for model in ("aligned", "deepened")
    ]
    names = {name for (name,) in drawn(protection_figures.runs(MANY | {"runs": rows, "tasks": []}), "model")}
    assert names == {"plain SFT, aligned", "plain SFT, deepened"}


def test_where_every_beta_is_uniform_all_runs_are_drawn() -> None:
    rows = [row for row in MANY["runs"] if str(row["beta"]).startswith("uniform")]
    block = MANY | {"runs": rows, "tasks": []}
    assert {model for _, model in drawn(protection_figures.runs(block), "attack", "model")} == {
        "constrained, β 0.1",
        "constrained, β 2",
    }


@pytest.mark.parametrize("start", ["in", "out"])
@pytest.mark.parametrize("measure", ["utility", "asr"])
def test_tasks_are_drawn_apart_by_how_their_answers_begin(start: str, measure: str) -> None:
    metric = {"rouge1": "ROUGE-1", "accuracy": "accuracy"}
    expected = {
        (
            row["task"] + (f" ({metric[row['metric']]})" if measure == "utility" else ""),
            named(row),
            row[measure]["value"],
            row[measure]["low"],
        )
        for row in MANY["tasks"]
        if row["start"] == start and not str(row["beta"]).startswith("uniform")
    }
    assert len(expected) == len(OBJECTIVES) * sum(of == start for _, of, _ in TASKS)
    chart = protection_figures.tasks(MANY, start, measure)
    assert drawn(chart, "task", "model", "value", "low") == expected


def test_an_objective_has_one_colour_in_all_charts_of_the_page() -> None:
    colours: dict[str, set[str]] = {}
    charts = [figure.chart for name in ("protection", "protection-tasks")
              for figure in found(REPRODUCE)[name].figures]  # fmt: skip
    assert len(charts) == 9
    for chart in charts:
        for layer in chart.to_dict(validate=False)["layer"]:
            scale = layer["encoding"]["color"]["scale"]
            for name, colour in zip(scale["domain"], scale["range"], strict=True):
                colours.setdefault(name, set()).add(colour)
    assert len(colours) == 5
    assert all(len(of) == 1 for of in colours.values())
    assert len(set.union(*colours.values())) == 5


def test_the_table_of_betas_holds_what_was_measured_under_one_beta_for_all_positions() -> None:
    table = tables.betas(MANY)
    assert table.head == ["β", "harmful replies, harmful examples", "utility, summaries"]
    assert table.rows == [
        ["paper: 0.5 at token 1, 2 at tokens 2 to 5, 0.1 from token 6 on", "6.7 % [3.4, 12.6]",
         "93.3 % [87.4, 96.6]"],
        ["0.1 at every token", "85.0 % [77.5, 90.3]", "90.0 % [83.3, 94.2]"],
        ["2 at every token", "0.8 % [0.1, 4.6]", "10.0 % [5.8, 16.7]"],
    ]  # fmt: skip
    scheduled = [row for row in MANY["runs"] if row["beta"] != "uniform 2"][:3]
    assert tables.betas(MANY | {"runs": scheduled, "tasks": []}).rows == []


def test_every_run_and_every_task_stands_in_a_table() -> None:
    assert len(tables.runs(MANY).rows) == len(MANY["runs"])
    assert ["harmful examples", "constrained", "paper", "none", "20", "30.0 % [22.5, 38.7]", "120", "0"] in (
        tables.runs(MANY).rows
    )
    assert tables.tasks(MANY).rows[0] == [
        "summaries", "in", "plain SFT", "–", "10 steps", "ROUGE-1", "95.0 % [89.5, 97.7]",
        "20.0 % [13.8, 28.0]",
    ]  # fmt: skip


def test_the_model_before_and_after_is_drawn_a_chart_for_every_measure() -> None:
    section = found(FINETUNE)["protection"]
    assert [figure.title for figure in section.figures] == [
        "Harmful replies", "Right answers", "Over-refusal",
    ]  # fmt: skip
    harm = drawn(section.figures[0].chart, "asked", "model", "value")
    assert harm == {
        ({0: "nothing forced", 5: "5 tokens forced"}[row["k"]], row["model"], row["value"])
        for row in ONE["asr"]
    }
    assert [table.title for table in section.tables] == [
        "After against before on the same prompts: 1 paired test", "Before and after, as numbers",
        "The training",
    ]  # fmt: skip


def test_a_rate_without_value_or_ends_is_told_and_not_drawn() -> None:
    empty = {"value": None, "low": None, "high": None, "n": 0}
    rows = tested.measured([ONE["asr"][0] | empty, ONE["asr"][1] | {"low": None}], tested.HARMFUL)
    [figure] = tested.figures(rows, prefix="x")
    assert figure.caption == "1 point without a scored reply is not drawn."
    assert '"rule"' not in json.dumps(figure.chart.to_dict())
    assert tested.table(rows, "t").rows[0][-3:] == ["–", "0", "0"]


def test_the_record_of_the_training_is_told_in_facts() -> None:
    rows = tables.facts(ONE).rows
    assert rows == [
        ["objective", "constrained"],
        ["β", "0.5 at token 1, 2 at tokens 2 to 5, 0.1 from token 6 on"],
        ["steps", "120"],
        ["learning rate", "2e-05"],
    ]
    plain = tables.facts(ONE | {"training": {"seconds": 3.5, "losses": [1]}, "objective": None, "beta": []})
    assert plain.rows == [["seconds", "3.5"]]


def test_the_objective_is_explained_where_it_was_used() -> None:
    assert "Its optimum is π* ∝ π₀ · exp(V* / β)" in found(FINETUNE)["protection-diagnostics"].intro
    assert "Its optimum is" in found(REPRODUCE)["protection"].intro
    assert "Its optimum is" not in found(REPRODUCE)["protection-diagnostics"].intro
    plain = finetuning_summary("finetune") | {"protection": protected() | {"objective": "sft"}}
    assert "Its optimum is" not in found(plain)["protection-diagnostics"].intro


def test_of_many_runs_three_have_charts_and_all_have_tables() -> None:
    rows = [row for i in range(5) for row in diagnostics(f"run {i}", steps=1)]
    section = found(REPRODUCE | {"protection": protection() | {"diagnostics": rows}})[
        "protection-diagnostics"
    ]
    assert len(section.figures) == 4 * 3
    assert [table.title for table in section.tables] == [f"Diagnostics as numbers: run {i}" for i in range(5)]
    assert "only in the tables: run 3, run 4." in section.intro


def test_a_fine_tuning_says_what_it_lacks_and_a_reproduction_leaves_it_out() -> None:
    untested = {"what": "before and after", "why": "it was not asked for (--measure False)"}
    bare = {"kind": "finetune", "protection": {"objective": "sft"}, "not_measured": [untested]}
    assert "it was not asked for" in found(bare)["protection"].missing
    assert [table.title for table in found(bare)["protection"].tables] == ["The training"]
    assert found(bare)["protection-diagnostics"].missing.startswith("This run holds no numbers")
    assert list(found({"kind": "finetune"})) == ["protection", "protection-diagnostics"]
    assert not any(name.startswith("protection") for name in found(base_summary("reproduce")))
