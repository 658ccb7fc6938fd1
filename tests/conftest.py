"""Fixtures that more than one part of the tests needs: a tokenizer and a model small enough to make here.

Heavy imports wait inside the fixtures, so that tests which need no model start at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from safedepth.models import LoadedModel
    from safedepth.testbed import Testbed


@pytest.fixture(scope="session", autouse=True)
def own_answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Inspect's cache of answers begins empty: what a grader said another day proves nothing today."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSPECT_CACHE_DIR", str(tmp_path_factory.mktemp("answers")))
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Word level, about fifty toy words, with a chat template."""
    from tokenizer_zoo import word_tokenizer

    return word_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random Llama of two layers with its tokenizer, as save_pretrained writes them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_dir: Path) -> LoadedModel:
    """The model of `tiny_model_dir`, loaded on the CPU in float32. Do not change it."""
    from safedepth.models import load_model

    return load_model(str(tiny_model_dir), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    """Base, aligned and deep organisms with the data files, trained once and then taken from the cache."""
    from filelock import FileLock

    from safedepth.testbed import build_testbed
    from safedepth.testbed.organisms import cache_folder

    cache_folder().mkdir(parents=True, exist_ok=True)
    # pytest's workers would train the same organisms twice.
    with FileLock(cache_folder() / ".tests.lock"):
        return build_testbed(tmp_path_factory.mktemp("testbed"), organisms=("base", "aligned", "deep"))
