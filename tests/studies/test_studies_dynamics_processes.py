"""`safedepth dynamics` in two processes against one: training, curves, replies; and one goes on for two."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from safedepth.errors import DataError
from safedepth.studies import dynamics as study
from safedepth.studies.processes import Processes
from safedepth.testbed import Testbed
from studies.deepen_calls import begun, safedepth
from studies.test_studies_dynamics import summary_of, words
from train.toys import distance

CLOSE = 1e-5
"""By what share of the largest a value may differ once two have trained together (found: 1.4e-6)."""

LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_two_processes_train_measure_and_ask_as_one_does(testbed: Testbed, tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    usual = {"limit": 10, "steps": "0,2", "first": 5}  # two pieces a step
    launcher = begun(words(testbed, together, **usual), program=(*LAUNCH, "-m", "safedepth"))
    assert safedepth(*words(testbed, alone, **usual)) == 0
    shown, told = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, told
    assert shown.count("Report:") == 1

    def table(out: Path, name: str) -> pd.DataFrame:
        return pd.read_parquet(out / "measurements" / f"{name}.parquet")

    for name in ("dynamics-0", "replies"):
        pd.testing.assert_frame_equal(table(together, name), table(alone, name), check_exact=True)
    ours, theirs = table(together, "dynamics-2"), table(alone, "dynamics-2")
    for measure, own in ours.groupby("measure"):
        expected = theirs.loc[own.index, "value"]
        difference = (own["value"] - expected).abs().max()
        assert difference <= CLOSE * expected.abs().max(), measure
    weights = [
        load_file(out / "checkpoints" / "checkpoint-2" / "model.safetensors") for out in (together, alone)
    ]
    assert distance(*weights) < CLOSE
    assert (summary_of(together)["processes"], summary_of(alone)["processes"]) == (2, 1)
    assert not (together / "chunks").exists()

    left = (together / "measurements" / "dynamics-2.parquet").read_bytes()
    (together / "measurements" / "dynamics-2.parquet").unlink()
    assert safedepth(*words(testbed, together, **usual)) == 0
    assert (together / "measurements" / "dynamics-2.parquet").read_bytes() == left
    assert summary_of(together)["processes"] == 1


def test_a_batch_that_two_cannot_share_is_refused_before_anything_is_done(
    testbed: Testbed, tmp_path: Path
) -> None:
    config = study.DynamicsConfig(
        model=str(testbed.organism("aligned")), data=str(testbed.file("harmful.jsonl")), batch=5, device="cpu"
    )
    with pytest.raises(DataError, match="among 2 processes"):
        study._checked(config, Processes(0, 2), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "done").touch()  # nothing is left to be trained
    assert study._checked(config, Processes(0, 2), tmp_path)
