"""A constrained training that was killed or stopped goes on as if nothing had happened: to the last bit."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from safedepth.errors import RunError
from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.diagnostics import FILE, read_diagnostics
from safedepth.train.failures import last_checkpoint
from train import constrained_killed
from train.constrained_killed import OPTIONS, STEPS, training


@pytest.fixture(scope="module")
def killed(run_once: Callable[[str, list[str]], Path]) -> Path:
    """The folders that killed trainings left behind."""
    return run_once("constrained-killed", [sys.executable, constrained_killed.__file__])


def course(trainer: ConstrainedSFTTrainer) -> list[dict[str, Any]]:
    """What was logged of each step, but TRL's count of tokens, which begins anew when a training goes on."""
    steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    return [{name: value for name, value in entry.items() if name != "num_tokens"} for entry in steps]


def assert_same(found: ConstrainedSFTTrainer, expected: ConstrainedSFTTrainer) -> None:
    """The same weights, losses and numbers by position, to the last bit on one thread."""
    assert found.state.global_step == expected.state.global_step == STEPS
    assert len(course(found)) == STEPS
    assert course(found) == course(expected)
    weights = expected.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.model.state_dict().items())
    told, whole = (read_diagnostics(Path(one.args.output_dir) / FILE) for one in (found, expected))
    assert sorted({row["step"] for row in told}) == list(range(1, STEPS + 1))
    assert told == whole


@pytest.mark.parametrize("name", OPTIONS)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    killed: Path, tmp_path: Path, name: str
) -> None:
    folder = killed / name
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    # The fifth step was told of before the kill; it is made again, and must not be told of twice.
    assert {row["step"] for row in read_diagnostics(folder / FILE)} == {1, 2, 3, 4, 5}
    whole = training(tmp_path / "whole", name)
    whole.train()
    resumed = training(folder, name)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, whole)


class Interrupt(TrainerCallback):
    """Ctrl-C, once, in the middle of a step."""

    def on_substep_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from_and_what_is_kept_of_the_reference(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    whole = training(tmp_path / "whole", "full")
    whole.train(resume_from_checkpoint=True)  # there is none yet
    cut = training(tmp_path / "cut", "full")
    cut.add_callback(Interrupt())
    cut.train()
    assert cut.interruptible.stopped
    assert signal.getsignal(signal.SIGINT) is before
    assert last_checkpoint(tmp_path / "cut") == tmp_path / "cut" / "checkpoint-3"
    resumed = training(tmp_path / "cut", "full")
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, whole)
    assert len(list((tmp_path / "cut" / "reference").iterdir())) == 1


def test_a_training_does_not_go_on_with_a_reference_that_was_tampered_with(tmp_path: Path) -> None:
    trainer = training(tmp_path, "full")
    trainer.args.max_steps = 2
    trainer.train()
    (path,) = (tmp_path / "reference").iterdir()
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(RunError, match="damaged"):
        training(tmp_path, "full")
