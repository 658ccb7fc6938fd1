"""Two processes against one: the same losses and weights; and what is said where a step cannot be shared."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file

from train import parallel_runs
from train.parallel_runs import OPTIONS, STEPS, outcome, training
from train.toys import distance

CLOSE = 2e-6
"""By what share two processes may differ from one (found: 2e-7; 0 where batches hold the same examples)."""


@pytest.fixture(scope="module")
def together(run_once: Callable[[str, list[str]], Path]) -> Path:
    """What two processes on the processor, over gloo, wrote."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return run_once("together", [*launch, parallel_runs.__file__])


def written(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((folder / f"{name}-{rank}.json").read_text()))


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_learn_what_one_does(together: Path, tmp_path: Path, name: str) -> None:
    alone = training(tmp_path, name)
    alone.train()
    expected, found = outcome(alone), written(together, name, 0)
    assert found["world"] == 2
    assert found["cut"][0] * found["cut"][1] * 2 == expected["cut"][0] * expected["cut"][1] == 10
    assert len(found["steps"]) == STEPS
    for one, other in zip(found["steps"], expected["steps"], strict=True):
        assert one == pytest.approx(other, rel=CLOSE)
    weights = {key: p.detach() for key, p in alone.model.named_parameters() if p.requires_grad}
    assert distance(load_file(together / f"{name}.safetensors"), weights) < CLOSE
    if name == "interrupted":
        for (first, curve), (first_alone, curve_alone) in zip(
            found["policy"]["estimates"], expected["policy"]["estimates"], strict=True
        ):
            assert first == first_alone
            assert curve == pytest.approx(curve_alone, rel=CLOSE)


def test_both_processes_know_the_same(together: Path) -> None:
    for name in OPTIONS:
        first, second = written(together, name, 0), written(together, name, 1)
        assert (first.pop("rank"), second.pop("rank")) == (0, 1)
        assert first == second


def test_an_adapter_alone_is_saved(together: Path) -> None:
    names = {path.name for path in (together / "adapter" / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert "model.safetensors" not in names
    assert (together / "uniform" / "model" / "model.safetensors").exists()
    trained = load_file(together / "adapter.safetensors")
    assert all("lora_" in name for name in trained)


def test_a_step_that_does_not_divide_among_the_processes_is_refused(together: Path) -> None:
    for rank in (0, 1):
        said = (together / f"refused-{rank}.txt").read_text()
        assert "a step of 9 examples to divide among 2 processes, found 1 left over" in said
