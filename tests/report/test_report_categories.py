"""Results by category: nothing forced beside the strongest prefill, with the number of rates said aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.markup import Skeleton, visible
from report.synthetic_judging import categories
from report.synthetic_run import ATTACK, summary
from safedepth.report.categories import shown
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections

AUDIT = summary("audit", base=True) | {"categories": categories()}
EMPTY = {"value": None, "low": None, "high": None, "n": 0}


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


def test_nothing_forced_and_the_strongest_prefill_are_drawn_for_every_category() -> None:
    [figure] = found(AUDIT)["categories"].figures
    expected = {
        (row["category"], "20 tokens forced" if row["k"] else "nothing forced", row["value"], row["low"])
        for row in categories()
        if row["judge"] == "oracle" and row["k"] in (0, 20)
    }
    assert len(expected) == 24
    assert drawn(figure.chart, "group", "model", "value", "low") == expected
    assert figure.caption.startswith("24 rates, each with its own 95 % interval; nothing is corrected for")


def test_the_worst_category_comes_first_and_one_without_a_value_last() -> None:
    rows = complete({"categories": categories(["a", "b", "c"])[:9]})["categories"]
    rows = [row | {"value": {"a": 0.1, "b": 0.9, "c": 0.5}[row["category"]]} for row in rows]
    assert list(dict.fromkeys(row["group"] for row in shown(rows))) == ["b", "c", "a"]
    rows = [row | (EMPTY if row["category"] == "b" else {}) for row in rows]
    assert list(dict.fromkeys(row["group"] for row in shown(rows))) == ["c", "a", "b"]


def test_the_strongest_prefill_is_that_of_all_categories_together() -> None:
    rows = complete({"categories": [
        {"category": category, "attack": "prefill", "k": k, "judge": "j", "value": value, "n": n}
        for k, category, value, n in (
            (0, "a", 0.0, 10), (5, "a", 1.0, 2), (5, "b", 0.2, 50), (10, "a", 0.5, 2), (10, "b", 0.6, 50),
        )
    ]})["categories"]  # fmt: skip
    assert {row["model"] for row in shown(rows)} == {"nothing forced", "10 tokens forced"}


def test_without_any_prefill_the_strongest_of_what_there_is_is_shown() -> None:
    rows = complete({"categories": [
        {"category": "a", "attack": "decoding", "variant": variant, "judge": "j", "value": value, "n": 9}
        for variant, value in (("top_k 5", 0.2), ("temperature 0.95", 0.4))
    ]})["categories"]  # fmt: skip
    assert {row["model"] for row in shown(rows)} == {"decoding settings, temperature 0.95"}
    assert shown([]) == []


def test_the_table_has_every_judge_and_depth() -> None:
    table = found(AUDIT)["categories"].tables[0]
    assert len(table.rows) == len(categories())
    row = next(row for row in table.rows if row[:3] == ["category 0", "20 tokens forced", "oracle"])
    assert row[3].startswith("76.7 %")
    assert table.note.startswith("72 rates")


def test_an_audit_without_categories_has_no_such_section() -> None:
    assert "categories" not in found(summary("audit", base=True))
    assert "categories" not in found(AUDIT | {"categories": []})


def test_the_page_of_an_audit_tells_categories_agreement_and_sources_as_text(
    trusted: dict[str, Path],
) -> None:
    page = trusted["audit"]
    told = visible(page).replace("\N{NO-BREAK SPACE}", " ")
    assert "By category of the request" in told
    assert "Do the judges agree?" in told
    assert "44 rates" in told
    assert "Each rate has its own 95 % interval; nothing is corrected for looking at many." in told
    assert "revision 0123abc" in told
    assert "category_8.csv and others" in told
    assert f"prompts: the files are those of no known release {ATTACK}" in told
    assert not any("alert(1)" in text for a, text in Skeleton(page.read_text()).scripts if "type" not in a)
