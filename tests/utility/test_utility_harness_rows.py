"""From lm-eval's results to rows and weights, on results written by hand."""

import math
from typing import Any

import pytest

from safedepth.utility.harness_rows import rows_of


def results(
    samples: dict[str, list[Any]], numbers: dict[str, dict[str, Any]], *, metric: str = "acc"
) -> dict[str, Any]:
    """What `simple_evaluate` returns, for leaves with one value a document under one metric."""
    return {
        "samples": {
            leaf: [
                {"doc_id": place, "filter": "none", "metrics": [metric], metric: value}
                for place, value in enumerate(values)
            ]
            for leaf, values in samples.items()
        },
        "results": {
            name: {
                "name": name,
                "alias": name,
                "sample_len": 1,
                **{f"{key},none": v for key, v in found.items()},
            }
            for name, found in numbers.items()
        },
        "higher_is_better": {leaf: {metric: metric != "loss"} for leaf in samples},
        "n-shot": dict.fromkeys(samples, 5),
        "versions": dict.fromkeys([*samples, *numbers], 2.0),
    }


def total(rows: list[dict[str, Any]]) -> float:
    return math.fsum(row["value"] * row["weight"] for row in rows)


def test_a_task_weighs_its_documents_alike() -> None:
    rows = rows_of(results({"a": [True, False, 1.0, 0]}, {"a": {"acc": 0.5, "acc_stderr": "N/A"}}), "a")
    assert [(row["doc_id"], row["value"], row["weight"]) for row in rows] == [
        (0, 1.0, 0.25), (1, 0.0, 0.25), (2, 1.0, 0.25), (3, 0.0, 0.25),
    ]  # fmt: skip
    assert {(r["task"], r["subtask"], r["few_shot"], r["version"], r["higher_is_better"]) for r in rows} == {
        ("a", "a", 5, "2.0", True)
    }


@pytest.mark.parametrize(("number", "weights"), [(2 / 3, [1 / 3] * 3), (0.75, [0.5, 0.25, 0.25])])
def test_a_group_weighs_documents_or_tasks_alike_as_its_number_has_it(
    number: float, weights: list[float]
) -> None:
    found = results(
        {"a": [1.0], "b": [1.0, 0.0]}, {"a": {"acc": 1.0}, "b": {"acc": 0.5}, "g": {"acc": number}}
    )
    rows = rows_of(found, "g")
    assert [row["weight"] for row in rows] == pytest.approx(weights)
    assert total(rows) == pytest.approx(number)
    assert [(row["task"], row["subtask"], row["doc_id"]) for row in rows] == [
        ("g", "a", 0), ("g", "b", 0), ("g", "b", 1),
    ]  # fmt: skip


def test_a_group_without_a_number_of_its_own_has_those_of_its_tasks() -> None:
    found = results({"a": [1.0], "b": [0.0]}, {"a": {"acc": 1.0}, "b": {"acc": 0.0}, "g": {}})
    assert [(row["task"], row["value"]) for row in rows_of(found, "g")] == [("a", 1.0), ("b", 0.0)]


def test_a_tag_that_is_in_no_results_has_the_numbers_of_its_tasks() -> None:
    found = results({"a": [1.0], "b": [0.0]}, {"a": {"acc": 1.0}, "b": {"acc": 0.0}})
    assert [row["task"] for row in rows_of(found, "some_tag")] == ["a", "b"]


def test_several_values_in_a_document_weigh_as_many() -> None:
    """IFEval's instructions: two of three followed here, none of one there, is 2 of 4."""
    rows = rows_of(results({"a": [[True, True, False], [False]]}, {"a": {"acc": 0.5}}), "a")
    assert [(row["value"], row["weight"]) for row in rows] == [(pytest.approx(2 / 3), 0.75), (0.0, 0.25)]
    assert total(rows) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[(-3.0, 2), (-5.0, 4)], ["x", "y"], [0.25, 0.75]])
def test_a_metric_that_is_no_average_has_its_number_and_no_document(values: list[Any]) -> None:
    rows = rows_of(results({"a": values}, {"a": {"perplexity": 3.79}}, metric="perplexity"), "a")
    assert [(row["doc_id"], row["value"], row["weight"]) for row in rows] == [(None, 3.79, None)]


def test_a_number_that_is_none_is_missing() -> None:
    (row,) = rows_of(results({"a": [math.nan]}, {"a": {"acc": math.nan}}), "a")
    assert (row["doc_id"], row["value"]) == (None, None)


def test_what_should_be_low_is_told_and_filters_are_kept_apart() -> None:
    found = results({"a": [1.0]}, {"a": {"loss": 1.0}}, metric="loss")
    found["samples"]["a"].append({"doc_id": 0, "filter": "strict", "metrics": ["loss"], "loss": 0.0})
    found["results"]["a"]["loss,strict"] = 0.0
    rows = rows_of(found, "a", note="said")
    assert [(row["filter"], row["value"], row["higher_is_better"]) for row in rows] == [
        ("none", 1.0, False), ("strict", 0.0, False),
    ]  # fmt: skip
    assert {row["note"] for row in rows} == {"said"}
