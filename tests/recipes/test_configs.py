"""The configurations for several GPUs, read by accelerate itself; nothing is launched."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import (  # type: ignore[import-untyped]
    ClusterConfig,
    load_config_from_file,
)
from accelerate.commands.launch import launch_command_parser  # type: ignore[import-untyped]
from accelerate.utils import DistributedType  # type: ignore[import-untyped]

from safedepth.train.options import Mix

CONFIGS = Path(__file__).parents[2] / "configs"

KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "nodes": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
}


def load(name: str) -> ClusterConfig:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    return config


def test_every_file_is_one_that_is_tested() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == KINDS.keys()


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_accelerate_reads_what_was_meant(name: str, kind: DistributedType) -> None:
    config = load(name)
    machines = 2 if name == "nodes" else 1
    assert (config.distributed_type, config.mixed_precision, config.num_machines) == (kind, "bf16", machines)
    assert bool(config.fsdp_config) == (kind == DistributedType.FSDP)
    assert bool(config.deepspeed_config) == (kind == DistributedType.DEEPSPEED)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_divides_among_the_processes(name: str) -> None:
    assert Mix().size % load(name).num_processes == 0


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_knows_every_key(name: str) -> None:
    config = load(name)
    known = vars(launch_command_parser().parse_args(["script.py"])).keys()
    # accelerate itself says nothing of a key that it does not know here.
    assert {*config.fsdp_config, *config.deepspeed_config} <= known


def test_stages_and_versions_are_those_of_the_names() -> None:
    assert load("fsdp2").fsdp_config["fsdp_version"] == 2
    assert [load(name).deepspeed_config["zero_stage"] for name in ("zero2", "zero3")] == [2, 3]


def test_a_checkpoint_can_be_loaded_by_any_program() -> None:
    assert load("fsdp2").fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    assert load("nodes").fsdp_config == load("fsdp2").fsdp_config
    assert load("zero3").deepspeed_config["zero3_save_16bit_model"] is True
