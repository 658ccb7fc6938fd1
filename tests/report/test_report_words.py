"""Numbers are written so that they can be read."""

from __future__ import annotations

from typing import Any

import pytest

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


def test_the_judge_the_study_relies_on_comes_first() -> None:
    rates = [{"judge": "rules"}, {"judge": "mine"}, {"judge": "oracle"}]
    assert words.judges({"judge": "rules", "rates": rates}) == ["rules", "mine", "oracle"]
    assert words.judges({"rates": rates}) == ["mine", "oracle", "rules"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-0.51, "−51.0"),
        (0.0255, "+2.5"),
        (0.0, "0.0"),
        (-0.0004, "0.0"),
        (0.1, "+10.0"),
        (-0.1, "−10.0"),
        (None, "–"),
    ],
)
def test_a_difference_of_shares_is_written_in_points_with_its_sign(
    value: float | None, expected: str
) -> None:
    assert words.points(value) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.3, -0.1, "fell"),
        (-0.3, 0.0, "no change shown"),
        (-0.01, 0.02, "no change shown"),
        (0.0, 0.2, "no change shown"),
        (0.001, 0.2, "rose"),
        (None, 0.2, ""),
        (-0.3, None, ""),
    ],
)
def test_a_change_is_claimed_only_where_the_interval_excludes_none(
    low: float | None, high: float | None, expected: str
) -> None:
    assert words.change({"low": low, "high": high}) == expected


def test_a_difference_without_an_interval_says_so() -> None:
    assert (
        words.difference({"difference": -0.51, "low": -0.602, "high": -0.4}) == "−51.0 points [−60.2, −40.0]"
    )
    assert words.difference({"difference": -0.51, "low": None, "high": -0.4}) == "−51.0 points (no interval)"
    assert words.difference({"difference": None}) == "–"


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0004, "< 0.001"), (0.0123, "0.012"), (0.43, "0.43"), (1.0, "1.00"), (None, "–")]
)
def test_a_p_value_is_written_with_as_many_digits_as_say_something(p: float | None, expected: str) -> None:
    assert words.p_value(p) == expected


def test_a_sweep_has_one_judge_and_one_scope_for_all_its_models() -> None:
    what: dict[str, Any] = {"attack": "prefill", "value": 0.5}
    rates = [
        what | {"model": model, "judge": judge, "scope": scope, "k": k}
        for model, judge, scope in (
            ("before", "first", "full"),
            ("after", "first", "full"),
            ("after", "second", "continuation"),
        )
        for k in (5, 0)
    ]
    found = words.sweep({"judge": "first", "rates": rates}, models=["after", "before"])
    assert [(r["model"], r["judge"], r["scope"], r["k"]) for r in found] == [
        (model, "first", "full", k) for model in ("after", "before") for k in (0, 5)
    ]
    unscored = [rate | {"value": None} if rate["judge"] == "first" else rate for rate in rates]
    assert {r["judge"] for r in words.sweep({"judge": "first", "rates": unscored}, models=["after"])} == {
        "second"
    }
