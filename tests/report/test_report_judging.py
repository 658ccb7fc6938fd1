"""The page of a second judging holds verdicts, errors and corrections, and calls no truth a judge."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.markup import Skeleton, visible
from report.synthetic_judging import (
    CLASSES,
    DEPTHS,
    JUDGES,
    SCOPES,
    TRUTH,
    agreement,
    classes,
    judge_summary,
    judged_replies,
    make_judged_run,
)
from report.synthetic_run import ATTACK, SECRET, summary
from safedepth.report import build_report, findings
from safedepth.report import judging_figures as figures
from safedepth.report import judging_tables as tables
from safedepth.report.judging_rows import agreed, names, unlike, wrong
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections

JUDGED = complete(judge_summary())
BLOCK = JUDGED["calibration"]
ASKED = 3
"""Attacks in the synthetic rates beside forced tokens."""


def found(of: dict[str, Any], **more: Any) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [], **more)}


def changed(**parts: Any) -> dict[str, Any]:
    return complete(judge_summary() | parts)


def test_every_section_is_there_in_reading_order_and_no_section_on_depth() -> None:
    assert list(found(judge_summary())) == [
        "judges", "judged-rates", "judged-classes", "judged-truth", "judged-corrected",
    ]  # fmt: skip


def test_the_four_counts_of_every_pair_fill_a_bar_from_end_to_end() -> None:
    rows = [row for row in agreement() if row["scope"] == "continuation"]
    chart = figures.agreement(rows)
    counts = drawn(chart, "pair", "part", "count")
    assert len(counts) == 4 * 6
    assert ("rubric(toy) and rules", "only the first", 4) in counts
    ends = drawn(chart, "pair", "from", "to")
    for pair in {pair for pair, _, _ in ends}:
        assert min(start for of, start, _ in ends if of == pair) == 0
        assert max(end for of, _, end in ends if of == pair) == pytest.approx(1)


def test_many_judges_agree_in_a_map_that_has_every_pair_twice() -> None:
    many = [f"judge {i}" for i in range(20)]
    section = found(judge_summary(many, truth=None))["judges"]
    cells = drawn(section.figures[0].chart, "one", "other", "share")
    assert len(cells) == 20 * 19
    assert {(b, a, share) for a, b, share in cells} == cells
    assert len(section.tables[0].rows) == 190 * 2
    assert not section.tables[0].open


def test_a_map_of_few_judges_has_its_numbers_written_in() -> None:
    six = [f"judge {i}" for i in range(6)]
    chart = found(judge_summary(six, truth=None))["judges"].figures[0].chart
    assert [layer["mark"]["type"] for layer in chart.to_dict()["layer"]] == ["rect", "text"]
    many = [f"judge {i}" for i in range(9)]
    chart = found(judge_summary(many, truth=None))["judges"].figures[0].chart
    assert [layer["mark"]["type"] for layer in [chart.to_dict()]] == ["rect"]


def test_one_judge_alone_has_a_page_that_says_so() -> None:
    alone = judge_summary(("rules",), truth=None)
    section = found(alone)["judges"]
    assert section.missing == "One judge alone, rules: there is nothing to compare its verdicts with."
    assert findings.headline(complete(alone))[0] == section.missing
    assert findings.title(complete(alone)) == "What one judge says of aligned"


def test_a_judge_has_one_line_through_all_depths_and_one_dot_at_every_other_attack() -> None:
    by_id = {figure.id: figure for figure in found(judge_summary())["judged-rates"].figures}
    assert len(by_id) == 2 * len(SCOPES)
    lines = drawn(by_id["judged-prefill-aligned-full"].chart, "model", "k", "value")
    assert lines == {
        (rate["judge"], rate["k"], rate["value"])
        for rate in JUDGED["rates"]
        if (rate["attack"], rate["scope"]) == ("prefill", "full")
    }
    assert len(lines) == len(JUDGES) * len(DEPTHS)
    dots = drawn(by_id["judged-attacks-aligned-full"].chart, "model", "group", "value")
    assert len(dots) == len(JUDGES) * ASKED
    assert ("decoding settings, top-k 5") in {group for _, group, _ in dots}
    assert ("decoding settings, temperature 0.95") not in {group for _, group, _ in dots}


def test_beyond_eight_judges_the_charts_say_what_they_leave_out_and_the_tables_leave_nothing() -> None:
    many = [f"judge {i}" for i in range(20)]
    section = found(judge_summary(many, truth=None))["judged-rates"]
    assert {row[0] for row in drawn(section.figures[0].chart, "model", "k")} == set(many[:8])
    assert "Drawn are the first 8 of 20 judges; the table has them all." in section.figures[0].caption
    assert list(section.tables[0].head[3:-1]) == many


def test_the_rates_stand_judge_beside_judge() -> None:
    table = tables.rates(JUDGED)
    assert table.head == ["asked", "model", "judged on", *JUDGES, "n"]
    row = next(row for row in table.rows if row[0] == "5 tokens forced")
    assert row[3:] == [
        "41.0 % [32.5, 50.1]", "37.5 % [29.4, 46.4]", "29.2 % [21.8, 37.8]", "41.7 % [33.2, 50.6]",
        "117 to 120",
    ]  # fmt: skip
    assert table.note.startswith("88 rates, each with its own 95 % interval; nothing is corrected")


def test_a_judge_that_was_not_asked_under_a_scope_has_a_dash_there() -> None:
    rates = [r for r in JUDGED["rates"] if (r["judge"], r["scope"]) != ("rules", "full")]
    table = tables.rates(changed(rates=rates))
    assert {row[4] for row in table.rows if row[2] == "prefix + continuation"} == {"–"}


def test_classes_are_drawn_for_every_judge_and_those_without_replies_are_named() -> None:
    empty = {"value": None, "low": None, "high": None, "n": 0, "unscored": 0}
    rows = [row | (empty if row["class"] == "empty" else {}) for row in classes()]
    section = found(judge_summary() | {"classes": rows})["judged-classes"]
    groups = {group for _, group in drawn(section.figures[0].chart, "model", "group")}
    assert groups == {"answers", "recoveries", "refusals"}
    assert section.figures[0].caption == "Without a scored reply, and not drawn: empty replies."
    assert len(section.tables[0].rows) == len(CLASSES) * len(JUDGES) * len(SCOPES)


def test_the_judges_own_numbers_stand_in_a_table_where_they_gave_any() -> None:
    scores = [{"scope": "full", "judge": "rubric", "mean": 3.25, "lowest": 1.0, "highest": 5.0, "n": 40}]
    section = found(judge_summary(), scores=scores)["judged-classes"]
    assert section.tables[-1].rows == [["rubric", "prefix + continuation", "3.25", "1", "5", "40"]]
    assert "Scores" not in found(judge_summary())["judged-classes"].tables[-1].title


def test_the_truth_is_no_judge_among_the_errors() -> None:
    section = found(judge_summary())["judged-truth"]
    assert len(section.figures) == 3 * len(SCOPES)
    for figure in section.figures:
        assert {judge for judge, _ in drawn(figure.chart, "model", "group")} == set(JUDGES) - {TRUTH}
    assert {row[0] for row in section.tables[0].rows} == set(JUDGES) - {TRUTH}
    assert section.intro.endswith("The truth here: oracle, 120 known verdicts.")
    assert TRUTH not in {row[2] for row in found(judge_summary())["judged-corrected"].tables[0].rows}


@pytest.mark.parametrize("measure", ["recall", "precision", "accuracy"])
def test_the_errors_are_drawn_by_class_with_recoveries_apart(measure: str) -> None:
    rows = [row for row in BLOCK["rows"] if row["scope"] == "full" and row["judge"] != TRUTH]
    points = drawn(figures.errors(rows, JUDGES, measure, title=measure), "model", "group", "value", "low")
    words = {"answer": "answers", "recovery": "recoveries", "refusal": "refusals", "all": "all replies",
             "empty": "empty replies"}  # fmt: skip
    assert points == {
        (row["judge"], words[row["class"]], row[measure]["value"], row[measure]["low"])
        for row in rows
        if row[measure]["value"] is not None
    }
    assert "recoveries" in {group for _, group, _, _ in points}


def test_the_table_of_errors_says_how_many_of_what() -> None:
    rows = tables.errors(BLOCK["rows"]).rows
    row = next(row for row in rows if row[:3] == ["keywords", "recoveries", "continuation alone"])
    assert row[8:] == ["4", "2", "8", "10", "24", "0"]
    assert row[3].startswith("41.7 %")
    assert [row[0] for row in rows[::10]] == list(JUDGES)


def test_what_accuracy_leaves_is_wrong_with_the_ends_turned_round() -> None:
    of = wrong({"accuracy": {"value": 0.9, "low": 0.8, "high": 0.97, "n": 50}})
    assert (of["value"], of["low"], of["high"], of["n"]) == pytest.approx((0.1, 0.03, 0.2, 50))
    nothing = wrong({"accuracy": {"value": None, "low": None, "high": None, "n": 0}})
    assert nothing == {"value": None, "low": None, "high": None, "n": 0}


def test_corrected_rates_stand_beside_those_judged_and_the_truth() -> None:
    section = found(judge_summary())["judged-corrected"]
    assert len(section.figures) == (len(JUDGES) - 1) * len(SCOPES)
    figure = next(f for f in section.figures if f.id == "judged-corrected-keywords-continuation")
    points = drawn(figure.chart, "model", "group", "value")
    assert {(series, group) for series, group, _ in points if group == "40 tokens forced"} == {
        ("as judged", "40 tokens forced"), ("truth", "40 tokens forced"),
    }  # fmt: skip
    place = ("keywords", "continuation", "prefill")
    mine = {
        row["k"]: row for row in BLOCK["corrected"] if (row["judge"], row["scope"], row["attack"]) == place
    }
    assert ("corrected", "5 tokens forced", mine[5]["value"]) in points
    assert ("as judged", "5 tokens forced", mine[5]["judged"]["value"]) in points
    assert "1 rate could not be corrected; the table says why." in figure.caption
    told = next(
        row for row in section.tables[0].rows if row[0] == "40 tokens forced" and row[2] == "keywords"
    )
    assert told[5] == "Its sensitivity and specificity do not add up to more than 1"


def test_of_corrected_rates_forced_tokens_are_drawn_by_depth_and_other_attacks_at_their_strongest() -> None:
    rows = [row for row in BLOCK["corrected"] if (row["judge"], row["scope"]) == ("rules", "full")]
    told = [(row["attack"], row["k"], row["variant"]) for row in figures.asked(rows[::-1])]
    assert [k for attack, k, _ in told if attack == "prefill"] == list(DEPTHS)
    assert told[len(DEPTHS) :] == [
        ("insertion", None, ATTACK), ("decoding", None, "top_k 5"), ("refusal_prefix", None, None),
    ]  # fmt: skip
    crowd = [rows[0] | {"k": k} for k in range(40)]
    assert len(figures.asked(crowd)) == figures.ROWS


def test_labels_that_could_not_be_used_are_counted() -> None:
    whole = judge_summary()
    whole["calibration"] |= {"truth": "labels mine.csv", "unlabelled": 3, "unmatched": 1}
    told = found(whole)["judged-truth"].intro
    assert told.endswith(
        "mine.csv, 120 known verdicts; 3 labels not filled in; 1 label of no reply in this run."
    )


def test_a_correction_that_moves_no_rate_is_not_told() -> None:
    whole = judge_summary()
    for row in whole["calibration"]["corrected"]:
        row["value"] = row["judged"]["value"]
    assert "Corrected" not in " ".join(findings.headline(complete(whole)))


def test_other_models_are_said_to_stand_in_the_table_alone() -> None:
    section = found(judge_summary(models=("aligned", "base")))["judged-corrected"]
    assert "corrected" in section.figures[0].full_title
    assert "Drawn is" not in section.intro  # the synthetic corrections are of one model
    whole = judge_summary()
    more = [row | {"model": "base"} for row in whole["calibration"]["corrected"]]
    whole["calibration"]["corrected"] += more
    section = found(whole)["judged-corrected"]
    assert "Drawn is aligned; other models are in the table." in section.intro
    assert {row[1] for row in section.tables[0].rows} == {"aligned", "base"}


def test_the_findings_begin_with_agreement_then_where_it_ends_then_the_errors() -> None:
    told = " ".join(findings.headline(JUDGED)).replace("\N{NO-BREAK SPACE}", " ")
    first, second, third, fourth, fifth = findings.headline(JUDGED)
    assert first.startswith("The judges rubric(toy) and keywords agree on 93.2 %")
    assert "Of 3 pairs of judges, rules and keywords agree least (86.3 %)" in first
    assert second.startswith("They differ most on answers: rubric(toy) calls 95.0 %")
    assert third.startswith("Held against oracle, rubric(toy) is wrong on 0.8 %")
    assert "it misses 1 of 72 harmful ones and calls 0 of 48 harmless ones harmful" in third
    assert fourth.startswith("On recoveries")
    assert "keywords 41.7 %" in fourth
    assert fifth.startswith("Corrected for its judge’s errors, the rate that moves most (keywords on aligned")
    assert "κ 0.73 [0.67, 0.79]" in told
    assert findings.title(JUDGED) == "How often are the judges of aligned wrong?"


def test_without_a_truth_nothing_is_said_of_errors() -> None:
    whole = judge_summary(truth=None)
    told = " ".join(findings.headline(complete(whole)))
    assert "wrong" not in told
    assert findings.title(complete(whole)) == "Do the judges of aligned agree?"
    of = found(whole)
    assert of["judged-truth"].missing == "This run holds no numbers for the judges’ errors."
    assert "judged-corrected" not in of


def test_what_they_differ_on_most_is_what_their_intervals_tell_apart() -> None:
    rows = [
        {"class": "empty", "judge": judge, "scope": "full", "value": value, "low": 0.0, "high": 1.0, "n": 1}
        for judge, value in (("a", 0.0), ("b", 1.0))
    ]
    rows += [
        {"class": "answer", "judge": judge, "scope": "full", "value": value, "low": value - 0.05,
         "high": value + 0.05, "n": 400}
        for judge, value in (("a", 0.5), ("b", 0.7))
    ]  # fmt: skip
    high, low = unlike(changed(classes=rows, calibration=None)) or ({}, {})
    assert (high["class"], high["judge"], low["judge"]) == ("answer", "b", "a")
    assert unlike(changed(classes=rows[:1])) is None


def test_the_share_of_agreement_is_none_where_counts_are_missing() -> None:
    row = agreement()[0]
    assert agreed(row) == pytest.approx((row["both"] + row["neither"]) / row["n"])
    assert agreed(row | {"neither": None}) is None
    assert agreed(dict.fromkeys(("both", "only_first", "only_second", "neither"), 0)) is None


def test_the_judge_of_the_study_comes_first_whoever_else_is_named() -> None:
    assert names(changed(judge="keywords"))[0] == "keywords"
    assert names(changed(judge="unknown"))[0] == JUDGES[0]


def test_an_audit_tells_the_agreement_shortly_and_corrects_nothing() -> None:
    audit = summary("audit", base=True) | {"agreement": agreement(("oracle", "rules"))}
    of = found(audit)
    assert list(of["judges"].figures) == []
    told = of["judges"].intro.replace("\N{NO-BREAK SPACE}", " ")
    assert "Here the judges oracle and rules agree on 96.6 % (κ 0.85 [0.79, 0.91]), judged on the" in told
    assert len(of["judges"].tables[0].rows) == 2
    assert not any(name.startswith("judged-") for name in of)
    assert "judges" not in found(summary("audit", base=True))


def test_the_page_is_text_redacts_and_says_what_it_does_not_show(trusted: dict[str, Path]) -> None:
    page = trusted["judge"]
    told = visible(page).replace("\N{NO-BREAK SPACE}", " ")
    assert ATTACK in told
    assert not any("alert(1)" in text for a, text in Skeleton(page.read_text()).scripts if "type" not in a)
    assert not any(word in page.read_text() for word in ("take yarrow", "heat it"))
    assert not re.search(r"class=|</?(span|p|td|b|small)\b", told)
    assert "Judges that agree can be wrong together." in told
    assert "This run holds no measure of depth" not in told
    assert "in which one judge calls a reply harmful and another does not" in told
    assert re.search(r"\d+ repl(y|ies) with these verdicts on the continuation alone\.", told)
    assert "rubric(toy) continuation alone 3.34" in told


def test_without_replies_or_scores_the_page_is_whole(tmp_path: Path) -> None:
    whole = copy.deepcopy(judge_summary())
    with debug_mode(False):
        page = build_report(make_judged_run(tmp_path, whole, judged_replies().drop(columns="score").iloc[:0]))
    assert "Transcripts" not in visible(page)
    assert "Scores of judges" not in visible(page)


def test_who_asks_to_see_the_replies_sees_them(tmp_path: Path) -> None:
    with debug_mode(False):
        page = build_report(make_judged_run(tmp_path), show_harmful=True)
    assert SECRET in visible(page)
