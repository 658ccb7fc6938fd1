"""One whole `safedepth deepen` for all tests that look at what it leaves behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from safedepth.testbed import Testbed
from studies.deepen_calls import deepen_words, safedepth


@dataclass(frozen=True)
class Deepened:
    """A finished run and the command that made it. Do not change it: take a copy."""

    out: Path
    words: tuple[str, ...]

    def copied(self, place: Path) -> Deepened:
        """A copy with its command."""
        shutil.copytree(self.out, place)
        return Deepened(place, tuple(str(place) if word == str(self.out) else word for word in self.words))


@pytest.fixture(scope="session")
def deepened(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Deepened:
    """The aligned organism deepened, with control, base, turns and benign requests; once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "deepened"
    words = folder / "words.json"
    with FileLock(folder.with_suffix(".lock")):
        if not words.exists():
            shutil.rmtree(folder, ignore_errors=True)
            command = deepen_words(
                testbed, folder / "out", max_steps=36, learning_rate=1e-3, safety_per_step=4,
                anchors_per_step=16, per_device_train_batch_size=20, limit=12, max_tokens=120,
                depths="0,10,20", turn_depths="5", control=True, base=testbed.organism("base"),
                trajectories=testbed.file("dialogues.jsonl"), judge=["oracle", "rules"],
                benign=[testbed.file("benign.jsonl"), f"twins={testbed.file('lookalikes.jsonl')}"],
                benign_judge="knowledge",
            )  # fmt: skip
            assert safedepth(*command) == 0
            words.write_text(json.dumps(command))
    return Deepened(folder / "out", tuple(json.loads(words.read_text())))
