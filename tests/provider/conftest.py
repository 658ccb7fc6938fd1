"""What the provider's tests share: random decoders whose next token is far from certain."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from provider_oracles import random_decoder
from safedepth.provider import Engine


@pytest.fixture(scope="session")
def decoder() -> PreTrainedModel:
    """A Llama of two layers over 97 tokens, with a context of 256."""
    return random_decoder("llama")


@pytest.fixture
def engine(decoder: PreTrainedModel) -> Iterator[Engine]:
    with Engine(decoder, slots=8) as made:
        yield made


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on two threads, and these tests share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
