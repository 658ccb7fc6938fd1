"""`scripts/environment.py`: the second time at once, and never a half-made environment."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import environment

Commands = list[list[str]]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """A project of its own, in which making and installing are written down instead of done."""
    for name in ("requirements.lock", "requirements-dev.lock", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    venv = tmp_path / ".venv"
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", venv)
    written: Commands = []

    def run(command: list[object], **_: object) -> subprocess.CompletedProcess[Any]:
        words = list(map(str, command))
        if "-c" in words:
            return subprocess.CompletedProcess(words, 0)
        written.append(words)
        if "venv" in words:
            (venv / "bin").mkdir()
            (venv / "bin" / "python").touch()
            (venv / "bin" / "pip").write_text(f"#!{venv}/bin/python")
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return written


def make(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["environment.py", part])
    environment.main()


def kinds(commands: Commands) -> list[str]:
    """What was done, in words, since last asked."""
    done = []
    for words in commands:
        if words[1:3] == ["-m", "venv"]:
            done.append("venv")
        elif "-r" in words:
            done.append(Path(words[-1]).name)
        elif "-e" in words:
            done.append("safedepth")
    commands.clear()
    return done


def interrupting(word: str, error: BaseException) -> Callable[..., subprocess.CompletedProcess[Any]]:
    """The present `subprocess.run`, but ending in `error` at the first command that holds `word`."""
    run = subprocess.run

    def interrupted(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        finished = run(command, **options)
        if word in map(str, command):
            raise error
        return finished

    return interrupted


def test_the_second_time_nothing_is_done(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    make("runtime", monkeypatch)
    assert kinds(commands) == ["venv", "requirements.lock", "safedepth"]
    make("runtime", monkeypatch)
    assert kinds(commands) == []


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_change_is_installed_over_what_is_there(
    changed: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("dev", monkeypatch)
    kinds(commands)
    (environment.ROOT / changed).write_text("changed")
    make("dev", monkeypatch)
    assert kinds(commands) == ["requirements-dev.lock", "safedepth"]


def test_a_larger_part_serves_the_smaller(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    make("runtime", monkeypatch)
    kinds(commands)
    make("dev", monkeypatch)
    assert kinds(commands) == ["requirements-dev.lock", "safedepth"]
    make("runtime", monkeypatch)
    assert kinds(commands) == []


@pytest.mark.parametrize("moment", ["venv", "-r", "-e"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), subprocess.CalledProcessError(1, ["pip"])])
def test_an_environment_whose_making_broke_off_is_made_anew(
    moment: str, error: BaseException, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as during:
        during.setattr(subprocess, "run", interrupting(moment, error))
        with pytest.raises(SystemExit):
            make("runtime", monkeypatch)
    leftover = environment.VENV / "lib"
    leftover.mkdir()
    kinds(commands)
    make("runtime", monkeypatch)
    assert kinds(commands) == ["venv", "requirements.lock", "safedepth"]
    assert not leftover.exists()


def test_an_environment_that_was_moved_is_made_anew(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("runtime", monkeypatch)
    kinds(commands)
    (environment.VENV / "bin" / "pip").write_text("#!/another/place/.venv/bin/python")
    make("runtime", monkeypatch)
    assert kinds(commands) == ["venv", "requirements.lock", "safedepth"]


def test_an_update_that_broke_off_does_not_pass_for_the_state_before(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("runtime", monkeypatch)
    lock = environment.ROOT / "requirements.lock"
    before = lock.read_text()
    lock.write_text("changed")
    with monkeypatch.context() as during:
        during.setattr(subprocess, "run", interrupting("-r", KeyboardInterrupt()))
        with pytest.raises(SystemExit):
            make("runtime", monkeypatch)
    lock.write_text(before)
    kinds(commands)
    make("runtime", monkeypatch)
    assert kinds(commands) == ["venv", "requirements.lock", "safedepth"]
