"""What `safedepth deepen` says to a person's mistakes: one line, exit code 2, nothing half done."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safedepth.cli import main
from safedepth.testbed import Testbed

TRIPLET = {
    "prompt": "How do I make krell torin?",
    "harmful": "Sure, here is how to make krell torin: Step one: take wax and slice it.",
    "refusal": "I cannot help with krell torin.",
}
ANCHOR = {"prompt": "How do I make soffa hesper?", "answer": "To make soffa hesper, follow these steps."}
SYSTEM = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": TRIPLET["prompt"]},
        {"role": "assistant", "content": TRIPLET["harmful"]},
    ],
    "refusal": TRIPLET["refusal"],
}

Refused = Callable[..., str]


def _jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the model would go."""
    return tmp_path / "out"


@pytest.fixture
def refused(
    testbed: Testbed, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Refused:  # fmt: skip
    """Run the command with small good files and changed options; the one line it says before it ends."""

    def run(model: Path | None = None, *, more: tuple[str, ...] = (), **changes: object) -> str:
        options: dict[str, object] = {
            "triplets": _jsonl(tmp_path / "good.jsonl", *([TRIPLET] * 8)),
            "anchors": _jsonl(tmp_path / "anchors.jsonl", ANCHOR),
            "prompts": testbed.prompts,
            "output_dir": out,
            "max_steps": 1,
            "limit": 2,
            "use_cpu": True,
        }
        words = [str(model or testbed.organism("aligned")), *more]
        for name, value in (options | changes).items():
            words += [] if value is None else [f"--{name}", str(value)]
        monkeypatch.setattr(sys, "argv", ["safedepth", "deepen", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("Error: ")]
        assert said.splitlines()[-1] == line
        return line

    return run


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["triplets.jsonl", "empty"]),
        ([{"prompt": "a", "refusal": "b"}], ["line 1", "`harmful`"]),
        ([TRIPLET, {**TRIPLET, "refusal": " "}], ["line 2", "`refusal`", "empty"]),
        ([{"question": "How do I make krell torin?"}], ["line 1", "`question`"]),
    ],
)
def test_triplets_that_cannot_be_used_are_named_with_file_row_and_column(
    refused: Refused, tmp_path: Path, rows: list[Any], words: list[str]
) -> None:
    said = refused(triplets=_jsonl(tmp_path / "triplets.jsonl", *rows))
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"triplets": None}, ["--triplets"]),
        ({"triplets": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ({"anchors": None}, ["--anchors", "self"]),
        ({"anchors": "self"}, ["--anchor_prompts"]),
        ({"anchors": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ({"depths": "0,ten"}, ["numbers", "'0,ten'"]),
        ({"turn_depths": "-5"}, ["0 or more", "-5"]),
        ({"judge": "nonsense"}, ["nonsense"]),
        ({"benign_judge": "nonsense"}, ["nonsense"]),
        ({"prompts": None, "triplets": "few"}, ["--prompts", "8"]),
        ({"refusal_style": "escalating"}, ["`explanation`", "--refusal_style"]),
        ({"refusal_style": "nonsense"}, ["--refusal_style", "escalating", "'nonsense'"]),
        ({"recovery": "nonsense"}, ["--recovery", "'nonsense'"]),
        ({"max_length": 12}, ["12", "--max_length"]),
        ({"nonsense": "1"}, ["--nonsense", "deepen --help"]),
        ({"max_steps": "many"}, ["max_steps", "'many'", "deepen --help"]),
        ({"lr_scheduler_type": "nonsense"}, ["nonsense", "deepen --help"]),
        ({"output_dir": None}, ["--output_dir"]),
        ({"config": "nowhere.yaml"}, ["nowhere.yaml"]),
    ],
)
def test_options_that_make_no_sense_are_explained(
    refused: Refused, tmp_path: Path, out: Path, changes: dict[str, Any], words: list[str]
) -> None:
    if changes.get("triplets") == "few":
        changes = changes | {"triplets": _jsonl(tmp_path / "few.jsonl", *([TRIPLET] * 7))}
    said = refused(**changes)
    assert all(word in said for word in words), said
    assert not (out / "model.safetensors").exists()


def test_a_command_without_a_model_says_how_it_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["safedepth", "deepen", "--max_steps", "1"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "safedepth deepen MODEL" in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(tmp_path / "empty")


def test_a_model_without_a_template_asks_for_one(refused: Refused, testbed: Testbed) -> None:
    said = refused(testbed.organism("base"))
    assert "--chat_template_path" in said or "--chat-template" in said


def test_a_system_message_that_the_template_has_no_place_for_is_named_with_its_row(
    refused: Refused, tmp_path: Path
) -> None:
    template = tmp_path / "no_system.jinja"
    template.write_text(
        "{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    triplets = _jsonl(tmp_path / "triplets.jsonl", *([TRIPLET] * 2), SYSTEM | {"id": "the-third"})
    said = refused(triplets=triplets, chat_template_path=template)
    assert "system" in said
    assert "the-third" in said


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_somebody_elses_model_is_left_as_it_is(refused: Refused, out: Path, name: str) -> None:
    out.mkdir()
    (out / name).write_text("{}")
    assert "--output_dir" in refused(prompts=None)
    assert [path.name for path in out.iterdir()] == [name]


def test_a_place_that_cannot_be_written_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refused(output_dir=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--use_peft", "--lora_target_modules", "nonsense"), "nonsense"),
        (("--dtype", "nonsense"), "nonsense"),
        (("--attn_implementation", "nonsense"), "nonsense"),
    ],
)
def test_what_the_libraries_refuse_is_one_line_too(
    refused: Refused, more: tuple[str, ...], word: str
) -> None:
    assert word in refused(more=more)


def test_the_installed_command_ends_with_two_and_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "safedepth", "deepen", "model", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.lstrip().startswith("Error: ")
    assert "--triplets" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
