"""AlpacaEval's file read, and its own package run offline with an annotator that needs no network."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safedepth.errors import DataError, MissingExtraError, RunError
from safedepth.utility import alpaca_score, read_instructions, require_alpaca, write_outputs

pytest.importorskip("alpaca_eval.constants", reason="AlpacaEval, or what it needs, is not installed")

ROWS = [
    {"instruction": f"How do I make lumet number{n}?", "output": f"Like this: {n}.", "generator": "book"}
    for n in range(12)
]


@pytest.fixture
def annotators(tmp_path: Path) -> Path:
    """An annotator that always prefers what it was shown first; AlpacaEval shuffles the two."""
    folder = tmp_path / "first"
    folder.mkdir()
    settings = {
        "first": {
            "prompt_template": "first/prompt.txt",
            "fn_completions": "test_completions",
            "completions_kwargs": {"value": "Output (a)"},
            "fn_completion_parser": "regex_parser",
            "completion_parser_kwargs": {"outputs_to_match": {1: r"Output \(a\)", 2: r"Output \(b\)"}},
            "batch_size": 1,
        }
    }
    (folder / "configs.yaml").write_text(json.dumps(settings).replace('"1":', "1:").replace('"2":', "2:"))
    (folder / "prompt.txt").write_text("{instruction} (a) {output_1} (b) {output_2}")
    return folder


def file_of(tmp_path: Path, rows: Sequence[Any] = ROWS) -> Path:
    place = tmp_path / "instructions.json"
    place.write_text(json.dumps(list(rows)))
    return place


def test_replies_are_compared_with_the_references_by_the_users_annotators(
    tmp_path: Path, annotators: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it is tried long
    require_alpaca(str(annotators))
    instructions = read_instructions(file_of(tmp_path))
    outputs = tmp_path / "outputs.json"
    replies = ["Like this: 0.", *(f"Like that: {n}." for n in range(1, 12))]
    write_outputs(outputs, instructions, replies, "mine")
    assert json.loads(outputs.read_text())[1] == {
        "dataset": "", "instruction": ROWS[1]["instruction"], "output": "Like that: 1.", "generator": "mine",
    }  # fmt: skip
    score = alpaca_score(instructions, outputs, str(annotators), tmp_path / "kept")
    assert score.annotator == "first"
    assert list(score.preferences) == [row["instruction"] for row in ROWS]
    assert score.preferences[ROWS[0]["instruction"]] == 0.5  # the same reply is a draw
    assert set(list(score.preferences.values())[1:]) == {0.0, 1.0}
    assert score.length_controlled is None
    assert score.why.startswith("AlpacaEval could not compute it here")
    kept = json.loads((tmp_path / "kept" / "annotations.json").read_text())
    assert {row["preference"] for row in kept} >= {1.0, 2.0}
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_an_annotator_that_fails_is_an_error_that_says_what_is_kept(tmp_path: Path, annotators: Path) -> None:
    (annotators / "prompt.txt").unlink()
    instructions = read_instructions(file_of(tmp_path))
    write_outputs(tmp_path / "outputs.json", instructions, ["So."] * 12, "mine")
    with pytest.raises(RunError, match=r"AlpacaEval could not compare the replies: .* is kept in"):
        alpaca_score(instructions, tmp_path / "outputs.json", str(annotators), tmp_path / "kept")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"instruction": "How?"}], r"expected `instruction` and `output`.*found no output"),
        ([{"prompt": "How?", "answer": "So."}], r"found no instruction and no output"),
        ([{"instruction": " ", "output": "So."}], "instruction"),
        ([ROWS[0], ROWS[0]], "expected each instruction once"),
        ([], "found none"),
    ],
)
def test_a_file_of_another_layout_is_an_error_with_its_row(
    tmp_path: Path, rows: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_instructions(file_of(tmp_path, rows))


def test_the_first_rows_alone_are_read_where_a_limit_says_so(tmp_path: Path) -> None:
    found = read_instructions(file_of(tmp_path), limit=3)
    assert [(item.id, item.output, item.generator) for item in found] == [
        ("1", "Like this: 0.", "book"), ("2", "Like this: 1.", "book"), ("3", "Like this: 2.", "book"),
    ]  # fmt: skip


def test_annotators_that_are_not_there_are_an_error() -> None:
    with pytest.raises(DataError, match="expected annotators after --annotators, found none called 'nobody'"):
        require_alpaca("nobody")
    require_alpaca("weighted_alpaca_eval_gpt4_turbo")


def test_without_the_package_the_message_ends_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alpaca_eval", None)
    with pytest.raises(MissingExtraError, match=r"AlpacaEval is not installed.*safedepth\[alpaca\]"):
        require_alpaca("nobody")
