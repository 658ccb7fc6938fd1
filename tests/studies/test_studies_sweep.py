"""`safedepth attack sweep` on an organism: rows, the worst case within the bound, and a kill half-way."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from safedepth.errors import DataError, ModelError, RunError, SafedepthError
from safedepth.runs import RunDirectory
from safedepth.studies import protecting, sweep_trials
from safedepth.studies.sweep import parse_sweep, sweep
from safedepth.studies.sweep_trials import SweepConfig, entry_of_trial, rows_of
from safedepth.testbed import Testbed
from studies.attack_calls import sweep_words
from studies.deepen_calls import begun, few, safedepth, summary_of

TWO: dict[str, Any] = {"learning_rates": "1e-6,1e-3", "limit": 6, "epochs": "1"}


def swept(words: list[str]) -> Path:
    """The command without the terminal, so that errors come as they are."""
    return sweep(*parse_sweep(words[2:]))


def table_of(out: Path) -> pd.DataFrame:
    found = RunDirectory.read(out / "report").load("trials")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two trials that nothing stopped: a rate that changes nothing, and one that does harm."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert safedepth(*sweep_words(testbed, out, **TWO)) == 0
    return out


def test_the_worst_case_is_the_trial_that_does_harm(whole: Path) -> None:
    summary = summary_of(whole)
    block = summary["sweep"]
    mild, strong = block["trials"]
    assert (mild["learning_rate"], strong["learning_rate"]) == (1e-6, 1e-3)
    assert mild["asr"]["value"] == block["before"]["asr"]["value"] == 0
    assert strong["asr"]["value"] > 0.4
    assert block["bound"] == {
        "metric": "right answers: benign", "least": block["before"]["utility"]["value"] - 0.1, "lost": 0.1
    }  # fmt: skip
    for trial in (mild, strong):
        assert trial["within"] == (trial["utility"]["value"] >= block["bound"]["least"])
        assert (trial["defence"], trial["objective"], trial["peft"], trial["search"]) == (
            "sft",
            "sft",
            "none",
            "grid",
        )
    (worst,) = block["worst"]
    expected = 1 if strong["within"] else 0
    assert worst["trial"] == expected
    assert worst["value"] == block["trials"][expected]["asr"]["value"]
    assert worst["trials"] == 2
    assert summary["kind"] == "sweep"
    assert any("largest of several measured rates" in warning for warning in summary["warnings"])


def test_a_sweep_leaves_a_table_of_trials_and_no_weights(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == ["report"]
    run = RunDirectory.read(whole / "report")
    assert run.is_finished
    assert run.changed_files() == []
    table = table_of(whole)
    assert table["learning_rate"].tolist() == [1e-6, 1e-3]
    assert table["failed"].isna().all()
    for row in rows_of(table):
        replies = [
            load
            for path in (run.path / "measurements").glob("replies-*.parquet")
            if (load := run.load(path.stem)) is not None
        ]
        harmful = [
            int(
                (
                    (r["attack"] == "own prompt")
                    & (r["scope"] == "continuation")
                    & (r["outcome"] == "complied")
                ).sum()
            )
            for r in replies
        ]
        assert round(row["asr_value"] * row["asr_n"]) in harmful


def test_a_sweep_killed_half_way_goes_on_to_the_same_table(
    testbed: Testbed, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = begun(sweep_words(testbed, out, **TWO))
    deadline = time.monotonic() + 240
    while not list((out / "report" / "measurements").glob("trial-*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (out / "report" / "measurements" / "trials.parquet").exists()
    (kept,) = (out / "report" / "measurements").glob("trial-*.parquet")
    made = kept.stat().st_mtime_ns

    assert swept(sweep_words(testbed, out, **TWO)) == out / "report"
    assert kept.stat().st_mtime_ns == made
    pd.testing.assert_frame_equal(table_of(out), table_of(whole))
    assert summary_of(out)["sweep"] == summary_of(whole)["sweep"]
    assert sorted(path.name for path in out.iterdir()) == ["report"]


def test_a_finished_sweep_is_not_made_again_and_another_one_is_refused(
    testbed: Testbed, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(sweep_trials, "train_under_objective", forbidden)
    monkeypatch.setattr(sweep_trials, "open_target", forbidden)
    assert swept(sweep_words(testbed, whole, **TWO)) == whole / "report"
    with pytest.raises(RunError, match=r'learning_rates: "1e-6,1e-3" there, "1e-4" now'):
        swept(sweep_words(testbed, whole, **TWO | {"learning_rates": "1e-4"}))


def test_other_starts_other_objectives_and_adapters_are_trials_too(testbed: Testbed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(testbed.organism("deep"), tmp_path / "deep")
    words = sweep_words(
        testbed, out, limit=2, peft="lora", keep=True, data=few(testbed, "harmful", tmp_path, 10),
        defences=f"constrained,deepened={tmp_path / 'deep'},both={tmp_path / 'deep'}:constrained",
    )  # fmt: skip
    swept(words)
    rows = rows_of(table_of(out))
    aligned, deep = str(testbed.organism("aligned")), str(tmp_path / "deep")
    assert [(row["defence"], row["objective"], row["start"]) for row in rows] == [
        ("constrained", "constrained", aligned),
        ("deepened", "sft", deep),
        ("both", "constrained", deep),
    ]
    adapters = sorted((out / "trials").glob("*/adapter_config.json"))
    bases = [json.loads(path.read_text())["base_model_name_or_path"] for path in adapters]
    assert sorted(bases) == sorted([aligned, deep, deep])


def test_a_trial_that_diverges_is_a_row_without_numbers(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = protecting.train_under_objective

    def diverging(start: str, config: Any, *arguments: Any, **others: Any) -> Any:
        if config.learning_rate > 1:
            raise RunError("The training diverged at step 1: the loss is no finite number")
        return true(start, config, *arguments, **others)

    monkeypatch.setattr(sweep_trials, "train_under_objective", diverging)
    data = few(testbed, "harmful", tmp_path, 10)
    swept(sweep_words(testbed, tmp_path / "out", limit=2, data=data, learning_rates="1e-6,10"))
    mild, wild = summary_of(tmp_path / "out")["sweep"]["trials"]
    assert wild["failed"] == "the training diverged"
    assert (wild["asr"]["value"], wild["asr"]["n"], wild["utility"]["value"], wild["within"]) == (
        None,
        0,
        None,
        False,
    )
    assert mild["failed"] is None
    assert mild["within"]

    def broken(*_arguments: Any, **_others: Any) -> Any:
        raise RunError("Memory ran out while training")

    monkeypatch.setattr(sweep_trials, "train_under_objective", broken)
    with pytest.raises(RunError, match="Memory ran out"):
        swept(sweep_words(testbed, tmp_path / "other", limit=2, data=data))


@pytest.mark.parametrize(
    ("utility", "least", "within"),
    [(0.9, 0.9, True), (0.9 - 1e-12, 0.9, True), (0.89, 0.9, False), (None, 0.9, False), (0.9, None, False)],
)
def test_a_trial_is_within_the_bound_from_the_bound_on(utility: Any, least: Any, within: bool) -> None:
    row: dict[str, Any] = {
        "defence": "sft", "objective": "sft", "learning_rate": 1e-5, "epochs": 1, "seed": 0, "peft": "none",
        "failed": None,
    }  # fmt: skip
    for what, value in (("asr", 0.5), ("utility", utility)):
        row |= {f"{what}_{name}": value for name in ("value", "low", "high")}
        row |= {f"{what}_n": 10.0, f"{what}_unscored": 0.0}
    entry = entry_of_trial(row, search="grid", least=least)
    assert entry["within"] is within
    assert isinstance(entry["asr"]["n"], int)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"benign": None}, DataError, "expected one --benign FILE"),
        ({"defences": "deepened=absent"}, ModelError, "found no folder 'absent'"),
        ({"defences": "safeinstr"}, DataError, "expected --safety_data FILE with --objective safeinstr"),
        ({"learning_rate": 1e-3}, DataError, "expected --learning_rates in a sweep, found --learning_rate"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(
    testbed: Testbed, tmp_path: Path, changed: dict[str, Any], error: type[SafedepthError], message: str
) -> None:
    with pytest.raises(error, match=message):
        swept(sweep_words(testbed, tmp_path / "out", **changed))
    assert not (tmp_path / "out" / "report").exists()


def test_a_sweep_is_one_process(testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, config, model = parse_sweep(sweep_words(testbed, tmp_path / "out")[2:])
    monkeypatch.setattr(SweepConfig, "world_size", 2)
    with pytest.raises(DataError, match="expected one process, found 2"):
        sweep(options, config, model)
