"""`safedepth deepen` stopped by Ctrl-C and by kill goes on with the same command; two processes share it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safedepth.studies.deepen import deepen
from safedepth.studies.training_options import parse_deepen
from safedepth.testbed import Testbed
from safedepth.train.failures import last_checkpoint
from studies.deepen_calls import begun, deepen_words, few, summary_of

STEPS = 20


def words(testbed: Testbed, folder: Path) -> list[str]:
    """Twenty steps of a few tenths of a second, with a checkpoint every five."""
    files = {name: few(testbed, name, folder, 64) for name in ("triplets", "anchors")}
    return deepen_words(
        testbed, folder / "out", **files, max_steps=STEPS, save_steps=5, logging_steps=1, learning_rate=1e-3,
        safety_per_step=4, anchors_per_step=16, per_device_train_batch_size=20, measure=False,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    deepen(*parse_deepen(words(testbed, folder)[1:]))
    return folder / "out"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_training_that_was_stopped_goes_on_with_the_same_command_and_ends_as_one_that_was_not(
    testbed: Testbed, whole: Path, tmp_path: Path, how: signal.Signals
) -> None:
    command = words(testbed, tmp_path)
    out = tmp_path / "out"
    process = begun(command)
    wait_for(out / "checkpoint-5" / "trainer_state.json", process)
    process.send_signal(how)
    shown, told = process.communicate(timeout=60)
    assert not (out / "training.json").exists()
    kept = last_checkpoint(out)
    assert kept is not None
    reached = int(kept.name.partition("-")[2])
    assert 5 <= reached < STEPS
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on from there" in told
        assert "Traceback" not in told + shown
        assert last_checkpoint(out) == kept
    else:
        assert process.returncode == -signal.SIGKILL

    assert deepen(*parse_deepen(command[1:])) == out / "report"
    cut = json.loads((out / "training.json").read_text())["losses"]
    unbroken = json.loads((whole / "training.json").read_text())["losses"]
    assert [entry["step"] for entry in cut] == [entry["step"] for entry in unbroken] == [*range(1, STEPS + 1)]
    for found, expected in zip(cut, unbroken, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    one, other = (load_file(folder / "model.safetensors") for folder in (out, whole))
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-4)


def test_two_processes_train_together_and_one_of_them_measures_and_reports(
    testbed: Testbed, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # Answers of its own: one process asks the model, the other waits for them.
    own = {"anchors": "self", "anchor_prompts": few(testbed, "lookalikes", tmp_path, 4)}
    command = deepen_words(testbed, out, **own, control=True, use_cpu=True)
    # `accelerate launch` starts this for several GPUs; on the processor it starts one process alone.
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = begun(command, program=(*launch, "-m", "safedepth"))
    shown, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert shown.count("Report:") == 1
    summary = summary_of(out)
    assert [dict(record["facts"])["processes"] for record in summary["deepening"]["training"]] == ["2", "2"]
    assert {rate["model"] for rate in summary["rates"]} == {"aligned", "deepened", "control"}
    assert (out / "README.md").is_file()
    # What one process learns from the same examples.
    alone = deepen_words(
        testbed, tmp_path / "alone", anchors=out / "anchors.jsonl", measure=False, use_cpu=True
    )
    deepen(*parse_deepen(alone[1:]))
    one, other = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "alone"))
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-4, atol=1e-5)
