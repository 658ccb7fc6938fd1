"""What can go wrong in a long training, said so that a person knows how to go on.

Memory that runs out, a disk that fills while a checkpoint is written, a checkpoint that
a kill left half written: each leaves what was saved before intact.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from safedepth.errors import RunError

__all__ = ["explained_failures", "last_checkpoint", "whole_checkpoint"]

STATE = "trainer_state.json"
"""What the trainer writes last into a checkpoint."""

_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a training's folder that is whole; half-written ones are removed.

    None where there is no whole one.
    """
    numbered = []
    for path in folder.glob("checkpoint-*"):
        number = path.name.partition("-")[2]
        if path.is_dir() and number.isdigit():
            if _is_whole(path):
                numbered.append((int(number), path))
            else:
                shutil.rmtree(path, ignore_errors=True)  # another process may be at it too
    return max(numbered)[1] if numbered else None


def _is_whole(path: Path) -> bool:
    try:
        return "global_step" in json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


@contextmanager
def whole_checkpoint(folder: Path) -> Iterator[None]:
    """Leave a whole checkpoint in `folder`, or none. Raises RunError where the disk is full."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if _disk_is_full(error, folder):
            kept = last_checkpoint(folder.parent)
            raise RunError(
                f"Could not write {folder}: the disk is full. {_saved(kept)} Free some space, or keep fewer "
                "checkpoints (--save_total_limit 1), then run the same command again."
            ) from error
        raise


@contextmanager
def explained_failures(folder: Path, *, batch: int, accumulation: int | None = None) -> Iterator[None]:
    """Turn memory and disk that ran out into a RunError that says what to lower and how to go on.

    `batch` rows are held at once; `accumulation` is what goes with them, None where it follows from them.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, OSError, SafetensorError) as error:
        kept = last_checkpoint(folder)
        if _out_of_memory(error):
            smaller = (
                f"Run it again with {_smaller(batch, accumulation)}: how a step is "
                "cut into batches does not change what is learnt. Or begin"
                if batch > 1
                else "Begin"
            )
            said = (str(error) or type(error).__name__).splitlines()[0][:160]
            raise RunError(
                f"Memory ran out while training ({said}). {_saved(kept)} {smaller} anew in another "
                "--output_dir with --use_peft, --dtype bfloat16 or a smaller --max_length, which take less."
            ) from error
        if _disk_is_full(error, folder):
            raise RunError(
                f"Could not write to {folder}: the disk is full. {_saved(kept)} Free some space, then run "
                "the same command again."
            ) from error
        raise


def _smaller(batch: int, accumulation: int | None) -> str:
    """The options for half the batch or less, a step having as many rows as before."""
    if accumulation is None:
        return f"--per_device_train_batch_size {batch // 2} (now {batch})"
    share = batch * accumulation
    half = max(size for size in range(1, batch // 2 + 1) if share % size == 0)
    return (
        f"--per_device_train_batch_size {half} --gradient_accumulation_steps {share // half} (now {batch} "
        f"and {accumulation})"
    )


def _saved(kept: Path | None) -> str:
    if kept is None:
        return "No checkpoint had been written yet."
    return f"What was saved is kept: the same command goes on from {kept.name}."


def _out_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)
    )


def _disk_is_full(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if any(words in str(error) for words in _FULL):
        return True
    # torch.save says only that it could not write on; what is left of the disk says why.
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return isinstance(error, RuntimeError | OSError) and shutil.disk_usage(place).free < 2**20
