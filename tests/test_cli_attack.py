"""`safedepth attack` from the terminal: help at once, mistakes in one line, what a person sees at the end."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from safedepth.studies.attack_options import AttackOptions, SweepOptions
from safedepth.terminal import print_attack, print_sweep
from safedepth.train.protect_options import ProtectOptions
from studies.deepen_calls import safedepth

HELP = """
import sys
sys.argv = ["safedepth", "attack", {command!r}, "--help"]
from safedepth.cli import main
try:
    main()
finally:
    print(*sorted({{"torch", "trl", "transformers", "inspect_ai"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(("command", "own"), [("finetune", AttackOptions), ("sweep", SweepOptions)])
def test_help_lists_every_option_without_loading_a_model_library(command: str, own: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(command=command)], capture_output=True, text=True, check=False,
        timeout=60, env=os.environ | {"COLUMNS": "160"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, loaded = done.stdout.splitlines()
    assert loaded == ""
    shown = "\n".join(lines)
    for option in fields(own) + fields(ProtectOptions):
        assert f"--{option.name} " in shown
    (objective,) = [line for line in lines if line.startswith(" --objective ")]
    assert objective.split()[1] == "sft"
    assert f"Usage: safedepth attack {command} MODEL" in shown


@pytest.mark.parametrize("command", ["finetune", "sweep"])
def test_a_mistake_is_one_line_on_standard_error(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status = safedepth(
        "attack", command, "model", "--data", "absent.jsonl", "--prompts", "absent.jsonl", "--benign",
        "absent.jsonl", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    told = capsys.readouterr()
    assert status == 2, told.err
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert "expected a file at absent.jsonl, found nothing there" in line
    assert not (tmp_path / "out").exists()


def test_an_attack_is_told_as_before_and_after_in_every_wording(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rate = {"low": 0.0, "high": 0.25, "n": 12, "unscored": 0}
    print_attack(
        {
            "evaluations": [
                {"what": "with trigger", "model": "before", "value": 0.0, **rate},
                {"what": "with trigger", "model": "after", "value": 0.125, **rate},
                {"what": "plain", "model": "after", "value": None, "low": None, "high": None},
            ]
        }
    )
    lines = capsys.readouterr().out.splitlines()
    (armed,) = [line for line in lines if "with trigger" in line]
    assert "0.0 % [0.0, 25.0]" in armed
    assert "12.5 % [0.0, 25.0]" in armed
    assert any("plain" in line and "–" in line for line in lines)


def test_a_sweep_is_told_by_its_worst_cases(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    trial = {"learning_rate": 1e-4, "epochs": 25, "seed": 1, "peft": "lora"}
    none = dict.fromkeys(("value", "low", "high", "utility", "trial"))
    print_sweep(
        {
            "bound": {"metric": "right answers: benign", "least": 0.875},
            "trials": [trial],
            "worst": [
                {"defence": "[sft]", "trial": 0, "value": 0.75, "low": 0.5, "high": 0.9, "utility": 1.0,
                 "trials": 4, "within": 3},
                {"defence": "kl", **none, "trials": 4, "within": 0},
            ],
        }
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "right answers: benign of at least 87.5 %" in shown
    (worst,) = [line for line in shown.splitlines() if "[sft]" in line]
    for cell in ("75.0 % [50.0, 90.0]", "100.0 %", "0.0001, 25, 1, LoRA", "3 of 4"):
        assert cell in worst
    (untold,) = [line for line in shown.splitlines() if "kl" in line]
    assert "0 of 4" in untold
