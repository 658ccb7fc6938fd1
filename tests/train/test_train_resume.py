"""What survives kills and Ctrl-C, and that resuming loses nothing: to the last bit, on one thread."""

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from safedepth.train.failures import last_checkpoint
from safedepth.train.recovery import AdaptiveRecovery
from safedepth.train.trainer import RecoveryTrainer
from train import killed_runs
from train.killed_runs import STEPS, training
from train.toys import distance, random_llama, toy_chat, toy_config, toy_draws


@pytest.fixture(scope="module")
def killed(run_once: Callable[[str, list[str]], Path]) -> Path:
    """The folders that killed trainings left behind."""
    return run_once("killed", [sys.executable, killed_runs.__file__])


def course(trainer: RecoveryTrainer) -> list[dict[str, Any]]:
    """What was logged of each step; the summary at the end, with its times, left out."""
    return [entry for entry in trainer.state.log_history if "grad_norm" in entry]


def weights(trainer: RecoveryTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(found: RecoveryTrainer, expected: RecoveryTrainer) -> None:
    """The same weights and losses to the last bit, on the processor with one thread."""
    assert found.state.global_step == expected.state.global_step == STEPS
    assert course(found) == course(expected)
    assert len(course(found)) == STEPS
    assert all(torch.equal(tensor, weights(expected)[name]) for name, tensor in weights(found).items())
    if isinstance(expected.draws.recovery, AdaptiveRecovery):
        assert found.draws.recovery == expected.draws.recovery


@pytest.mark.parametrize(
    ("name", "at"), [("uniform", 4), ("adaptive", 4), ("half written", 2), ("not yet rotated", 4)]
)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    killed: Path, tmp_path: Path, name: str, at: int
) -> None:
    folder = killed / name
    if name == "half written":
        assert (folder / "checkpoint-4" / "model.safetensors").exists()
    kept = last_checkpoint(folder)
    assert kept == folder / f"checkpoint-{at}"
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", f"checkpoint-{at}"}
    whole = training(tmp_path / "whole", name)
    whole.train()
    resumed = training(folder, name)
    resumed.train(resume_from_checkpoint=str(kept))
    assert_same(resumed, whole)


class At(TrainerCallback):
    """Does something once, in the middle of a step."""

    def __init__(self, step: int, deed: Callable[[], object]) -> None:
        self.step, self.deed = step, deed

    def on_substep_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        if state.global_step == self.step:
            self.deed()


def test_resuming_from_true_takes_the_last_whole_checkpoint_and_the_policys_state(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole", "adaptive")
    whole.train()
    first = training(tmp_path / "cut", "adaptive")
    first.train(resume_from_checkpoint=True)  # there is none yet
    assert_same(first, whole)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-8")
    (tmp_path / "cut" / "checkpoint-7").mkdir()  # begun, never finished
    second = training(tmp_path / "cut", "adaptive")
    second.train(resume_from_checkpoint=True)
    assert_same(second, whole)


def test_ctrl_c_ends_the_step_and_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    whole = training(tmp_path / "whole", "adaptive")
    whole.train()
    cut = training(tmp_path / "cut", "adaptive")
    cut.add_callback(At(4, lambda: signal.raise_signal(signal.SIGINT)))
    cut.train()
    assert cut.interruptible.stopped
    assert not whole.interruptible.stopped
    assert cut.state.global_step == 5  # the step in which it came is done
    assert signal.getsignal(signal.SIGINT) is before
    assert last_checkpoint(tmp_path / "cut") == tmp_path / "cut" / "checkpoint-5"
    resumed = training(tmp_path / "cut", "adaptive")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-5"))
    assert_same(resumed, whole)


def test_ctrl_c_twice_ends_at_once_and_gives_ctrl_c_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    trainer = training(tmp_path, "uniform")

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainer.add_callback(At(4, twice))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 4
    assert signal.getsignal(signal.SIGINT) is before
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_a_training_that_fails_gives_ctrl_c_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    trainer = training(tmp_path, "uniform")

    def fail() -> None:
        assert signal.getsignal(signal.SIGINT) is not before
        raise ZeroDivisionError

    trainer.add_callback(At(1, fail))
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_training_may_go_on_with_another_batch_size(tmp_path: Path) -> None:
    # What is advised when memory runs out: it must not change what is learnt.
    def run(folder: Path, batch: int, *, until: int = STEPS) -> RecoveryTrainer:
        config = toy_config(
            folder, max_steps=STEPS, save_strategy="steps", save_steps=3, learning_rate=1e-3,
            per_device_train_batch_size=batch,
        )  # fmt: skip
        chat = toy_chat()
        trainer = RecoveryTrainer(random_llama(chat), config, draws=toy_draws(config, chat=chat))
        trainer.add_callback(At(until, lambda: signal.raise_signal(signal.SIGINT)))
        trainer.train(resume_from_checkpoint=True)
        return trainer

    whole = run(tmp_path / "whole", 5)
    run(tmp_path / "cut", 5, until=2)
    resumed = run(tmp_path / "cut", 2)
    assert resumed.args.per_device_train_batch_size == 2
    for found, expected in zip(course(resumed), course(whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert distance(weights(resumed), weights(whole)) < 1e-5
