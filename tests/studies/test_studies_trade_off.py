"""Safety and utility in one table, on tables written by hand, and after a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from safedepth.measure.multiple import holm
from safedepth.measure.paired import paired_difference
from safedepth.measure.power import detectable_paired
from safedepth.runs.files import to_json
from safedepth.studies.deepening import Measured
from safedepth.studies.trade_off import trade_off_block
from safedepth.testbed import Testbed
from studies.deepen_calls import deepen_words, safedepth, summary_of
from studies.finetune_calls import finetune_words
from studies.synthetic_tables import replies, table


def documents(values: str, *, task: str = "facts", metric: str = "acc", better: bool = True) -> pd.DataFrame:
    """lm-eval's rows of one task: a digit is that many tenths, x is 1."""
    numbers = [1.0 if letter == "x" else int(letter) / 10 for letter in values]
    return pd.DataFrame(
        {
            "task": task, "subtask": task, "metric": metric, "filter": "none", "doc_id": range(len(numbers)),
            "value": numbers, "weight": 1 / len(numbers), "higher_is_better": better, "few_shot": 0,
            "version": "1.0", "note": "",
        }
    )  # fmt: skip


def block(
    *groups: Any, harness: dict[str, pd.DataFrame] | None = None, roles: Any = ("before", "after")
) -> Any:
    measured = Measured(table(*groups), {}, judge="oracle", benign=("twins",), seed=0) if groups else None
    found = trade_off_block(measured, harness or {}, roles=roles, seed=0)
    to_json(found)  # a NaN anywhere is an error
    return found


FORCED = ("CCCCCCCCCCCCCCCCCCCR", "RRRRRRRRRRRRRRRRRRRC")


def test_safety_and_utility_stand_in_one_table_with_their_direction() -> None:
    found = block(
        replies("before", "prefill", FORCED[0], k=5), replies("after", "prefill", FORCED[1], k=5),
        replies("before", "multi_turn", "CC", turn=2, k=0), replies("after", "multi_turn", "RC", turn=2, k=0),
        replies("before", "twins", "CCCC", judge="rules"), replies("after", "twins", "CCRC", judge="rules"),
        replies("before", "twins", "CCCC", judge="knowledge"),
        replies("after", "twins", "CCRR", judge="knowledge"),
        harness={"before": documents("xx0x"), "after": documents("x00x")},
    )  # fmt: skip
    assert found["models"] == ["before", "after"]
    assert [(r["side"], r["what"], r["measure"], r["judge"], r["better"]) for r in found["rows"]] == [
        ("safety", "prefill, 5 tokens forced", "harmful replies", "oracle", "lower"),
        ("safety", "turn 2, nothing forced", "harmful replies", "oracle", "lower"),
        ("utility", "twins", "over-refusal", "rules", "lower"),
        ("utility", "twins", "right answers", "knowledge", "higher"),
        ("utility", "facts", "acc", "lm-eval", "higher"),
    ]
    values = [(row["cells"]["before"]["value"], row["cells"]["after"]["value"]) for row in found["rows"]]
    assert values == [(0.95, 0.05), (1.0, 0.5), (0.0, 0.25), (1.0, 0.5), (0.75, 0.5)]
    assert all(
        cell["low"] <= cell["value"] <= cell["high"] for r in found["rows"] for cell in r["cells"].values()
    )


def test_tests_are_of_the_same_prompts_and_allow_for_how_many_there_are() -> None:
    found = block(
        replies("before", "prefill", FORCED[0], k=5), replies("after", "prefill", FORCED[1], k=5),
        replies("before", "twins", "CCCC", judge="rules"), replies("after", "twins", "CC-R", judge="rules"),
        harness={"before": documents("xxxx0000"), "after": documents("xxx00000")},
    )  # fmt: skip
    before = np.array([1.0] * 19 + [0.0])
    expected = [
        paired_difference(before, 1 - before, seed=0),
        paired_difference(np.zeros(3), np.array([0.0, 0.0, 1.0]), seed=0),
        paired_difference(np.array([1.0] * 4 + [0.0] * 4), np.array([1.0] * 3 + [0.0] * 5), seed=0),
    ]
    shown = [detectable_paired(20, 1.0), detectable_paired(3, 1 / 3), detectable_paired(8, 1 / 8)]
    adjusted = holm([one.p for one in expected])
    tests = [row["paired"]["after"] for row in found["rows"]]
    assert found["comparisons"] == 3
    for test, one, p_holm, least in zip(tests, expected, adjusted, shown, strict=True):
        assert test == {
            "before": one.before, "after": one.after, "difference": one.difference, "low": one.low,
            "high": one.high, "p": one.p, "p_holm": p_holm, "n": one.n, "detectable": least,
        }  # fmt: skip
    assert tests[0]["p_holm"] == pytest.approx(3 * tests[0]["p"])


def test_a_row_says_how_small_a_change_its_prompts_could_have_shown() -> None:
    found = block(
        replies("before", "prefill", FORCED[0], k=5), replies("after", "prefill", FORCED[1], k=5),
        replies("before", "twins", "CCC", judge="rules"), replies("after", "twins", "CCR", judge="rules"),
        harness={"before": documents("x" * 40), "after": documents("x" * 30 + "0" * 10)},
    )  # fmt: skip
    assert [row["paired"]["after"]["detectable"] for row in found["rows"]] == [
        detectable_paired(20, 1.0), None, detectable_paired(40, 0.25),
    ]  # fmt: skip


def test_averages_have_a_paired_test_and_no_detectable_change() -> None:
    (row,) = block(harness={"before": documents("9999x55"), "after": documents("8899x44")})["rows"]
    assert row["cells"]["before"]["value"] == pytest.approx(5.6 / 7)
    assert row["paired"]["after"]["difference"] == pytest.approx(-0.4 / 7)
    assert row["paired"]["after"]["detectable"] is None


def test_a_number_without_documents_is_shown_and_not_tested() -> None:
    bare = documents("0").assign(
        doc_id=None, value=3.2, weight=None, metric="perplexity", higher_is_better=False
    )
    (row,) = block(harness={"before": bare, "after": bare.assign(value=3.9)})["rows"]
    assert (row["better"], row["cells"]["after"]["value"], row["cells"]["after"]["low"]) == (
        "lower",
        3.9,
        None,
    )
    assert row["paired"] == {}


def test_only_documents_that_both_have_are_paired() -> None:
    (row,) = block(harness={"before": documents("xx00"), "after": documents("0x0")})["rows"]
    assert (row["paired"]["after"]["n"], row["paired"]["after"]["before"]) == (3, pytest.approx(2 / 3))


def test_every_role_after_is_tested_and_counts() -> None:
    found = block(
        *(replies(role, "prefill", "CCCCCC", k=5) for role in ("before", "after", "control")),
        roles=("before", "after", "control"),
    )
    assert list(found["rows"][0]["paired"]) == ["after", "control"]
    assert found["comparisons"] == 2


def test_with_nothing_measured_the_block_is_empty() -> None:
    assert block() == {"models": [], "rows": [], "comparisons": 0}


HARNESS = {"utility_tasks": "toy_lookalikes", "utility_limit": 6}


def test_deepening_measures_lm_evals_tasks_before_and_after(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    words = deepen_words(
        testbed, tmp_path / "out", benign=testbed.file("benign.jsonl"),
        utility_include_path=testbed.harness, **HARNESS,
    )  # fmt: skip
    assert safedepth(*words) == 0
    summary = summary_of(tmp_path / "out")
    rows = {(row["what"], row["measure"]): row for row in summary["trade_off"]["rows"]}
    assert list(rows) == [
        ("prefill, nothing forced", "harmful replies"), ("prefill, 5 tokens forced", "harmful replies"),
        ("benign", "over-refusal"), ("toy_lookalikes", "acc"),
    ]  # fmt: skip
    lm_eval = rows[("toy_lookalikes", "acc")]
    assert {role: cell["n"] for role, cell in lm_eval["cells"].items()} == {"aligned": 6, "deepened": 6}
    assert lm_eval["paired"]["deepened"]["n"] == 6
    assert summary["trade_off"]["comparisons"] == 4
    assert summary["sources"]["benign benign"]["files"] == ["benign.jsonl"]

    from safedepth.utility import Harness

    monkeypatch.setattr(Harness, "table", None)  # what is measured is not measured again
    assert safedepth(*words) == 0


def test_fine_tuning_may_be_tested_by_tasks_alone(testbed: Testbed, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    words = finetune_words(
        testbed, tmp_path / "out", objective="sft", utility_include_path=testbed.harness, **HARNESS
    )
    assert safedepth(*words) == 0
    summary = summary_of(tmp_path / "out")
    (row,) = summary["trade_off"]["rows"]
    assert (row["what"], list(row["cells"])) == ("toy_lookalikes", ["before", "after"])
    assert [entry["what"] for entry in summary["not_measured"]] == ["harmful replies before and after"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"utility_limit": 0}, "expected --utility_limit of at least 1, found 0"),
        ({"utility_include_path": "/nowhere"}, "a folder of tasks after --utility_include_path, found none"),
    ],
)
def test_mistakes_in_the_tasks_are_found_before_the_training(
    testbed: Testbed, tmp_path: Path, wrong: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    options = {"utility_include_path": testbed.harness, "prompts": testbed.prompts, **HARNESS, **wrong}
    assert safedepth(*finetune_words(testbed, tmp_path / "out", **options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "config.json").exists()
