"""The servers that these tests ask: an organism, with an adapter over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server import QUICK, Server, vllm_server
from safedepth.models import LoadedModel
from safedepth.nouns import Prompt
from safedepth.testbed import Testbed

RANK = 8


@pytest.fixture(scope="session", autouse=True)
def vllm() -> Path:
    """The executable that `make test-vllm` names. Skips all tests elsewhere, before anything is trained."""
    named = os.environ.get("SAFEDEPTH_VLLM")
    if not named:
        pytest.skip(
            "asks a real vLLM, an environment of its own (2.4 GB) that starts in a minute: make test-vllm"
        )
    return Path(named)


@pytest.fixture(scope="session")
def organism(testbed: Testbed) -> LoadedModel:
    """The aligned organism, loaded here. Do not change it."""
    from safedepth.models import load_model

    return load_model(str(testbed.organism("aligned")), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def prompts(testbed: Testbed) -> list[Prompt]:
    from safedepth.data import read_prompts

    return read_prompts(testbed.prompts, limit=8)


@pytest.fixture(scope="session")
def adapter(organism: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random weights for the aligned organism: another model, which is all that counts here."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(organism.card.name)
    places = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    torch.manual_seed(0)
    random = get_peft_model(model, LoraConfig(r=RANK, target_modules=places, init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapter") / "random"
    random.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def server(
    vllm: Path, testbed: Testbed, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The aligned organism as `aligned`, and with the adapter as `adapted`."""
    log = tmp_path_factory.mktemp("logs") / "vllm.log"
    lora = ("--enable-lora", "--max-lora-rank", str(RANK), "--lora-modules", f"adapted={adapter}")
    with vllm_server(vllm, testbed.organism("aligned"), "aligned", log, *QUICK, *lora) as running:
        yield running
