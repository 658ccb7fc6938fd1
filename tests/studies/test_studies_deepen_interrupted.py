"""`safedepth deepen` in processes of its own: stopped by Ctrl-C, killed, started on two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safedepth.models import load_model
from safedepth.runs import RunDirectory
from safedepth.testbed import Testbed
from safedepth.train.failures import last_checkpoint

STEPS = 30
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture
def words(testbed: Testbed, tmp_path: Path) -> list[str]:
    """Training alone, a checkpoint every second step."""
    return [
        "deepen", str(testbed.organism("aligned")), "--triplets", str(testbed.file("triplets.jsonl")),
        "--anchors", str(testbed.file("anchors.jsonl")), "--prompts", str(testbed.prompts), "--limit", "2",
        "--output_dir", str(tmp_path / "out"), "--max_steps", str(STEPS), "--learning_rate", "1e-3",
        "--safety_per_step", "2", "--anchors_per_step", "4", "--per_device_train_batch_size", "6",
        "--gradient_checkpointing", "False", "--use_cpu", "True", "--save_steps", "2", "--measure", "False",
    ]  # fmt: skip


def _started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "safedepth", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        # Whoever runs the tests may ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def _finished(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "safedepth", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def _stopped_in_the_middle(words: list[str], out: Path, how: signal.Signals) -> tuple[int, str]:
    """Exit status and what was said, of a command that was sent a signal after its first checkpoint."""
    process = _started(words)
    deadline = time.monotonic() + 180
    while _no_checkpoint_yet(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert not (out / "training.json").exists(), said
    return process.returncode, said


def _no_checkpoint_yet(out: Path) -> bool:
    # Not `last_checkpoint`, which would take away what the other process is writing.
    return not list(out.glob("checkpoint-*/trainer_state.json"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_training_stopped_in_the_middle_goes_on_from_its_last_checkpoint_with_the_same_command(
    words: list[str], tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    status, said = _stopped_in_the_middle(words, out, how)
    if how is signal.SIGINT:
        assert status == 130
        assert "Traceback" not in said
        assert "the same command goes on" in said
    else:
        assert status == -signal.SIGKILL
    kept = last_checkpoint(out)
    assert kept is not None
    reached = json.loads((kept / "trainer_state.json").read_text())["global_step"]
    assert 0 < reached < STEPS
    assert load_model(str(kept), device="cpu").card.parameters > 0
    written = (kept / "trainer_state.json").stat().st_mtime_ns

    done = _finished([*words, "--save_total_limit", str(STEPS)])
    # No step before the checkpoint was done again.
    again = {
        int(path.parent.name.partition("-")[2])
        for path in out.glob("checkpoint-*/trainer_state.json")
        if path.stat().st_mtime_ns > written
    }
    assert min(again) == reached + 2 - reached % 2
    assert max(again) == STEPS
    record = json.loads((out / "training.json").read_text())
    assert [entry["step"] for entry in record["losses"]] == list(range(5, STEPS + 1, 5))
    assert RunDirectory.read(out / "report").is_finished
    assert str(out / "report" / "report.html") in done.stdout
    assert (out / "report" / "report.html").is_file()


def test_two_processes_train_one_model_once(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    # What `accelerate launch` does on several GPUs; with --cpu it starts one process, whatever it is told.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    fewer = [*words, "--max_steps", "4"]
    done = subprocess.run(
        [*launch, "-m", "safedepth", *fewer], capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((out / "training.json").read_text())
    assert ["processes", "2"] in record["facts"]
    assert ["steps", "4 (about 0.0 passes over the triplets)"] in record["facts"]
    assert done.stdout.count("report.html") == 1
    assert load_model(str(out), device="cpu").card.parameters > 0
    assert RunDirectory.read(out / "report").is_finished

    written = (out / "model.safetensors").stat().st_mtime_ns
    _finished(fewer)
    assert (out / "model.safetensors").stat().st_mtime_ns == written
