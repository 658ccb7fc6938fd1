"""Judging a run again: without its model, resumed, against a truth, against a person's labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from safedepth.data.labels import read_labels, write_labels
from safedepth.errors import DataError, JudgeError, RunError
from safedepth.judges.text import outcome_of_text
from safedepth.nouns import Message, Outcome
from safedepth.runs import RunDirectory
from safedepth.studies import judging
from safedepth.studies.attack_plan import AttackOptions
from safedepth.studies.audit import AuditConfig, audit
from safedepth.studies.calibrating import slice_to_label
from safedepth.studies.judging import JudgingConfig, judge_again, logged_replies
from safedepth.testbed import Testbed

VERDICT = ["outcome", "score", "reason", "judge"]


@pytest.fixture(scope="module")
def run(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of a checkpoint that is gone afterwards: whoever judges again has no model to ask."""
    folder = tmp_path_factory.mktemp("judging")
    model = folder / "model"
    shutil.copytree(testbed.organism("aligned"), model)
    config = AuditConfig(
        model=str(model), prompts=str(testbed.prompts), depths=(0, 5, 20), judges=("rules",), limit=8,
        attack=AttackOptions(attacks=("prefill", "decoding"), settings="temperature=0.5,1"),
        max_tokens=120, device="cpu",
    )  # fmt: skip
    out = audit(config, folder / "audit")
    shutil.rmtree(model)
    return out


@pytest.fixture(scope="module")
def judged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = JudgingConfig(
        run=str(run), judges=("rubric=safedepth_grader/toy", "rubric=safedepth_grader/swayed", "keywords"),
        truth="oracle",
    )  # fmt: skip
    return judge_again(config, tmp_path_factory.mktemp("judged") / "out")


def _replies(run: Path) -> pd.DataFrame:
    table = RunDirectory.read(run).load("replies")
    assert table is not None
    return table


def _summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def test_every_reply_is_judged_by_every_judge_and_keeps_its_old_verdicts(run: Path, judged: Path) -> None:
    before, after = _replies(run), _replies(judged)
    place = ["attack", "k", "variant", "prompt_id", "scope", "continuation", "forced"]
    same = [frame[place].astype(str).sort_values(place, ignore_index=True) for frame in (before, after)]
    for name in ("rules", "rubric(toy)", "rubric(swayed)", "keywords", "oracle"):
        mine = after[after["judge"] == name]
        pd.testing.assert_frame_equal(
            same[0], mine[place].astype(str).sort_values(place, ignore_index=True), check_dtype=False
        )
    old = before.sort_values(place, ignore_index=True)["outcome"]
    kept = after[after["judge"] == "rules"].sort_values(place, ignore_index=True)["outcome"]
    assert old.tolist() == kept.tolist()
    assert after.loc[after["judge"] == "rubric(toy)", "score"].isin([1, 2, 3, 4, 5]).all()


def test_the_truthful_grader_is_right_and_the_swayed_one_misses_recoveries(judged: Path) -> None:
    rows = _summary(judged)["calibration"]["rows"]
    found = {(row["judge"], row["scope"], row["class"]): row for row in rows}
    right = found["rubric(toy)", "full", "all"]
    assert (right["fp"], right["fn"]) == (0, 0)
    assert right["tp"] > 0
    assert right["tn"] > 0
    swayed = found["rubric(swayed)", "full", "recovery"]
    assert swayed["fn"] == swayed["tp"] + swayed["fn"] > 0, "an apology excuses every recovery"
    assert found["rubric(swayed)", "full", "answer"]["fn"] == 0


def test_what_a_judge_says_is_corrected_towards_the_truth(judged: Path) -> None:
    summary = _summary(judged)
    place = ["attack", "k", "variant", "prefix", "scope"]
    truth = {
        tuple(row.get(name) for name in place): row["value"]
        for row in summary["rates"]
        if row["judge"] == "oracle"
    }
    seen = 0
    for row in summary["calibration"]["corrected"]:
        assert row["judge"] != "oracle", "a truth is not corrected by itself"
        if row["judge"] == "rubric(toy)":
            seen += 1
            true = truth[tuple(row.get(name) for name in place)]
            assert row["value"] == pytest.approx(true, abs=0.15)
            assert row["low"] <= min(row["value"], true)
            assert row["high"] >= max(row["value"], true)
    assert seen == len(truth)


def test_the_same_command_resumes_and_another_one_does_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = JudgingConfig(run=str(run), judges=("keywords",))
    calls = []
    real = judging._judged

    def counted(*arguments: Any) -> pd.DataFrame:
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(judging, "_judged", counted)
    with pytest.raises(KeyboardInterrupt):
        judge_again(config, tmp_path / "out")
    judge_again(config, tmp_path / "out")
    logs = len(list(RunDirectory.read(run).logs.rglob("*.eval")))
    assert len(calls) == logs + 1, "what was judged before the interruption is not judged again"
    with pytest.raises(RunError, match="another configuration"):
        judge_again(replace(config, judges=("rules",)), tmp_path / "out")


def test_a_labelled_slice_calibrates_and_the_labels_of_another_run_do_not(
    run: Path, testbed: Testbed, tmp_path: Path
) -> None:
    rows = slice_to_label(logged_replies(run), 24, seed=0)
    assert len(rows) == 24
    write_labels(tmp_path / "labels.csv", rows)
    told = pd.read_csv(tmp_path / "labels.csv", keep_default_na=False)
    for index, row in told.iterrows():
        shown = row["continuation"] if row["scope"] == "continuation" else row["forced"] + row["continuation"]
        outcome = outcome_of_text("oracle", [Message(role="user", content=row["prompt"])], shown)
        told.loc[index, "label"] = "harmful" if outcome is Outcome.COMPLIED else "harmless"
    told.to_csv(tmp_path / "labels.csv", index=False)
    assert len(read_labels(tmp_path / "labels.csv")) == 24
    config = JudgingConfig(run=str(run), judges=("oracle", "keywords"), labels=str(tmp_path / "labels.csv"))
    block = _summary(judge_again(config, tmp_path / "out"))["calibration"]
    rows_of_oracle = [r for r in block["rows"] if r["judge"] == "oracle" and r["class"] == "all"]
    assert sum(row["fp"] + row["fn"] for row in rows_of_oracle) == 0
    assert sum(row["n"] for row in rows_of_oracle) >= 24, "the same words may stand several times"
    told["continuation"] += " of another run"
    told["key"] = [f"{index:016x}" for index in range(len(told))]
    told.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(DataError, match="0 of 24"):
        judge_again(config, tmp_path / "other")
    assert not (tmp_path / "other").exists(), "found out before any judge was asked"


def test_what_cannot_be_judged_again_says_why(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("*.eval"))
    with pytest.raises(RunError, match="logs"):
        judge_again(JudgingConfig(run=str(bare), judges=("rules",)), tmp_path / "a")
    with pytest.raises(RunError, match="thinking"):
        judge_again(JudgingConfig(run=str(run), judges=("rules",), attacks=("thinking",)), tmp_path / "b")
    with pytest.raises(JudgeError, match="--grader"):
        judge_again(JudgingConfig(run=str(run), judges=("rubric",)), tmp_path / "c")
    with pytest.raises(DataError, match="one truth"):
        JudgingConfig(run=str(run), judges=("rules",), truth="oracle", labels="file.csv")
    assert not [path for path in tmp_path.iterdir() if path != bare], "a mistake leaves no folder"
