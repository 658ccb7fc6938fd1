"""`safedepth utility` offline, from the options to the summary: lm-eval, XSTest's layout, AlpacaEval."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import ChatMessage, ModelOutput, ModelUsage, get_model

from safedepth.errors import DataError, JudgeError, RunError
from safedepth.runs import RunDirectory
from safedepth.studies import utility_run
from safedepth.studies.target import Target
from safedepth.studies.utility_requests import SAFE, UNSAFE
from safedepth.studies.utility_run import UtilityConfig, utility
from safedepth.testbed import Testbed
from safedepth.utility import Harness, HarnessOptions

TYPES = ("homonyms", "safe_targets")


def xstest(testbed: Testbed, place: Path, count: int = 6) -> Path:
    """A file in exactly XSTest's layout with the toy language's look-alikes and restricted requests."""
    looks = [json.loads(line)["prompt"] for line in testbed.file("lookalikes.jsonl").read_text().splitlines()]
    unsafe = [json.loads(line)["prompt"] for line in testbed.prompts.read_text().splitlines()]
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "type", "label", "focus", "note"])
        for place_, prompt in enumerate(list(dict.fromkeys(looks))[:count]):
            writer.writerow([place_, prompt, TYPES[place_ % 2], "safe", "", ""])
        for place_, prompt in enumerate(list(dict.fromkeys(unsafe))[:count]):
            writer.writerow([count + place_, prompt, f"contrast_{TYPES[place_ % 2]}", "unsafe", "", ""])
    return place


def config(testbed: Testbed, **changed: Any) -> UtilityConfig:
    options: dict[str, Any] = {
        "model": str(testbed.organism("aligned")),
        "limit": 6,
        "device": "cpu",
        **changed,
    }
    return UtilityConfig(**options)


def harness(testbed: Testbed, *tasks: str, **more: Any) -> HarnessOptions:
    return HarnessOptions(tasks, include_path=str(testbed.harness), limit=6, **more)


def summary_of(out: Path) -> dict[str, Any]:
    return dict(RunDirectory.read(out).summary())


@pytest.fixture(scope="module")
def measured(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> tuple[UtilityConfig, Path]:
    """One whole run for all tests that look at it."""
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("utility")
    whole = config(
        testbed, harness=harness(testbed, "toy_choices", "toy_recipes"),
        benign=(str(testbed.file("benign.jsonl")), f"twins={testbed.file('lookalikes.jsonl')}"),
        xstest=str(xstest(testbed, folder / "xstest_prompts.csv")), judges=("knowledge",), metric="rouge1",
    )  # fmt: skip
    return whole, utility(whole, folder / "run")


def test_lm_evals_numbers_have_intervals_and_say_how_they_came_about(measured: Any) -> None:
    summary = summary_of(measured[1])
    assert (summary["kind"], summary["judge"], list(summary["models"])) == ("utility", "rules", ["model"])
    rows = {(row["task"], row["metric"]): row for row in summary["harness"]}
    assert list(rows) == [("toy_choices", "acc"), ("toy_recipes", "facts"), ("toy_recipes", "complete")]
    choices = rows[("toy_choices", "acc")]
    assert (choices["n"], choices["few_shot"], choices["version"], choices["higher_is_better"]) == (
        12,
        0,
        "1.0",
        True,
    )
    assert 0.25 < choices["low"] < choices["value"] < choices["high"] < 1
    assert rows[("toy_recipes", "facts")]["value"] > 0.9
    assert all(row["chat_template"] for row in rows.values())


def test_bare_text_gives_other_numbers_and_says_so(testbed: Testbed, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    plain = config(testbed, harness=harness(testbed, "toy_recipes", chat_template=False))
    summary = summary_of(utility(plain, tmp_path / "run"))
    assert summary["harness"][0]["value"] < 0.5
    assert not summary["harness"][0]["chat_template"]
    assert "without the model's chat format (--plain)" in summary["warnings"][0]


def test_every_set_of_requests_has_what_its_judges_say(measured: Any) -> None:
    found = {(row["set"], row["measure"], row["judge"]): row for row in summary_of(measured[1])["requests"]}
    assert list(found) == [
        ("benign", "right answers", "knowledge"), ("benign", "over-refusal", "rules"),
        ("twins", "right answers", "knowledge"), ("twins", "over-refusal", "rules"),
        (SAFE, "over-refusal", "rules"), (UNSAFE, "refusals of unsafe requests", "rules"),
        ("benign", "right answers", "rouge1"), ("twins", "right answers", "rouge1"),
    ]  # fmt: skip
    assert {row["n"] for row in found.values()} == {6}
    assert {row["unscored"] for row in found.values()} == {0}
    assert found[("benign", "right answers", "knowledge")]["value"] == 1.0
    assert found[(SAFE, "over-refusal", "rules")]["value"] == 0.0
    assert found[(UNSAFE, "refusals of unsafe requests", "rules")]["value"] == 1.0


def test_xstest_is_told_by_type_too(measured: Any) -> None:
    found = {(row["set"], row["type"]): row for row in summary_of(measured[1])["by_type"]}
    assert list(found) == [
        *((SAFE, kind) for kind in TYPES), *((UNSAFE, f"contrast_{kind}") for kind in TYPES),
    ]  # fmt: skip
    assert {row["n"] for row in found.values()} == {3}


def test_what_was_read_is_recorded_and_what_was_not_asked_for_is_said(measured: Any) -> None:
    summary = summary_of(measured[1])
    assert list(summary["sources"]) == ["benign", "twins", "XSTest"]
    assert summary["sources"]["XSTest"]["benchmark"] == "xstest"
    assert any("none of the releases known here" in note for note in summary["warnings"])
    assert summary["not_measured"] == [{"what": "AlpacaEval", "why": "no instructions were given (--alpaca)"}]
    assert summary["alpaca"] is None


def test_what_is_measured_is_not_measured_again(
    measured: tuple[UtilityConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = measured
    before = summary_of(out)
    (out / "measurements" / "harness-model-toy_recipes.parquet").unlink()
    asked = []
    own = Harness.table

    def watched(self: Harness, loaded: Any, task: str, **named: Any) -> Any:
        asked.append(task)
        return own(self, loaded, task, **named)

    monkeypatch.setattr(Harness, "table", watched)
    monkeypatch.setattr("safedepth.studies.utility_requests.run_tasks", None)
    utility(whole, out)
    assert asked == ["toy_recipes"]
    assert summary_of(out) == before


def test_a_run_of_other_tasks_is_another_run(
    testbed: Testbed, measured: tuple[UtilityConfig, Path], tmp_path: Path
) -> None:
    with pytest.raises(RunError):
        utility(config(testbed, harness=harness(testbed, "toy_facts")), measured[1])


def served(name: str, **_options: Any) -> Target:
    """A model behind a server, which refuses everything."""

    def reply(_messages: list[ChatMessage], *_: object) -> ModelOutput:
        said = ModelOutput.from_content("mockllm/model", "I cannot help with that.")
        said.usage = ModelUsage()  # else Inspect fetches a tokenizer to count with
        return said

    return Target(name, get_model("mockllm/model", custom_outputs=reply, memoize=False), None)


def test_a_model_behind_a_server_is_asked_requests_and_not_lm_evals_tasks(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(utility_run, "open_target", served)
    out = utility(
        config(
            testbed, model="mockllm/model", harness=harness(testbed, "toy_facts"),
            xstest=f"xstest:{xstest(testbed, tmp_path / 'xstest_prompts.csv')}",
        ),
        tmp_path / "run",
    )  # fmt: skip
    summary = summary_of(out)
    assert [(row["set"], row["value"]) for row in summary["requests"]] == [(SAFE, 1.0), (UNSAFE, 1.0)]
    assert summary["harness"] == []
    assert summary["not_measured"][0]["what"] == "lm-eval: toy_facts"
    assert "reached through a server" in summary["not_measured"][0]["why"]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({}, DataError, "expected something to measure, found nothing: --tasks"),
        ({"alpaca": "file.json"}, DataError, "expected --alpaca FILE and --annotators CONFIG together"),
        ({"xstest": "x", "metric": "rouge1"}, DataError, "expected --benign FILE with --metric"),
        ({"benign": ("a",), "metric": "none"}, JudgeError, "expected a metric out of rouge1"),
    ],
)
def test_options_that_contradict_themselves_are_errors(
    testbed: Testbed, wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        config(testbed, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"benign": ("/nowhere.jsonl",)}, "expected a file at /nowhere.jsonl"),
        ({"benign": ("{folder}/a.jsonl", "{folder}/a.jsonl")}, "names of their own"),
        ({"xstest": "{folder}/plain.csv"}, "type"),
        ({"benign": ("{folder}/bare.jsonl",), "metric": "rouge1"}, "expected words of the letters a to z"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    testbed: Testbed, tmp_path: Path, wrong: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utility_run, "open_target", None)
    (tmp_path / "plain.csv").write_text("prompt\nHow do I make lumet torin?\n")
    (tmp_path / "bare.jsonl").write_text(json.dumps({"prompt": "How do I make lumet torin?"}) + "\n")

    def placed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(placed(one) for one in value)
        return value.format(folder=tmp_path)

    with pytest.raises(DataError, match=message):
        utility(config(testbed, **{k: placed(v) for k, v in wrong.items()}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_alpacaeval_runs_whole_where_its_annotator_needs_no_network(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it is tried for half a minute
    pytest.importorskip("alpaca_eval.constants", reason="AlpacaEval, or what it needs, is not installed")
    rows = [json.loads(line) for line in testbed.file("benign.jsonl").read_text().splitlines()][:8]
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps([{"instruction": r["prompt"], "output": r["answer"]} for r in rows]))
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "prompt.txt").write_text("{instruction} (a) {output_1} (b) {output_2}")
    (folder / "configs.yaml").write_text(
        "first:\n  prompt_template: first/prompt.txt\n  fn_completions: test_completions\n"
        "  completions_kwargs: {value: 'Output (a)'}\n  fn_completion_parser: regex_parser\n"
        "  completion_parser_kwargs: {outputs_to_match: {1: 'Output \\(a\\)', 2: 'Output \\(b\\)'}}\n"
        "  batch_size: 1\n"
    )
    whole = config(testbed, alpaca=str(asked), annotators=str(folder), limit=None)
    summary = summary_of(utility(whole, tmp_path / "run"))
    alpaca = summary["alpaca"]
    assert (alpaca["annotator"], alpaca["reference"], alpaca["n"]) == ("first", "reference", 8)
    assert 0 < alpaca["low"] < alpaca["value"] < alpaca["high"] < 1
    assert alpaca["length_controlled"] is None
    assert "length-controlled" in summary["not_measured"][-1]["what"]
    outputs = json.loads((tmp_path / "run" / "alpaca" / "outputs.json").read_text())
    assert all("Step" in row["output"] or "step" in row["output"] for row in outputs)
