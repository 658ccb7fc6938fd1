"""Training that the testbed's own loop must not do: organisms deepened, and fine-tuned to be broken.

Real trainers on tiny models. It runs in a second process beside the measurements, on a
core of its own, and stops when the process that began it is gone.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from safedepth.errors import RunError, SafedepthError
from safedepth.nouns import Progress
from safedepth.studies.organism_finetuning import FINETUNED

__all__ = [
    "DEEPENED",
    "Beside",
    "are_trained",
    "organism_config",
    "train_organisms",
    "wait_for_all",
]

DEEPENED = ("deepened", "control")
"""The roles that training makes of the aligned organism."""

POLL = 0.5
"""Seconds between looks at whether what is waited for is there."""

STEPS, LEARNING_RATE = 100, 1e-3
"""Updates of recovery training, and their rate: models this small need a larger one than the paper's 2e-5."""


def organism_config(out: Path, *, seed: int, **changed: Any) -> Any:
    """A `RecoveryConfig` for organisms: 4 + 16 examples a step, no half precision, no checkpoints."""
    from safedepth.train.config import RecoveryConfig

    usual: dict[str, Any] = {
        "max_steps": STEPS, "learning_rate": LEARNING_RATE, "safety_per_step": 4, "anchors_per_step": 16,
        "per_device_train_batch_size": 20, "gradient_checkpointing": False, "bf16": False, "use_cpu": True,
        "save_strategy": "no", "disable_tqdm": True, "max_length": 512,
    }  # fmt: skip
    return RecoveryConfig(output_dir=str(out), seed=seed, **(usual | changed))


def train_organisms(folder: Path, seed: int, *, progress: Progress | None = None) -> None:
    """Make every role of `DEEPENED` and every checkpoint of `FINETUNED` in a testbed's folder.

    What is there already is kept.
    """
    import torch

    from safedepth.data import read_anchors, read_triplets
    from safedepth.studies.finetuning import fine_tune
    from safedepth.studies.recovering import CONTROL_POLICY, train_recovery

    torch.set_num_threads(1)
    triplets, anchors = read_triplets(folder / "triplets.jsonl"), read_anchors(folder / "anchors.jsonl")
    for role in DEEPENED:
        config = organism_config(folder / role, seed=seed)
        rule = CONTROL_POLICY if role == "control" else {}
        train_recovery(
            str(folder / "aligned"), config, triplets, anchors, name=role, progress=progress, **rule
        )
    for done, todo in enumerate(FINETUNED, start=1):
        fine_tune(
            folder / todo.role,
            read_anchors(folder / todo.file),
            folder / "finetuned" / todo.name,
            steps=todo.steps,
            learning_rate=todo.learning_rate,
            seed=seed,
        )
        if progress is not None:
            progress("fine-tuning organisms", done, len(FINETUNED))


def are_trained(folder: Path) -> bool:
    """Whether `train_organisms` has nothing left to do in this folder."""
    from safedepth.studies.organism_finetuning import DONE
    from safedepth.studies.places import RECORD

    return all((folder / role / RECORD).is_file() for role in DEEPENED) and all(
        (folder / "finetuned" / todo.name / DONE).is_file() for todo in FINETUNED
    )


class Beside:
    """Functions of (progress) run one after another in a second process; `wait` for it, or `close`."""

    def __init__(self, work: Sequence[Callable[..., None]], arguments: Sequence[tuple[Any, ...]]) -> None:
        self._process: Any = None
        if not work:
            return
        context = multiprocessing.get_context("spawn")
        self.told, ours = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(list(work), list(arguments), ours), daemon=True)
        self._process.start()
        ours.close()

    def wait(self, progress: Progress | None = None, *, until: Callable[[], bool] = lambda: False) -> None:
        """Tell how far it is until it is done, or `until` says so. Raises RunError with what went wrong."""
        if self._process is None:
            return
        wait_for_all([self], progress, until=until)

    def end(self) -> None:
        """Called once it has told everything. Raises RunError unless it ended well."""
        self._process.join()
        if self._process.exitcode:
            raise RunError(
                f"The process that trains beside this one ended with status {self._process.exitcode}. The "
                "same command goes on from what is finished."
            )

    def close(self) -> None:
        """End the process; what it finished stays."""
        if self._process is None:
            return
        self._process.kill()
        self._process.join()
        self.told.close()


def wait_for_all(
    sides: Sequence[Beside],
    progress: Progress | None = None,
    *,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Wait for several at once, as `Beside.wait`; one after another, the later ones' pipes would fill up."""
    telling = {side.told: side for side in sides if not side.told.closed}
    while telling and not until():
        for pipe in wait(list(telling), POLL):
            assert isinstance(pipe, Connection)
            try:
                what, done, total = pipe.recv()
            except EOFError:
                telling.pop(pipe).end()
                continue
            if what == "failed":
                raise RunError(str(done))
            if progress is not None:
                progress(what, done, total)


def _work(work: list[Callable[..., None]], arguments: list[tuple[Any, ...]], pipe: Connection) -> None:
    """In the second process: Ctrl-C is the first one's affair, and telling a dead one ends this one."""
    import logging
    import signal
    import warnings

    from transformers.utils import logging as transformers_logging

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        for function, given in zip(work, arguments, strict=True):
            function(*given, progress=lambda *told: pipe.send(told))
    except BrokenPipeError:
        return
    except SafedepthError as error:
        pipe.send(("failed", str(error), 0))
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}", 0))
        raise
    finally:
        pipe.close()
