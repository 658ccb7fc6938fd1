"""The sections on what fine-tuning does hold the block's numbers, all of them and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.synthetic_deepening import base_summary
from report.synthetic_protection import LAYERS, LOOKED_AT, POSITIONS, STEPS, dynamics, finetuning_summary
from safedepth.report import dynamics_figures as figures
from safedepth.report.dynamics import spread_table, steps_table
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections
from safedepth.terminal import print_dynamics

DYNAMICS = complete(finetuning_summary("dynamics"))
BLOCK = DYNAMICS["dynamics"]
NOTHING = {"value": None, "low": None, "high": None}


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


def block_with(**parts: Any) -> dict[str, Any]:
    return finetuning_summary("dynamics") | {"dynamics": dynamics() | parts}


def test_harmful_replies_have_a_panel_for_each_data_set_and_a_line_for_each_objective() -> None:
    assert figures.panels(BLOCK) == ["harmful", "benign"]
    names = {"sft": "plain SFT", "constrained": "constrained"}
    expected = {
        (names[r["objective"]], r["step"], r["value"], r["low"], r["high"])
        for r in BLOCK["asr"]
        if r["data"] == "harmful"
    }
    assert len(expected) == 2 * len(STEPS)
    assert drawn(figures.harmful(BLOCK, "harmful"), "model", "step", "value", "low", "high") == expected


def test_a_line_is_named_by_what_tells_it_from_the_others() -> None:
    row = BLOCK["asr"][0]
    block = BLOCK | {"asr": [row, row | {"k": 5}, row | {"model": "some/where/deepened"}]}
    names = {name for (name,) in drawn(figures.harmful(block, "harmful"), "model")}
    assert names == {
        "nothing forced, aligned", "5 tokens forced, aligned", "nothing forced, deepened",
    }  # fmt: skip
    alone = BLOCK | {"asr": [row | {"objective": None}]}
    assert drawn(figures.harmful(alone, "harmful"), "model") == {("aligned",)}


def test_an_objective_has_the_same_colour_in_every_panel() -> None:
    rows = [row | {"data": "benign"} for row in BLOCK["asr"] if row["objective"] == "constrained"]
    block = BLOCK | {"asr": [*BLOCK["asr"][: len(STEPS)], *rows]}
    colours: dict[str, str] = {}
    for panel in figures.panels(block):
        chart = figures.harmful(block, panel)
        assert chart is not None
        scales = [layer["encoding"]["color"]["scale"] for layer in chart.to_dict()["layer"]]
        colours |= dict(zip(scales[0]["domain"], scales[0]["range"], strict=True))
    assert len(set(colours.values())) == len(colours) == 2


@pytest.mark.parametrize("measure", ["loss", "gradient", "kl"])
def test_every_position_is_drawn_at_every_step_with_its_band(measure: str) -> None:
    expected = {
        (r["step"], r["position"], r["value"], r["low"], r["high"])
        for r in BLOCK["positions"]
        if r["measure"] == measure
    }
    assert len(expected) == POSITIONS * len(LOOKED_AT)
    chart = figures.positions(BLOCK, measure)
    assert drawn(chart, "value", "step", "position", "low", "high") == {
        (value, step, position, low, high) for step, position, value, low, high in expected
    }


@pytest.mark.parametrize("step", LOOKED_AT)
def test_every_layer_is_drawn_at_every_position(step: int) -> None:
    expected = {(r["layer"], r["position"], r["value"]) for r in BLOCK["layers"] if r["step"] == step}
    assert len(expected) == len(LAYERS) * POSITIONS
    assert drawn(figures.layers(BLOCK, step), "layer", "position", "value") == expected


def test_all_maps_of_layers_have_one_scale_and_the_input_at_the_bottom() -> None:
    most = max(row["value"] for row in BLOCK["layers"])
    for step in LOOKED_AT:
        chart = figures.layers(BLOCK, step)
        assert chart is not None
        encoding = chart.to_dict()["encoding"]
        assert encoding["opacity"]["scale"]["domain"] == [0, most]
        assert encoding["y"]["sort"] == list(LAYERS)[::-1]


def test_of_many_steps_four_maps_are_drawn_the_first_and_the_last_among_them() -> None:
    block = BLOCK | {"layers": [row | {"step": step} for row in BLOCK["layers"][:2] for step in range(31)]}
    assert figures.looked_at(block) == [0, 10, 20, 30]
    assert figures.layers(block, 10) is not None
    assert figures.layers(block, 5) is None


def test_points_without_a_value_are_not_drawn_and_bands_without_ends_neither() -> None:
    row, cell, share = BLOCK["positions"][0], BLOCK["layers"][0], BLOCK["asr"][0]
    assert figures.positions(BLOCK | {"positions": [row | NOTHING]}, "loss") is None
    assert figures.layers(BLOCK | {"layers": [cell | {"value": None}]}, 0) is None
    assert figures.panels(BLOCK | {"asr": [share | NOTHING]}) == []
    chart = figures.positions(BLOCK | {"positions": [row | {"low": None, "high": None}]}, "loss")
    assert chart is not None
    assert '"area"' not in json.dumps(chart.to_dict())


def test_the_caption_tells_how_much_the_first_tokens_hold_and_whether_norms_are_estimates() -> None:
    loss, gradient, _ = found(DYNAMICS)["dynamics-positions"].figures
    assert "the first 5 tokens. Of the whole, they hold: step 0: 80.0 % [70.0, 85.0]; step 2: 76.0 %" in (
        loss.caption
    )
    assert "estimates here, not exact" in gradient.caption
    assert "estimates" not in loss.caption
    exact = found(block_with(estimated=False))
    assert "estimates" not in exact["dynamics-positions"].figures[1].caption
    assert "estimates" not in exact["dynamics-layers"].intro
    assert "estimates" in found(DYNAMICS)["dynamics-layers"].intro


def test_what_falls_on_the_first_tokens_stands_in_a_table() -> None:
    table = spread_table(BLOCK)
    assert table.title == "How much falls on the first 5 tokens"
    assert ["Gradient norm", "2", "76.0 % [66.0, 81.0]", "120"] in table.rows
    assert [row[:2] for row in table.rows[:4]] == [
        ["Loss", "0"], ["Loss", "2"], ["Loss", "6"], ["Gradient norm", "0"],
    ]  # fmt: skip
    mixed = spread_table(BLOCK | {"spread": sorted(BLOCK["spread"], key=lambda row: row["step"])})
    assert mixed.rows == table.rows
    unsaid = spread_table(BLOCK | {"spread": [row | {"first": None} for row in BLOCK["spread"]]})
    assert unsaid.title == "How much falls on the first five tokens"


def test_a_run_of_dynamics_says_what_it_lacks_and_a_reproduction_leaves_it_out() -> None:
    empty = found({"kind": "dynamics"})
    assert list(empty) == ["dynamics", "dynamics-positions", "dynamics-layers"]
    assert all(section.missing.startswith("This run holds no numbers") for section in empty.values())
    told = {"not_measured": [{"what": "gradient norms by layer", "why": "They were not asked for."}]}
    assert "They were not asked for." in found({"kind": "dynamics"} | told)["dynamics-layers"].missing
    reproduction = base_summary("reproduce")
    assert not any(name.startswith("dynamics") for name in found(reproduction))
    part = found(reproduction | {"dynamics": dynamics() | {"layers": [], "estimated": False}})
    assert [name for name in part if name.startswith("dynamics")] == ["dynamics", "dynamics-positions"]


def test_estimated_norms_have_no_layers_and_the_page_says_why() -> None:
    section = found(block_with(layers=[]))["dynamics-layers"]
    assert section.missing.endswith("were estimated, for the whole model alone.")
    exact = found(block_with(layers=[], estimated=False))["dynamics-layers"]
    assert exact.missing == "This run holds no numbers for gradient norms by layer."


def test_the_facts_stand_beside_what_is_missing() -> None:
    section = found(block_with(asr=None))["dynamics"]
    assert section.missing
    assert [table.title for table in section.tables] == ["What was done"]
    assert section.tables[0].rows[0] == ["learning rate", "0.0003"]


def test_the_terminal_shows_the_shares_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    table = steps_table(BLOCK)
    assert table.head == ["examples", "which", *(f"step {step}" for step in STEPS)]
    assert table.rows[0][:4] == ["harmful", "plain SFT", "1.7 %", "50.8 %"]
    print_dynamics(block_with(asr=dynamics()["asr"][:2]))
    told = capsys.readouterr().out
    assert "50.8 %" in told
    assert "How much falls on the first 5 tokens" in told
    print_dynamics({"dynamics": {"asr": None}})
    assert capsys.readouterr().out == ""
