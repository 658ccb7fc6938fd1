"""`safedepth finetune` in two processes."""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from safedepth.testbed import Testbed
from studies.deepen_calls import begun, few, summary_of
from studies.finetune_calls import HOLDING, again, finetune_words


def test_two_processes_train_together_as_one_does_and_one_of_them_reports(
    testbed: Testbed, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {
        "dataset_name": few(testbed, "harmful", tmp_path, 16), "beta": HOLDING, "max_steps": 4,
        "logging_steps": 2, "learning_rate": 1e-3, "prompts": few(testbed, "prompts", tmp_path, 2),
    }  # fmt: skip
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = finetune_words(testbed, out, **(usual | {"per_device_train_batch_size": 4}))
    # `accelerate launch` starts this for several GPUs; on the processor it starts one process alone.
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = begun(command, program=(*launch, "-m", "safedepth"))
    shown, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert shown.count("Report:") == 1
    found = summary_of(out)["protection"]
    assert dict(found["training"]["facts"])["processes"] == "2"
    assert (out / "README.md").is_file()
    assert [row["model"] for row in found["asr"]] == ["before", "after"]
    again(finetune_words(testbed, whole, **usual, per_device_train_batch_size=8))
    alone = summary_of(whole)["protection"]
    assert [(row["step"], row["position"], row["n"]) for row in found["diagnostics"]] == [
        (row["step"], row["position"], row["n"]) for row in alone["diagnostics"]
    ]
    one, other = (load_file(folder / "model.safetensors") for folder in (out, whole))
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-4)
