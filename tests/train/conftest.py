"""One thread for every training, so that sums are the same to the last bit; runs in other processes."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Run = Callable[[str, list[str]], Path]


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Run:
    """Run a command, once for all of pytest's workers, with a folder's path added; returns the folder."""
    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent

    def run(name: str, command: list[str]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
                environment = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
                ran = subprocess.run(
                    [*command, str(folder)],
                    env={**os.environ, **environment},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert ran.returncode == 0, ran.stderr[-3000:]
                done.touch()
        return folder

    return run
