"""Safety and utility side by side: what is said to be better or worse is what the tests show, and no more."""

from __future__ import annotations

from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.synthetic_deepening import deepen_summary
from report.synthetic_protection import finetuning_summary
from report.synthetic_run import ATTACK, summary
from report.synthetic_utility import trade_off
from safedepth.report import findings
from safedepth.report import trade_off as traded
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections

DEEPEN = deepen_summary() | {"trade_off": trade_off()}
BLOCK = complete(DEEPEN)["trade_off"]


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


def row_of(**of: Any) -> dict[str, Any]:
    """One row whose model after moved as `of` says."""
    moved = dict.fromkeys(("before", "after", "difference", "low", "high", "p", "p_holm", "n")) | of
    return {"better": "higher", "paired": {"after": moved}}


@pytest.mark.parametrize(
    ("moved", "better", "said"),
    [
        ({"difference": 0.2, "low": 0.1, "high": 0.3, "p_holm": 0.01}, "higher", "better"),
        ({"difference": 0.2, "low": 0.1, "high": 0.3, "p_holm": 0.01}, "lower", "worse"),
        ({"difference": -0.2, "low": -0.3, "high": -0.1, "p_holm": 0.01}, "lower", "better"),
        ({"difference": 0.2, "low": 0.1, "high": 0.3, "p_holm": 0.06}, "higher", "no change shown"),
        ({"difference": 0.2, "low": -0.01, "high": 0.3, "p_holm": 0.04}, "higher", "no change shown"),
        ({"difference": 0.2, "low": 0.1, "high": 0.3}, "higher", "better"),
        ({"difference": 0.2, "low": -0.1, "high": 0.3}, "higher", "no change shown"),
        ({"difference": 0.2}, "higher", ""),
        ({"difference": 0.2, "p_holm": 0.01}, "higher", ""),
        ({"difference": 0.2, "p_holm": 0.5}, "higher", "no change shown"),
        ({"difference": 0.0, "low": 0.0, "high": 0.0, "p_holm": 0.0}, "higher", "no change shown"),
        ({"difference": 0.2, "low": 0.1, "high": 0.3, "p_holm": 0.01}, None, ""),
        ({}, "higher", ""),
    ],
)
def test_a_change_is_said_where_the_adjusted_p_shows_it(moved: Any, better: Any, said: str) -> None:
    assert traded.verdict(row_of(**moved) | {"better": better}, "after") == said


def test_the_differences_of_every_model_are_drawn_in_points_with_what_may_have_been_missed() -> None:
    section = found(DEEPEN)["trade-off"]
    assert [figure.id for figure in section.figures] == ["trade-off-deepened", "trade-off-control"]
    for figure, model in zip(section.figures, ("deepened", "control"), strict=True):
        expected = set()
        for row in BLOCK["rows"]:
            of = row["paired"][model]
            if of["difference"] is not None:
                name = (
                    f"{row['side'].capitalize()}: {row['measure']}, {row['what'].removeprefix('prefill, ')}"
                )
                expected.add((name, 100 * of["difference"], 100 * of["low"], 100 * of["detectable"]))
        assert drawn(figure.chart, "row", "value", "low", "to") == expected
    colours = drawn(section.figures[0].chart, "model", "row")
    assert ("worse", "Utility: over-refusal, lookalikes") in colours
    assert ("better", "Safety: harmful replies, 20 tokens forced") in colours


def test_safety_comes_first_however_the_study_sorted_its_rows() -> None:
    turned = complete(DEEPEN | {"trade_off": trade_off() | {"rows": trade_off()["rows"][::-1]}})["trade_off"]
    sides = [row[0].partition(":")[0] for row in traded.tables(turned)[0].rows]
    assert sides == ["Safety"] * 3 + ["Utility"] * 4


def test_the_tables_hold_before_after_difference_p_and_the_smallest_change() -> None:
    first, second = found(DEEPEN)["trade-off"].tables
    assert (first.open, second.open) == (True, False)
    assert first.head == [
        "measured", "aligned", "deepened", "difference", "p (Holm)", "change", "shown from", "n", "unscored",
    ]  # fmt: skip
    assert first.rows[1] == [
        "Safety: harmful replies, 5 tokens forced ↓ (oracle)", "36.7 % [28.6, 45.6]", "2.5 % [0.9, 7.1]",
        "−34.0 [−39.0, −29.0]", "0.004", "better", "7.0", "120", "1",
    ]  # fmt: skip
    assert first.rows[-1] == [
        f"Utility: right answers, {ATTACK} ↑ (knowledge)", "–", "–", "–", "–", "–", "–", "0", "120",
    ]  # fmt: skip
    assert "12 comparisons: their p-values are adjusted by Holm." in first.note


def test_without_adjusted_p_values_the_plain_ones_stand_and_nothing_claims_holm() -> None:
    block = trade_off()
    for row in block["rows"]:
        for of in row["paired"].values():
            del of["p_holm"]
    section = found(DEEPEN | {"trade_off": block | {"comparisons": None}})["trade-off"]
    assert section.tables[0].head[4] == "p"
    assert "Holm" not in section.tables[0].note + section.figures[0].caption
    assert "where the interval excludes 0" in section.figures[0].caption


def test_the_findings_count_what_got_better_and_name_what_got_worse() -> None:
    told = findings.headline(complete(DEEPEN))[-1]
    assert told == (
        "Of 6 comparisons of safety and utility, 2 got better, 1 worse (over-refusal, lookalikes), and 3 "
        "show no change (12 comparisons, adjusted by Holm)."
    )  # fmt: skip
    tuned = finetuning_summary("finetune") | {"trade_off": trade_off(("before", "after"))}
    assert "(6 comparisons, adjusted by Holm)" in findings.headline(complete(tuned))[-1]
    assert "comparisons" not in " ".join(findings.headline(complete(deepen_summary())))


def test_fine_tuning_has_the_section_first_and_runs_before_this_have_none() -> None:
    tuned = finetuning_summary("finetune") | {"trade_off": trade_off(("before", "after"))}
    assert next(iter(found(tuned))) == "trade-off"
    for old in (finetuning_summary("finetune"), deepen_summary(), summary("audit", base=True)):
        assert "trade-off" not in found(old)
    told = {"not_measured": [{"what": "trade-off", "why": "No utility was measured."}]}
    assert "No utility was measured." in found(deepen_summary() | told)["trade-off"].missing


def test_models_that_only_the_rows_name_have_their_chart_too() -> None:
    block = complete(DEEPEN | {"trade_off": trade_off() | {"models": None}})["trade_off"]
    assert block["models"] == ["aligned", "deepened", "control"]


def test_a_block_with_one_model_alone_compares_nothing() -> None:
    alone = complete(DEEPEN | {"trade_off": trade_off(("aligned",))})
    assert traded.tables(alone["trade_off"]) == []
    assert traded.headline(alone) == ""
    assert "trade-off" not in found(alone)
