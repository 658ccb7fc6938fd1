"""`safedepth measure` in two processes: one is killed, what is said and kept, and the same numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from safedepth.testbed import Testbed
from studies.deepen_calls import begun, safedepth
from studies.test_studies_measure import summary_of, words

LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
PATIENCE = 120.0


def worker(launcher: int, rank: int) -> int:
    """The process id of the launcher's child of this rank."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == str(launcher) and f"RANK={rank}".encode() in variables:
                return int(folder.name)
    raise AssertionError(f"no process {rank}")


def killed(command: Sequence[str], out: Path, rank: int) -> tuple[str, float]:
    """Start, kill this process once a piece is there; what is said then, and after how many seconds."""
    launcher = begun(command, program=(*LAUNCH, "-m", "safedepth"))
    end = time.monotonic() + PATIENCE
    while not list(out.glob("chunks/*/*.parquet")):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(worker(launcher.pid, rank), signal.SIGKILL)
    begin = time.monotonic()
    _, told = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode != 0
    return told, time.monotonic() - begin


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_process_ends_the_other_and_the_pieces_become_the_tables_of_one(
    testbed: Testbed, tmp_path: Path
) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    told, seconds = killed(words(testbed, out, limit=40), out, rank=1)
    assert "Ended from outside (SIGTERM). Another process ended" in told.replace("\n", " ")
    assert "Traceback" not in told.partition("torch/distributed/run.py")[0].partition("Traceback")[0]
    assert seconds < 45  # the launcher gives 30
    assert not (out / "summary.json").exists()
    kept = len(list(out.glob("chunks/*/*.parquet")))
    assert kept >= 1
    assert not list(out.rglob("*.tmp"))
    launcher = begun(words(testbed, out, limit=40), program=(*LAUNCH, "-m", "safedepth"))
    shown, told = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 0, told
    assert shown.count("Report:") == 1
    assert safedepth(*words(testbed, alone, limit=40)) == 0
    files = sorted(path.name for path in (alone / "measurements").iterdir())
    assert files == ["answers.parquet", "kl.parquet", "models.parquet"]
    for name in files:
        assert (out / "measurements" / name).read_bytes() == (alone / "measurements" / name).read_bytes()
    one, two = summary_of(alone), summary_of(out)
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert one | {"created": ""} == two | {"created": ""}


@pytest.mark.parametrize("command", ["audit", "attack adaptive"])
def test_a_command_whose_work_is_not_shared_is_refused_once(command: str) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-m", "safedepth", *command.split(), "model", "--prompts", "file"],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "COLUMNS": "400"},
            capture_output=True, text=True, check=False,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [process.returncode for process in said] == [2, 2]
    assert f"safedepth {command} runs in one process, found 2" in said[0].stderr
    assert "--server" in said[0].stderr
    assert said[1].stderr == ""
