"""Two processes against one: the reference, the losses, what is told by position, and the weights."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file

from train import constrained_parallel
from train.constrained_parallel import OPTIONS, STEPS, outcome, training
from train.toys import distance

CLOSE = 1e-5
"""By what share two processes may differ from one."""


@pytest.fixture(scope="module")
def together(run_once: Callable[[str, list[str]], Path]) -> Path:
    """What two processes on the processor, over gloo, wrote."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return run_once("constrained-together", [*launch, constrained_parallel.__file__])


def written(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((folder / f"{name}-{rank}.json").read_text()))


def given(row: dict[str, Any]) -> dict[str, float]:
    """What a row has of numbers; an objective without a reference at hand has no weights."""
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_learn_what_one_does(together: Path, tmp_path: Path, name: str) -> None:
    alone = training(tmp_path, name, processes=1)
    alone.train()
    expected, found = outcome(tmp_path, name, alone), written(together, name, 0)
    assert found["world"] == 2
    assert len(found["steps"]) == STEPS
    for one, other in zip(found["steps"], expected["steps"], strict=True):
        assert one == pytest.approx(other, rel=CLOSE)
    assert (found["reference"] is None) is (name in ("adapter", "kl"))
    for one, other in zip(found["reference"] or (), expected["reference"] or (), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len(found["diagnostics"]) > STEPS
    for one, other in zip(found["diagnostics"], expected["diagnostics"], strict=True):
        assert given(one) == pytest.approx(given(other), rel=1e-4, abs=1e-5)
    weights = {key: p.detach() for key, p in alone.model.named_parameters() if p.requires_grad}
    assert distance(load_file(together / f"{name}.safetensors"), weights) < CLOSE


def test_both_processes_know_the_same(together: Path) -> None:
    for name in OPTIONS:
        first, second = written(together, name, 0), written(together, name, 1)
        assert (first.pop("rank"), second.pop("rank")) == (0, 1)
        assert first == second


def test_the_reference_is_kept_once_and_the_model_saved_once(together: Path) -> None:
    assert len(list((together / "full" / "reference").iterdir())) == 1
    assert (together / "full" / "model" / "model.safetensors").exists()
    names = {path.name for path in (together / "adapter" / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
