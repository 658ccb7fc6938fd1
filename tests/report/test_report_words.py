"""Numbers are written so that they can be read, and findings only where they were found."""

from __future__ import annotations

from typing import Any

import pytest

from report.synthetic_run import rate, summary
from safedepth.report import words


@pytest.mark.parametrize(
    ("value", "low", "high", "unit", "expected"),
    [
        (0.421, 0.37, 0.474, "share", "42.1 % [37.0, 47.4]"),
        (0.9, 0.85, 0.94, "share of 40 tokens' KL", "90.0 % [85.0, 94.0]"),
        (0.0, 0.0, 0.031, "share", "0.0 % [0.0, 3.1]"),
        (3.25, 3.0, 3.5, "nats", "3.25 nats [3.00, 3.50]"),
        (40, 35, 60, "tokens", "40 tokens [35, 60]"),
        (12.34, 9.87, 101.2, "", "12 [10, 101]"),
        (0.0083, 0.0071, 0.0099, "", "0.0083 [0.0071, 0.0099]"),
        (1.0, None, None, "", "1"),
        (0.5, 0.25, None, "", "0.50 [0.25, open]"),
        (None, None, None, "share", "–"),
    ],
)
def test_an_estimate_is_written_with_its_interval(
    value: float | None, low: float | None, high: float | None, unit: str, expected: str
) -> None:
    assert words.estimate({"value": value, "low": low, "high": high}, unit=unit) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"value": 5.25, "low": 4.5, "high": 6.0}, "5.25 tokens [4.50, 6.00]"),
        ({"value": None, "low": 38.0, "high": None}, "at least 38 tokens"),
        ({"value": None, "low": None, "high": None}, "no value"),
    ],
)
def test_a_depth_beyond_the_deepest_tested_is_told_by_its_lower_bound(
    entry: dict[str, Any], expected: str
) -> None:
    assert words.depth_estimate(entry) == expected


def test_one_reply_is_not_several() -> None:
    assert [words.count(n, "reply", "replies") for n in (0, 1, 2, 1234)] == [
        "0 replies",
        "1 reply",
        "2 replies",
        "1,234 replies",
    ]


def test_the_headline_says_what_was_found() -> None:
    assert words.headline(summary("reproduce", base=True)) == [
        "The depth of the alignment, measured as half depth, is 5.25 tokens [4.50, 6.12].",
        "Asked outright, the aligned model gave 1.7 % [0.5, 5.9] harmful replies; with the first 40 tokens "
        "of a harmful answer forced, 80.8 % [72.9, 86.9] (judge oracle, on the continuation alone).",
        "Of the KL divergence between the aligned and the base model along the first 40 tokens of a harmful "
        "answer, 90.0 % [88.0, 92.0] falls on the first five.",
        "2 of 4 claims of the paper hold on these models; C2 did not; C4 could not be decided.",
    ]


def test_a_headline_without_numbers_makes_none_up() -> None:
    empty: dict[str, Any] = {"kind": "audit", "kl": None, "depth": {}, "rates": []}
    assert words.headline(empty) == [
        "No measure of depth has a value in this run; the table of depths says why."
    ]
    assert words.tiles(empty) == []


def test_unscored_rates_do_not_enter_the_headline() -> None:
    what: dict[str, Any] = {"model": "aligned", "attack": "prefill", "judge": "oracle", "scope": "full"}
    nothing = rate(0.5, k=40, **what) | {"n": 0, "harmful": 0, "value": None, "low": None, "high": None}
    told = words.headline({"depth": {}, "rates": [rate(0.25, k=0, **what), nothing]})[1]
    assert told.startswith("Asked outright, the aligned model gave 25.0 % [")
    assert "forced" not in told


def test_the_judge_the_study_relies_on_comes_first() -> None:
    rates = [{"judge": "rules"}, {"judge": "mine"}, {"judge": "oracle"}]
    assert words.judges({"judge": "rules", "rates": rates}) == ["rules", "mine", "oracle"]
    assert words.judges({"rates": rates}) == ["mine", "oracle", "rules"]


@pytest.mark.parametrize("name", ["org/toy-model", "/models/toy-model/", "toy-model"])
def test_the_title_names_the_model_without_its_folder(name: str) -> None:
    title = words.title({"kind": "audit", "models": {"aligned": {"name": name}}})
    assert title == "How deep is the safety alignment of toy-model?"
