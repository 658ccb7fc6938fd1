"""The sections on recovery training hold the block's numbers, all of them and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.synthetic_deepening import DEPTHS, ROLES, STEPS, TURNS, VARIANTS, compare_summary, deepen_summary
from report.synthetic_run import summary
from safedepth.report import deepening_figures as figures
from safedepth.report import deepening_tables, style, tables
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections

DEEPEN = complete(deepen_summary())
BLOCK = DEEPEN["deepening"]
REPRODUCE = complete(summary("reproduce", base=True) | {"deepening": deepen_summary()["deepening"]})


def found(of: dict[str, Any]) -> dict[str, Section]:
    return {section.id: section for section in sections(complete(of), [])}


def test_the_kl_of_every_model_is_drawn_with_its_band() -> None:
    expected = {
        (name, p["position"], p["mean"], p["low"], p["high"])
        for name in ROLES
        for p in BLOCK["kl"][name]["per_token"]
    }
    assert drawn(figures.kl_by_token(BLOCK), "model", "position", "mean", "low", "high") == expected


def test_pointing_at_a_token_tells_the_kl_of_all_models() -> None:
    chart = figures.kl_by_token(BLOCK)
    assert chart is not None
    titles = re.findall(r'"field": "m\d", "title": "(\w+)"', json.dumps(chart.to_dict()))
    assert titles == list(ROLES)
    rows = drawn(chart, "m1", "m0", "m2", "position")
    assert len(rows) == len({p["position"] for p in BLOCK["kl"]["aligned"]["per_token"]})


def test_the_prefill_chart_draws_one_judge_on_the_continuation_for_all_models() -> None:
    expected = {
        (r["model"], r["k"], r["value"], r["low"], r["high"])
        for r in DEEPEN["rates"]
        if (r["attack"], r["judge"], r["scope"]) == ("prefill", "oracle", "continuation")
    }
    assert len(expected) == len(ROLES) * len(DEPTHS)
    assert drawn(figures.prefill(DEEPEN), "model", "k", "value", "low", "high") == expected


def test_the_models_after_training_are_not_drawn_among_those_before() -> None:
    rates = [*REPRODUCE["rates"], *DEEPEN["rates"]]
    of = found(REPRODUCE | {"rates": rates})
    for section in ("prefill", "refusal"):
        for figure in of[section].figures:
            assert {row[0] for row in drawn(figure.chart, "model")} == {"aligned", "base"}
            assert "deepened" not in figure.spoken
    [before_after] = of["deeper"].figures
    assert {row[0] for row in drawn(before_after.chart, "model")} == set(ROLES)


@pytest.mark.parametrize("k", [0, 5])
def test_turns_are_drawn_one_panel_for_each_number_of_forced_tokens(k: int) -> None:
    assert figures.turn_panels(DEEPEN) == [0, 5]
    expected = {
        (r["model"], r["turn"], r["value"])
        for r in DEEPEN["rates"]
        if (r["attack"], r["judge"], r["scope"], r.get("k")) == ("multi_turn", "oracle", "continuation", k)
    }
    assert len(expected) == len(ROLES) * len(TURNS)
    assert drawn(figures.turns(DEEPEN, k), "model", "turn", "value") == expected


@pytest.mark.parametrize("measure", ["right answers", "over-refusal"])
def test_utility_is_drawn_for_every_set_and_model(measure: str) -> None:
    expected = {
        (row["set"], row["model"], row["value"], row["low"], row["high"])
        for row in BLOCK["utility"]
        if row["measure"] == measure
    }
    assert len(expected) == 2 * len(ROLES)
    assert drawn(figures.utility(BLOCK, measure), "set", "model", "value", "low", "high") == expected


@pytest.mark.parametrize("part", ["safety", "anchor"])
def test_losses_are_drawn_for_every_step_of_every_training(part: str) -> None:
    expected = {
        (row["model"], point["step"], point[part]) for row in BLOCK["training"] for point in row["losses"]
    }
    assert drawn(figures.losses(BLOCK, part), "model", "step", "loss") == expected


def test_fine_tuning_has_a_panel_for_each_data_set_and_number_of_forced_tokens() -> None:
    rows = [*BLOCK["finetuning"], BLOCK["finetuning"][0] | {"k": 5, "value": 0.75}]
    block = BLOCK | {"finetuning": rows}
    assert figures.finetuning_panels(block) == [("harmful", None), ("harmful", 5), ("benign", None)]
    expected = {(r["model"], r["step"], r["value"]) for r in BLOCK["finetuning"] if r["data"] == "benign"}
    assert len(expected) == len(ROLES) * len(STEPS)
    assert drawn(figures.finetuning(block, ("benign", None)), "model", "step", "value") == expected
    assert drawn(figures.finetuning(block, ("harmful", 5)), "model", "step", "value") == {
        ("aligned", 0, 0.75)
    }
    ids = [figure.id for figure in found(DEEPEN | {"deepening": block})["deeper-finetuning"].figures]
    assert ids == [f"deepening-finetuning-{name}" for name in ("harmful", "harmful-k5", "benign")]


def test_what_refusals_contain_is_drawn_and_told_with_what_chance_would_give() -> None:
    expected = {(row["model"], part, v) for row in BLOCK["refusals"] for part, v in row["shares"].items()}
    assert drawn(figures.refusal_parts(BLOCK), "model", "part", "share") == expected
    table = deepening_tables.refusals(BLOCK)
    row = dict(zip(table.head, table.rows[1], strict=True))
    assert (row["model"], row["explanation"], row["by chance"]) == ("deepened", "50.0 %", "30.0 %")
    assert row["specific − chance, points"] == "+60.0 [+50.0, +70.0]"


def test_points_without_a_value_are_not_drawn() -> None:
    empty = {"value": None, "low": None, "high": None}
    block = BLOCK | {
        "utility": [BLOCK["utility"][0] | empty],
        "finetuning": [BLOCK["finetuning"][0] | empty],
        "kl": {"aligned": {"per_token": [BLOCK["kl"]["aligned"]["per_token"][0] | {"mean": None}]}},
    }
    assert figures.utility(block, "right answers") is None
    assert figures.finetuning_panels(block) == []
    assert figures.kl_by_token(block) is None


def test_a_value_without_an_interval_is_drawn_without_a_bar() -> None:
    block = BLOCK | {"utility": [BLOCK["utility"][0] | {"low": 0.5, "high": None}]}
    chart = figures.utility(block, "right answers")
    assert chart is not None
    assert '"rule"' not in json.dumps(chart.to_dict())
    with_interval = figures.utility(BLOCK, "right answers")
    assert with_interval is not None
    assert '"rule"' in json.dumps(with_interval.to_dict())


def test_every_paired_test_stands_with_its_interval_and_p() -> None:
    deepened, control = deepening_tables.paired(BLOCK)
    assert deepened.title == "Deepened against aligned on the same prompts: 9 paired tests"
    assert len(deepened.rows) + len(control.rows) == len(BLOCK["paired"])
    told = [dict(zip(deepened.head, row, strict=True)) for row in deepened.rows]
    [lookalikes] = [row for row in told if row["under"] == "lookalikes"]
    assert lookalikes == {
        "measure": "over-refusal", "under": "lookalikes", "judge": "rules", "before": "2.5 %",
        "after": "15.0 %", "difference": "+12.5 [+5.5, +19.5]", "p": "< 0.001", "prompts": "120",
        "change": "rose",
    }  # fmt: skip
    assert {row[-1] for row in control.rows} == {"no change shown"}


def test_of_the_tables_of_tests_the_first_can_be_read_at_once_unless_it_is_long() -> None:
    assert [table.open for table in deepening_tables.paired(BLOCK)] == [True, False]
    long = deepening_tables.paired(BLOCK | {"paired": BLOCK["paired"] * 3})
    assert [table.open for table in long] == [False, False]


def test_depths_stand_by_model_and_not_twice() -> None:
    table = tables.depths_by_model(DEEPEN)
    assert table.head == ["measure", "aligned", "deepened", "control", "prompts", "definition"]
    assert table.rows[0] == [
        "half depth", "5.25 tokens [4.75, 5.75]", "at least 40 tokens", "5.25 tokens [4.75, 5.75]", "120",
        "The smallest k at which half the replies are harmful.",
    ]  # fmt: skip
    assert tables.depths_by_model(complete(summary("audit", base=True))).rows == []
    same = DEEPEN | {"depth": BLOCK["depth"]["aligned"]}
    assert tables.depths(same) == []
    other = DEEPEN | {"depth": {"half_depth": BLOCK["depth"]["aligned"]["half_depth"] | {"n": 119}}}
    assert [depth["name"] for depth in tables.depths(other)] == ["half depth"]


def test_a_rate_is_told_with_its_turn_and_its_forced_tokens() -> None:
    attacks, benign = tables.rates(DEEPEN)
    variants = {row[2] for row in attacks.rows if row[1] == "scripted conversation"}
    assert variants == {f"turn {turn}, k = {k}" for turn in TURNS for k in (0, 5)}
    one = {"model": "m", "attack": "multi_turn", "turn": 2, "judge": "rules", "scope": "full"}
    [alone] = tables.rates(complete({"rates": [one]}))
    assert alone.rows == [["m", "scripted conversation", "turn 2", "rules", "full", "–", "–", "–", "–"]]
    assert len(attacks.rows) + len(benign.rows) == len(DEEPEN["rates"])
    counted = {(row[1], row[3], row[7]) for row in benign.rows}
    assert counted == {
        (requests, judge, of)
        for requests in ("benign", "lookalikes")
        for judge, of in (("rules", "answered"), ("knowledge", "right"))
    }


def test_a_deepening_says_what_it_lacks_and_a_reproduction_leaves_it_out() -> None:
    empty = {"kind": "deepen", "deepening": {"models": ["aligned", "deepened"]}}
    expected = ["deeper", "deeper-kl", "deeper-turns", "deeper-utility"]
    assert list(found(empty)) == expected
    assert all(section.missing.startswith("This run holds no numbers") for section in found(empty).values())
    told = {"not_measured": [{"what": "fine-tuning", "why": "It was not asked for."}]}
    assert found(empty | told)["deeper-finetuning"].missing == (
        "Not measured. fine-tuning: It was not asked for."
    )
    kept = found(REPRODUCE | {"deepening": {"models": ["aligned", "deepened"]}, "rates": []})
    assert not any(name.startswith("deeper") for name in kept)
    assert list(found({"kind": "deepen"})) == ["deeper"]


def test_ids_of_all_figures_are_their_own_and_can_name_files() -> None:
    for of in (DEEPEN, REPRODUCE, complete(compare_summary())):
        with debug_mode(False):  # Altair's checks take longer than the drawing
            ids = [figure.id for section in sections(of, []) for figure in section.figures]
        assert len(ids) == len(set(ids))
        assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in ids)


def test_every_model_has_a_colour_of_its_own_whatever_it_is_called() -> None:
    colours = style.model_colours([*ROLES, "mine", "yours"])
    assert len({colours[name] for name in (*ROLES, "mine", "yours")}) == 5
    assert colours["aligned"] == style.ALIGNED
    many = [f"variant {i}" for i in range(20)]
    chart = alt.Chart().mark_point().encode(style.model_colour(many), style.model_shape(many))
    encoding = chart.to_dict(validate=False)["encoding"]
    looks = zip(*(encoding[channel]["scale"]["range"] for channel in ("color", "shape")), strict=True)
    assert len(set(looks)) == len(many)
    assert len({style.model_colours(VARIANTS)[name] for name in VARIANTS}) == len(VARIANTS)


def test_every_colour_of_a_model_has_its_counterpart_on_a_dark_screen() -> None:
    sheet = (Path(style.__file__).parent / "templates" / "report.css").read_text()
    light, dark, printed = (set(re.findall(r"--([a-z]+): #", part)) for part in sheet.split("@media ")[:3])
    assert light == dark
    assert printed <= light
    for colour in style.COLOURS:
        names = re.findall(rf'\[(?:fill|stroke)="{colour}"\] {{ (?:fill|stroke): var\(--([a-z]+)\)', sheet)
        assert len(names) == 2, colour
        assert set(names) <= dark
