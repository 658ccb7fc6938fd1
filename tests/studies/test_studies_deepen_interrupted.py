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
from safedepth.studies.deepen import deepen
from safedepth.studies.training_options import parse_deepen
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


def _stopped_in_the_middle(
    words: list[str], out: Path, how: signal.Signals, *, after: int
) -> tuple[int, str]:
    """Exit status and words of a command that was sent a signal at its first checkpoint past a step."""
    process = _started(words)
    deadline = time.monotonic() + 240
    while max(_states(out), default=0) <= after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert not (out / "training.json").exists(), said
    return process.returncode, said


def _states(out: Path) -> dict[int, Path]:
    """Step -> state of every checkpoint; `last_checkpoint` would take away one that is being written."""
    found = out.glob("checkpoint-*/trainer_state.json")
    return {int(path.parent.name.partition("-")[2]): path for path in found}


def _reached(out: Path, *, more_than: int) -> int:
    """The step of the last checkpoint, which is whole."""
    kept = last_checkpoint(out)
    assert kept is not None
    step = int(json.loads((kept / "trainer_state.json").read_text())["global_step"])
    assert more_than < step < STEPS
    assert load_model(str(kept), device="cpu").card.parameters > 0
    return step


def test_a_training_interrupted_then_killed_goes_on_from_its_last_checkpoint_with_the_same_command(
    words: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, said = _stopped_in_the_middle(words, out, signal.SIGINT, after=0)
    assert status == 130, said
    assert "Traceback" not in said
    assert "the same command goes on" in said
    interrupted = _reached(out, more_than=0)

    status, said = _stopped_in_the_middle(words, out, signal.SIGKILL, after=interrupted)
    assert status == -signal.SIGKILL, said
    killed = _reached(out, more_than=interrupted)
    written = time.time_ns()

    # How many checkpoints are kept is free to change, and shows here what was done again: nothing.
    done = _finished([*words, "--save_total_limit", str(STEPS)])
    again = {step for step, path in _states(out).items() if path.stat().st_mtime_ns > written}
    assert min(again) > killed
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
    command = [*launch, "-m", "safedepth", *fewer]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((out / "training.json").read_text())
    assert ["processes", "2"] in record["facts"]
    assert ["steps", "4 (about 0.0 passes over the triplets)"] in record["facts"]
    assert done.stdout.count("report.html") == 1
    assert load_model(str(out), device="cpu").card.parameters > 0
    assert RunDirectory.read(out / "report").is_finished

    written = (out / "model.safetensors").stat().st_mtime_ns
    deepen(*parse_deepen(fewer[1:]))  # in one process: trained already
    assert (out / "model.safetensors").stat().st_mtime_ns == written
