"""`safedepth finetune` stopped by Ctrl-C and by kill goes on with the same command."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safedepth.testbed import Testbed
from safedepth.train.failures import last_checkpoint
from studies.deepen_calls import begun, few, rows_of
from studies.finetune_calls import HOLDING, again, finetune_words

STEPS = 6


def words(testbed: Testbed, folder: Path) -> list[str]:
    """Six steps of a few tenths of a second, with a checkpoint every two."""
    return finetune_words(
        testbed, folder / "out", dataset_name=few(testbed, "harmful", folder, 24), beta=HOLDING,
        max_steps=STEPS, save_steps=2, logging_steps=1, learning_rate=1e-3, per_device_train_batch_size=8,
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
    again(words(testbed, folder))
    return folder / "out"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_training_that_was_stopped_goes_on_with_the_same_command_and_ends_as_one_that_was_not(
    testbed: Testbed, whole: Path, tmp_path: Path, how: signal.Signals
) -> None:
    command, out = words(testbed, tmp_path), tmp_path / "out"
    process = begun(command)
    wait_for(out / "checkpoint-2" / "trainer_state.json", process)
    process.send_signal(how)
    shown, told = process.communicate(timeout=60)
    assert not (out / "training.json").exists()
    kept = last_checkpoint(out)
    assert kept is not None
    assert 2 <= int(kept.name.partition("-")[2]) < STEPS
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on from there" in told
        assert "Traceback" not in told + shown
    else:
        assert process.returncode == -signal.SIGKILL
    (asked,) = (out / "reference").iterdir()
    made = asked.stat().st_mtime_ns

    assert again(command) == out / "report"
    assert asked.stat().st_mtime_ns == made
    cut, unbroken = (json.loads((folder / "training.json").read_text())["losses"] for folder in (out, whole))
    assert [entry["step"] for entry in cut] == [*range(1, STEPS + 1)]
    for found, expected in zip(cut, unbroken, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    told_by_step = [rows_of(folder / "diagnostics.jsonl") for folder in (out, whole)]
    for row, same in zip(*told_by_step, strict=True):
        for name, value in same.items():
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-2, abs=1e-3))
    one, other = (load_file(folder / "model.safetensors") for folder in (out, whole))
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-4)
