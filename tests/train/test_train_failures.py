"""Disks and memory that run out, checkpoints half written: what was saved is kept, and the words help."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from safedepth.errors import RunError
from safedepth.train.failures import explained_failures, last_checkpoint, whole_checkpoint
from train.killed_runs import STEPS, training


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
    words = rf"No checkpoint had .*--per_device_train_batch_size {smaller} \(now {batch}\)\: .*max_length"
    with pytest.raises(RunError, match=words), explained_failures(tmp_path, batch=batch):
        raise error


def test_a_batch_of_one_cannot_be_made_smaller(tmp_path: Path) -> None:
    checkpoint(tmp_path, 6)
    words = r"goes on from checkpoint-6\. Begin anew in another --output_dir with --use_peft"
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


@pytest.mark.parametrize(
    ("batch", "accumulation", "expected"),
    [
        (8, None, "--per_device_train_batch_size 4 (now 8)"),
        (8, 2, "--per_device_train_batch_size 4 --gradient_accumulation_steps 4 (now 8 and 2)"),
        (5, 1, "--per_device_train_batch_size 1 --gradient_accumulation_steps 5 (now 5 and 1)"),
        (6, 3, "--per_device_train_batch_size 3 --gradient_accumulation_steps 6 (now 6 and 3)"),
        (1, 8, "Begin anew"),
    ],
)
def test_what_is_to_be_lowered_leaves_the_rows_of_a_step_as_they_are(
    tmp_path: Path, batch: int, accumulation: int | None, expected: str
) -> None:
    with (
        pytest.raises(RunError) as caught,
        explained_failures(tmp_path, batch=batch, accumulation=accumulation),
    ):
        raise MemoryError
    assert expected in str(caught.value)
