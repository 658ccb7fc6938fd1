"""Two writers never meet, and a writer that was killed leaves nothing in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from safedepth.errors import RunError
from safedepth.runs import RunDirectory

# Dies by kill -9 between writing the temporary file and putting it in place.
KILLED_IN_A_WRITE = """
import os, signal, sys
from pathlib import Path
import pandas as pd
from safedepth.runs import RunDirectory

run = RunDirectory.open(sys.argv[1], {"seed": 0})
run.measurement("first", lambda: pd.DataFrame({"x": [1, 2]}))
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
run.measurement("second", lambda: pd.DataFrame({"x": [3, 4]}))
"""

HOLDS_THE_LOCK = """
import sys
from safedepth.runs import RunDirectory

run = RunDirectory.open(sys.argv[1], {"seed": 0})
print("open", flush=True)
sys.stdin.read()
"""


def child(script: str, path: Path) -> list[str]:
    return [sys.executable, "-c", script, str(path)]


def test_a_second_process_is_told_who_is_writing(tmp_path: Path) -> None:
    with subprocess.Popen(
        child(HOLDS_THE_LOCK, tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(RunError, match=rf"Another process \(pid {holder.pid} .*is writing"):
            RunDirectory.open(tmp_path, {"seed": 0})
        assert RunDirectory.read(tmp_path).config == {"seed": 0}
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    RunDirectory.open(tmp_path, {"seed": 0}).close()


def test_the_same_process_cannot_open_a_run_twice(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, {}):
        with pytest.raises(RunError, match=f"pid {os.getpid()}"):
            RunDirectory.open(tmp_path, {})
        with pytest.raises(RunError, match=f"pid {os.getpid()}"):  # the refusal did not free the lock
            RunDirectory.open(tmp_path, {})
    RunDirectory.open(tmp_path, {}).close()


def test_a_kill_in_the_middle_of_a_write_leaves_what_was_finished(tmp_path: Path) -> None:
    killed = subprocess.run(child(KILLED_IN_A_WRITE, tmp_path), check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "measurements"
    assert (folder / "first.parquet").is_file()
    assert not (folder / "second.parquet").exists()
    assert len(list(folder.iterdir())) == 2  # the half-way file shows that the kill fell where it should
    with RunDirectory.open(tmp_path, {"seed": 0}) as run:
        assert [p.name for p in folder.iterdir()] == ["first.parquet"]
        assert run.load("first") is not None
        second = run.measurement("second", lambda: pd.DataFrame({"x": [3, 4]}))
        assert second["x"].tolist() == [3, 4]


def test_a_kill_before_the_config_lets_the_same_command_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".config.json.4711.tmp").write_text('{"se')
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".lock").write_text("pid 4711 on toy")
    with RunDirectory.open(tmp_path, {"seed": 1}):
        assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}
    assert not (tmp_path / ".config.json.4711.tmp").exists()


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match="no locks"), RunDirectory.open(tmp_path, {}) as run:
        assert run.path == tmp_path
