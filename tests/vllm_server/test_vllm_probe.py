"""What the probe says of real servers, against what is known of them."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server import KEY, Server, free_port, running
from safedepth.errors import ModelError
from safedepth.models import LoadedModel
from safedepth.served import Answer, Capabilities, require_same_model
from safedepth.served.connection import chat_model
from safedepth.served.probe import probe
from safedepth.testbed import Testbed


@pytest.fixture(scope="module")
def chats(vllm: Path, testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`transformers serve`, of the environment that the tests run in."""
    port, log = free_port(), tmp_path_factory.mktemp("logs") / "transformers.log"
    command = [
        str(Path(sys.executable).with_name("transformers")), "serve", str(testbed.organism("aligned")),
        "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    with running(command, port, str(testbed.organism("aligned")), log) as server:
        yield server


def probed(name: str, server: Server, organism: LoadedModel) -> Capabilities:
    async def ask() -> Capabilities:
        model = chat_model(name, server.url)
        try:
            return await probe(model, chat=organism.chat)
        finally:
            await model.api.aclose()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", KEY)
        return asyncio.run(ask())


@pytest.fixture(scope="module")
def found(server: Server, organism: LoadedModel) -> Capabilities:
    return probed("vllm/aligned", server, organism)


def test_vllm_does_all_that_an_audit_asks_for(found: Capabilities) -> None:
    answers = {name: ability.answer for name, ability in found.abilities.items()}
    assert answers == dict.fromkeys(answers, Answer.YES), found.abilities
    assert found.forcing == "tokens"
    assert found.context == 512
    assert found.served_as == ("aligned", "adapted")


def test_an_adapter_on_the_same_server_is_another_model(
    server: Server, organism: LoadedModel, found: Capabilities
) -> None:
    adapted = probed("vllm/aligned:adapted", server, organism)
    assert adapted.forcing == "tokens"
    assert adapted.context == 512
    with pytest.raises(ModelError, match="canary"):
        require_same_model(found, adapted)


def test_the_same_model_is_known_again(server: Server, organism: LoadedModel, found: Capabilities) -> None:
    require_same_model(found, probed("vllm/aligned", server, organism))


def test_transformers_serve_forces_nothing(chats: Server, organism: LoadedModel, found: Capabilities) -> None:
    """It opens a new turn after the message, and takes no token ids; yet it is the same model."""
    served = probed(f"openai-api/toy/{chats.name}", chats, organism)
    assert served.continues.answer is Answer.NO, served.continues
    assert served.token_ids.answer is not Answer.YES, served.token_ids
    assert served.forcing is None
    require_same_model(found, served)
