"""What survives: kills, Ctrl-C, full disks and memory that runs out, and that resuming loses nothing."""

import errno
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from safedepth.errors import RunError
from safedepth.train.failures import explained_failures, last_checkpoint, whole_checkpoint
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


def checkpoint(folder: Path, step: int, state: str = '{"global_step": 1}') -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    (made / "model.safetensors").write_text("weights")
    if state:
        (made / "trainer_state.json").write_text(state)
    return made


def test_the_last_checkpoint_is_the_whole_one_of_the_highest_number(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "absent") is None
    whole = [checkpoint(tmp_path, step) for step in (5, 20, 100)]
    halves = [checkpoint(tmp_path, step, state) for step, state in ((120, ""), (140, '{"global'), (7, "[]"))]
    for name in ("checkpoint-best", "other-300"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-500").write_text("a file")
    assert last_checkpoint(tmp_path) == whole[-1]
    assert not any(path.exists() for path in halves)
    assert len([*tmp_path.iterdir()]) == 6  # nothing else is touched


TORN = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("save_model", OSError(errno.ENOSPC, "No space left on device")),
        ("save_model", TORN),
        ("_save_optimizer_and_scheduler", OSError(errno.EDQUOT, "Disk quota exceeded")),
        ("_save_rng_state", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_disk_that_fills_while_a_checkpoint_is_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, part: str
) -> None:
    trainer = training(tmp_path, "uniform")
    write = getattr(trainer, part)

    def fail(output_dir: str, **options: Any) -> None:
        if trainer.state.global_step == 4:
            Path(output_dir).mkdir(exist_ok=True)
            (Path(output_dir) / "half").write_text("half of it")
            raise error
        write(output_dir, **options)

    monkeypatch.setattr(trainer, part, fail)
    with (
        pytest.raises(
            RunError, match=r"checkpoint-4: the disk is full\. .* goes on from checkpoint-2\. Free"
        ),
        explained_failures(tmp_path, batch=5),
    ):
        trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2"}
    resumed = training(tmp_path, "uniform")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == STEPS


def test_torch_which_does_not_say_why_it_cannot_write_is_believed_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 2112 vs 2006")
    free = shutil.disk_usage(tmp_path)
    with pytest.raises(RuntimeError, match="unexpected pos"), whole_checkpoint(tmp_path / "checkpoint-1"):
        raise error
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: free._replace(free=0))
    words = r"the disk is full\. No checkpoint had been written yet"
    with pytest.raises(RunError, match=words), whole_checkpoint(tmp_path / "checkpoint-1"):
        raise error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), PermissionError(errno.EACCES, "denied"), ValueError("x")]
)
def test_a_checkpoint_that_fails_for_another_reason_is_removed_and_the_reason_kept(
    tmp_path: Path, error: BaseException
) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(type(error)), whole_checkpoint(tmp_path / "checkpoint-4"):
        raise error
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_fills_elsewhere_is_explained_too(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    words = rf"to {tmp_path}: the disk is full\. .* from checkpoint-2\. Free"
    with pytest.raises(RunError, match=words), explained_failures(tmp_path, batch=4):
        raise OSError(errno.ENOSPC, "No space left on device")


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("HIP out of memory"),
]


@pytest.mark.parametrize("error", MEMORY, ids=repr)
@pytest.mark.parametrize(("batch", "smaller"), [(8, 4), (5, 2), (2, 1)])
def test_memory_that_runs_out_is_explained_with_a_smaller_batch(
    tmp_path: Path, error: Exception, batch: int, smaller: int
) -> None:
    words = rf"No checkpoint had .*--per_device_train_batch_size {smaller} \(now {batch}\), .*max_length"
    with pytest.raises(RunError, match=words), explained_failures(tmp_path, batch=batch):
        raise error


def test_a_batch_of_one_cannot_be_made_smaller(tmp_path: Path) -> None:
    checkpoint(tmp_path, 6)
    words = r"goes on from checkpoint-6\. Lower the use of it: "
    with pytest.raises(RunError, match=words) as caught, explained_failures(tmp_path, batch=1):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert "batch_size" not in str(caught.value)


def test_memory_that_runs_out_in_a_step_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = training(tmp_path, "uniform")
    compute = trainer.compute_loss

    def fail(*arguments: Any, **options: Any) -> Any:
        if trainer.state.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return compute(*arguments, **options)

    monkeypatch.setattr(trainer, "compute_loss", fail)
    batch = trainer.args.per_device_train_batch_size
    words = rf"from checkpoint-2\. .*batch_size 2 \(now {batch}\)"
    with pytest.raises(RunError, match=words), explained_failures(tmp_path, batch=batch):
        trainer.train()


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), OSError(errno.EACCES, "denied"), KeyError(1)]
)
def test_a_bug_is_not_explained_away(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained_failures(tmp_path, batch=4):
        raise error
    assert caught.value is error
