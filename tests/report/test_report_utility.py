"""The page on utility holds every score with its interval, and draws as a share only what is one."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.markup import Skeleton, visible
from report.synthetic_run import ATTACK
from report.synthetic_utility import (
    TASKS,
    TYPES,
    by_type,
    harness,
    make_utility_run,
    requests,
    utility_summary,
)
from safedepth.report import build_report, findings
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections
from safedepth.report.utility import alpaca_words, benchmark_name, is_share

UTILITY = complete(utility_summary())


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


def test_every_section_is_there_in_reading_order() -> None:
    assert list(found(utility_summary())) == ["benchmarks", "requests", "by-type", "alpaca"]
    assert list(found({"kind": "utility"})) == ["benchmarks", "requests"]


def test_scores_that_are_shares_are_drawn_and_others_named() -> None:
    [figure] = found(utility_summary())["benchmarks"].figures
    expected = {
        (f"{row['task']} ({row['metric']})", row["value"], row["low"], row["high"])
        for row in harness()
        if row["task"] not in ("wikitext", "humaneval")
    }
    assert len(expected) == len(TASKS)
    assert drawn(figure.chart, "benchmark", "value", "low", "high") == expected
    assert figure.caption == (
        "No share, and so not drawn: wikitext (word_perplexity, lower is better). "
        "1 point without a scored reply is not drawn."
    )


def test_the_table_of_scores_has_n_examples_version_and_what_was_not_scored() -> None:
    rows = {row[0]: row[1:] for row in found(utility_summary())["benchmarks"].tables[0].rows}
    assert rows["mmlu"] == ["acc", "model", "45.8 % [37.2, 54.7]", "higher", "120", "1", "5", "1.0"]
    assert rows["wikitext"] == ["word_perplexity", "model", "12.2 [11.5, 13.0]", "lower", "62", "0", "0", "2"]
    assert rows["humaneval"][2:6] == ["–", "higher", "0", "164"]
    assert ATTACK in rows


@pytest.mark.parametrize(
    ("ends", "share"), [((0.0, 0.0, 1.0), True), ((0.5, None, None), True), ((0.9, 0.8, 1.1), False),
                        ((12.0, 11.0, 13.0), False), ((None, 0.1, 0.2), False)],
)  # fmt: skip
def test_a_share_lies_between_0_and_1_with_its_interval(ends: tuple[Any, ...], share: bool) -> None:
    assert is_share(dict(zip(("value", "low", "high"), ends, strict=True))) is share


def test_every_measure_has_a_chart_by_set_and_one_by_type() -> None:
    of = found(utility_summary())
    by_id = {figure.id: figure for figure in (*of["requests"].figures, *of["by-type"].figures)}
    assert list(by_id) == [
        "requests-right-answers", "requests-over-refusal", "requests-refusals-of-unsafe-requests",
        "by-type-over-refusal", "by-type-refusals-of-unsafe-requests",
    ]  # fmt: skip
    assert drawn(by_id["requests-over-refusal"].chart, "group", "value") == {
        (row["set"], row["value"]) for row in requests() if row["measure"] == "over-refusal"
    }
    types = drawn(by_id["by-type-over-refusal"].chart, "group", "value", "low", "high")
    assert types == {
        (row["type"], row["value"], row["low"], row["high"])
        for row in by_type()
        if row["measure"] == "over-refusal"
    }
    assert len(types) == len(TYPES)


def test_several_models_have_a_dot_each_and_are_named_in_the_findings() -> None:
    two = utility_summary(("before", "after"))
    [figure] = found(two)["benchmarks"].figures
    assert {row[0] for row in drawn(figure.chart, "model", "benchmark")} == {"before", "after"}
    assert "mmlu (acc) 45.8 % [37.2, 54.7] (before)" in findings.headline(complete(two))[0]
    assert "(model)" not in " ".join(findings.headline(UTILITY))


def test_the_findings_tell_benchmarks_over_refusal_unsafe_requests_and_alpaca() -> None:
    first, second, third, fourth, last = findings.headline(UTILITY)
    assert first.startswith("Benchmarks: mmlu (acc) 45.8 % [37.2, 54.7]; gsm8k")
    assert second.startswith("Over-refusal: benign 0.0 % [0.0, 3.1] of 120 requests; lookalikes")
    assert third == "Refusals of unsafe requests: xstest 95.0 % [89.5, 97.7] of 120 requests."
    assert fourth.startswith("Right answers: benign 93.3 %")
    assert "toy annotator preferred the model’s answers" in last
    assert "49.0 % with the length of answers taken out" in last
    assert findings.title(UTILITY) == "What is model worth to its users?"
    labels = [tile.label for tile in findings.tiles(UTILITY)]
    assert labels[0] == "Over-refusal, benign"
    assert labels[3] == "Benchmark mmlu (acc)"
    assert len(labels) == 6


def test_a_set_that_several_judges_looked_at_is_told_apart_by_judge() -> None:
    rows = [*requests(), requests()[0] | {"judge": "rouge1", "value": 0.68}]
    of = utility_summary() | {"requests": rows}
    [right, *_] = found(of)["requests"].figures
    assert {row[0] for row in drawn(right.chart, "group")} == {"benign (knowledge)", "benign (rouge1)"}
    assert "benign (rouge1) 68.0 %" in " ".join(findings.headline(complete(of)))


def test_without_numbers_nothing_is_made_up() -> None:
    empty = complete({"kind": "utility"})
    assert findings.headline(empty) == [
        "This run holds no numbers on utility; the sections below tell what is missing, and why."
    ]
    assert findings.tiles(empty) == []
    assert alpaca_words({}) == ""
    told = {"not_measured": [{"what": "benchmarks", "why": "lm-eval is not installed."}]}
    assert "lm-eval is not installed." in found({"kind": "utility"} | told)["benchmarks"].missing


def test_a_benchmark_says_which_way_is_better_only_where_it_is_downwards() -> None:
    row = {"task": "t", "metric": "m", "higher_is_better": True}
    assert benchmark_name(row) == "t (m)"
    assert benchmark_name(row | {"higher_is_better": None}) == "t (m)"
    assert benchmark_name(row | {"higher_is_better": False}) == "t (m, lower is better)"


def test_the_page_is_text_and_tells_its_sources_and_limits(trusted: dict[str, Path]) -> None:
    page = trusted["utility"]
    told = visible(page).replace("\N{NO-BREAK SPACE}", " ")
    assert ATTACK in told
    assert not any("alert(1)" in text for a, text in Skeleton(page.read_text()).scripts if "type" not in a)
    assert not re.search(r"class=|</?(span|p|td|b|small)\b", told)
    assert "HumanEval: It runs code; repeat with consent." in told
    assert "Scores depend on the chat template" in told
    assert "hex-phi" in told
    assert "not one of the known releases" in told
    assert "b" * 64 in told
    assert f"prompts: the files are those of no known release {ATTACK}" in told
    assert "This run holds no measure of depth" not in told


def test_a_warning_that_the_run_gives_itself_is_not_given_twice(tmp_path: Path) -> None:
    whole = copy.deepcopy(utility_summary())
    whole["sources"]["prompts"]["warnings"] = ["the release is not known"]
    whole["warnings"] = ["hex-phi: the release is not known"]
    with debug_mode(False):
        page = build_report(make_utility_run(tmp_path, whole))
    warned = visible(page).partition("Benchmarks What it answers")[0]
    assert warned.count("the release is not known") == 1
