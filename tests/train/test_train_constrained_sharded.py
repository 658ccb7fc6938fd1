"""A model in shards (FSDP2) against a whole one: the same reference, losses, weights; or a refusal."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file

from train import constrained_sharded
from train.constrained_sharded import OPTIONS, STEPS, save_models, training
from train.toys import distance

CLOSE = 1e-5
"""By what share a model in shards may differ from a whole one."""


@pytest.fixture(scope="module")
def sharded(run_once: Callable[[str, list[str]], Path]) -> Path:
    """What two processes, each with half of the model, wrote."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return run_once("constrained-sharded", [*launch, constrained_sharded.__file__])


def course(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("step", "loss", "grad_norm", "entropy")
    return [{name: entry[name] for name in names} for entry in history if "grad_norm" in entry]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_in_shards_learns_what_a_whole_one_does(sharded: Path, tmp_path: Path, name: str) -> None:
    save_models(tmp_path)
    whole = training(tmp_path, "full" if name == "interrupted" else name, processes=1)
    whole.train()
    for rank in (0, 1):
        found = cast("dict[str, Any]", json.loads((sharded / f"{name}-{rank}.json").read_text()))
        assert len(course(found["log_history"])) == STEPS
        for one, other in zip(course(found["log_history"]), course(whole.state.log_history), strict=True):
            assert one == pytest.approx(other, rel=CLOSE)
    whole.save_model(str(tmp_path / "trained"))
    (file,) = (tmp_path / "trained").glob("*.safetensors")
    assert distance(load_file(sharded / name / "trained" / file.name), load_file(file)) < CLOSE
    kept = [
        list((folder / "reference").iterdir()) for folder in (sharded / name, Path(whole.args.output_dir))
    ]
    ours, theirs = (load_file(path)["values"].tolist() for (path,) in kept)
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_what_needs_the_whole_model_in_every_process_is_refused(sharded: Path) -> None:
    for rank in (0, 1):
        for name, objective in (("kl", "kl"), ("alive", "constrained")):
            said = (sharded / f"refused-{name}-{rank}.txt").read_text()
            assert (
                f"found FSDP or DeepSpeed: --objective {objective} asks the reference at every step" in said
            )
