"""What is best and what differs from the reference is marked by a rule, in charts and in the table."""

from __future__ import annotations

from typing import Any

import pytest

from report.charts import drawn
from report.synthetic_deepening import VARIANTS, compare_summary, comparison
from safedepth.report import comparison_figures, findings, ranking
from safedepth.report.reading import complete
from safedepth.report.sections import sections

COMPARE = complete(compare_summary())
PREFILL, _, RIGHT, DEPTH, _ = COMPARE["comparison"]["columns"]


def with_difference(low: float | None, high: float | None, p: float | None, better: str | None) -> Any:
    """A comparison of two variants in one column, with one paired difference, and its column."""
    column = {"key": "c", "title": "c", "unit": "share", "better": better}
    row = {"variant": "new", "column": "c", "difference": -0.2, "low": low, "high": high, "p": p}
    return {"against": "old", "paired": [row], "variants": [], "cells": []}, column


@pytest.mark.parametrize(
    ("low", "high", "p", "better", "expected"),
    [
        (-0.3, -0.1, 0.9, "lower", ranking.BETTER),
        (-0.3, -0.1, 0.9, "higher", ranking.WORSE),
        (0.1, 0.3, 0.9, "higher", ranking.BETTER),
        (-0.3, 0.0, 0.001, "lower", ranking.SAME),
        (None, None, 0.01, "lower", ranking.BETTER),
        (None, 0.1, 0.01, "higher", ranking.WORSE),
        (None, None, 0.06, "lower", ranking.SAME),
        (None, None, None, "lower", ranking.SAME),
        (-0.3, -0.1, 0.9, None, ranking.DIFFERENT),
    ],
)
def test_a_variant_differs_where_the_interval_excludes_zero(
    low: float | None, high: float | None, p: float | None, better: str | None, expected: str
) -> None:
    of, column = with_difference(low, high, p, better)
    assert ranking.verdict(of, "new", column) == expected
    assert ranking.verdict(of, "old", column) == ranking.REFERENCE
    assert ranking.verdict(of, "another", column) == ranking.UNPAIRED


def test_the_best_is_the_lowest_or_the_highest_and_all_of_them_if_they_are_the_same() -> None:
    whole = COMPARE["comparison"]
    assert ranking.best(whole, PREFILL) == ["dynamic"]
    assert ranking.best(whole, RIGHT) == ["uniform"]
    assert ranking.best(whole, DEPTH) == ["dynamic", "adaptive"]  # both deeper than was tested
    assert ranking.best(whole, PREFILL | {"better": None}) == []
    assert ranking.best(whole | {"cells": []}, PREFILL) == []


def test_every_cell_is_drawn_in_its_column_and_told_how_it_differs() -> None:
    chart = comparison_figures.column(COMPARE["comparison"], PREFILL)
    cells = [cell for cell in COMPARE["comparison"]["cells"] if cell["column"] == "prefill"]
    assert len(cells) == len(VARIANTS)
    expected = {(c["variant"], c["value"], c["low"], c["high"]) for c in cells}
    assert drawn(chart, "variant", "at", "low", "high") == expected
    assert dict(drawn(chart, "variant", "differs")) == {
        "uniform": "reference",
        "dynamic": "better",
        "adaptive": "better",
        "full refusals": "undecided",
        "escalating": "undecided",
        "three turns": "undecided",
        "uniform, long": "worse",
    }


def test_a_depth_beyond_the_deepest_tested_is_drawn_at_its_bound_with_an_arrow() -> None:
    chart = comparison_figures.column(COMPARE["comparison"], DEPTH)
    assert {row for row in drawn(chart, "variant", "at") if row[1] == 40.0} == {
        ("dynamic", 40.0),
        ("adaptive", 40.0),
    }
    assert {row[0] for row in drawn(chart, "variant", "beyond") if row[1]} == {"dynamic", "adaptive"}


def test_the_axis_holds_every_interval_and_no_share_below_zero() -> None:
    for column in COMPARE["comparison"]["columns"]:
        chart = comparison_figures.column(COMPARE["comparison"], column)
        assert chart is not None
        points = [layer for layer in chart.to_dict()["layer"] if layer["mark"]["type"] == "point"]
        low, high = points[0]["encoding"]["x"]["scale"]["domain"]
        ends = [x for row in drawn(chart, "variant", "at", "low", "high") for x in row[1:] if x is not None]
        assert 0 <= low <= min(ends)
        assert high >= max(ends)


def test_the_table_has_all_variants_and_columns_with_their_marks() -> None:
    [section, *_] = sections(COMPARE, [])
    assert section.id == "comparison"
    grid = section.tables[0]
    assert grid.open
    assert grid.head == ["variant", "harmful replies, forced", "harmful replies, turn 3", "right answers",
                         "half depth", "parts of a refusal"]  # fmt: skip
    rows = {row[0]: row[1:] for row in grid.rows}
    assert list(rows) == ["uniform (reference)", *VARIANTS[1:]]
    assert rows["dynamic"][0] == "1.7 % [0.5, 5.9] ★ ▲"
    assert rows["uniform, long"][0] == "20.0 % [13.8, 28.0] ▼"
    assert rows["uniform (reference)"][0] == "8.3 % [4.6, 14.7]"
    assert rows["dynamic"][3] == "at least 40 tokens ★"
    assert sum("★" in cell for row in grid.rows for cell in row) == 6


def test_a_cell_without_a_number_is_a_dash_and_is_named_beneath_its_chart() -> None:
    whole = comparison()
    cells = [c for c in whole["cells"] if (c["variant"], c["column"]) != ("adaptive", "prefill")]
    [section, *_] = sections(complete(compare_summary() | {"comparison": whole | {"cells": cells}}), [])
    assert section.figures[0].caption == "Without a value, and not drawn: adaptive."
    assert (
        dict(zip(section.tables[0].head, section.tables[0].rows[2], strict=True))["harmful replies, forced"]
        == "–"
    )


def test_without_findings_the_best_of_every_column_is_told_beside_the_reference() -> None:
    alone = complete(compare_summary() | {"comparison": comparison() | {"findings": None}})
    told = findings.headline(alone)
    assert told[1] == (
        "Harmful replies, forced: best is dynamic with 1.7 % [0.5, 5.9]; uniform has 8.3 % [4.6, 14.7] "
        "(better)."
    )
    assert told[4] == (
        "Half depth: best is dynamic, adaptive with at least 40 tokens; uniform has 12.0 tokens [9.5, 14.5]."
    )
    assert [tile.interval for tile in findings.tiles(alone)] == [
        "best: dynamic, 95 % interval [0.5, 5.9]",
        "best: dynamic, 95 % interval [1.8, 9.4]",
        "best: uniform, 95 % interval [89.5, 97.7]",
        "best: dynamic, adaptive",
    ]


def test_a_comparison_without_its_block_says_why() -> None:
    [section] = sections(complete({"kind": "compare"}), [])
    assert section.missing == "This run holds no numbers for the comparison."
    assert findings.headline(complete({"kind": "compare"})) == ["This run holds no comparison."]
