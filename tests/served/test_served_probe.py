"""The whole probe: what it finds of a right server, and that two models are never taken for one."""

import asyncio
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, Model, get_model

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.models import LoadedModel
from safedepth.served import probe as probing
from safedepth.served.capabilities import Capabilities, require_same_model
from safedepth.served.connection import chat_model, completions_model, continuing, takes_body
from safedepth.served.probe import fingerprint, probe
from serving import serving


def probed(model: Model, chat: ChatFormat | None) -> Capabilities:
    async def closing() -> Capabilities:
        try:
            return await probe(model, chat=chat)
        finally:
            await model.api.aclose()

    return asyncio.run(closing())


def marked(url: str, name: str = "vllm/toy") -> str:
    async def closing() -> str:
        model = chat_model(name, url)
        try:
            return await fingerprint(model)
        finally:
            await model.api.aclose()

    return asyncio.run(closing())


def test_a_server_that_does_everything_right_can_do_everything(aligned: LoadedModel) -> None:
    with serving(aligned) as server:
        found = probed(chat_model("vllm/toy", server.url), aligned.chat)
        assert found.fingerprint == marked(server.url) != ""
    assert {name: ability.answer.value for name, ability in found.abilities.items()} == dict.fromkeys(
        ("continues", "white_space", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop"), "yes"
    )
    assert (found.forcing, found.context, found.served_as) == ("tokens", 256, ("toy",))
    assert (found.url, found.model) == (server.url, "toy")
    entry = found.entry
    assert entry["abilities"][0]["name"] == "continues"
    assert entry["forcing"] == "tokens"
    assert len(server.requests) < 70


def test_a_base_model_without_chats_is_asked_through_completions(
    aligned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(monkeypatch, "token_ids")
    with serving(aligned, chat=False, context=None) as server:
        found = probed(chat_model("openai-api/any/toy", server.url), aligned.chat)
    assert found.continues.answer == "no"
    assert "no chat template" in found.continues.evidence
    assert (found.forcing, found.context) == ("tokens", None)


def test_a_server_without_either_way_of_forcing_forces_nothing(
    aligned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(monkeypatch, "token_ids", "continues")
    with serving(aligned, continues="drops", completions=False) as server:
        found = probed(chat_model("sglang/toy", server.url), aligned.chat)
    assert found.forcing is None
    assert not found.white_space


def test_two_models_under_one_name_are_named_with_what_they_answered(
    aligned: LoadedModel, deep: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And both are asked: Inspect's own vllm provider asks the first for what is meant for the second."""
    _only(monkeypatch)
    with serving(aligned) as one, serving(deep) as other:
        first = probed(chat_model("vllm/toy", one.url), None)
        second = probed(chat_model("vllm/toy", other.url), None)
    assert len(one.requests) == len(other.requests) > 0
    require_same_model(first, first)
    with pytest.raises(ModelError, match="found two: canary 1") as raised:
        require_same_model(first, second)
    assert one.url in str(raised.value)
    assert other.url in str(raised.value)


def test_a_model_that_changes_between_two_probes_changes_its_mark(
    aligned: LoadedModel, deep: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(monkeypatch)
    with serving(aligned, other=deep, other_after=14) as server:
        before = probed(chat_model("vllm/toy", server.url), None)
        assert marked(server.url) != before.fingerprint
        server.behaviour.other_after = 5 + sum(path != "/v1/models" for path, _ in server.requests)
        assert probed(chat_model("vllm/toy", server.url), None).fingerprint == ""


def _only(monkeypatch: pytest.MonkeyPatch, *abilities: str) -> None:
    """Ask for these abilities alone: each is tested elsewhere."""
    from safedepth.served.capabilities import Ability, Answer

    async def unsure(*_: Any) -> Ability:
        return Ability(Answer.UNSURE, "Not asked.")

    for name in {"continues", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop"} - set(abilities):
        monkeypatch.setattr(probing, name, unsure)


def test_a_name_that_is_not_served_is_answered_with_those_that_are(aligned: LoadedModel) -> None:
    with serving(aligned) as server, pytest.raises(ModelError, match="It lists toy; name a model"):
        probed(chat_model("vllm/other", server.url), None)


def test_a_probe_does_not_take_for_ever(aligned: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "SECONDS", 0.3)
    with (
        serving(aligned, failing="slow", delay=1.0) as server,
        pytest.raises(ModelError, match=r"within 0 seconds.*1 requests"),
    ):
        probed(chat_model("vllm/toy", server.url), None)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("vllm/org/model", "org/model"),
        ("vllm//a/path", "/a/path"),
        ("vllm/base:adapter", "adapter"),
        ("sglang/org/model", "org/model"),
        ("openai-api/vllm/org/model", "org/model"),
        ("vllm-completions/org/model", "org/model"),
    ],
)
def test_requests_carry_the_name_that_the_server_knows(name: str, served: str) -> None:
    for make in (chat_model, completions_model):
        model = make(name, "http://127.0.0.1:9/v1")
        assert model.api.service_model_name() == served
        assert model.api.base_url == "http://127.0.0.1:9/v1"


def test_the_address_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BASE_URL", "http://127.0.0.1:8/v1")
    assert chat_model("vllm/toy", None).api.base_url == "http://127.0.0.1:8/v1"
    assert chat_model("vllm/toy", "http://127.0.0.1:9/v1").api.base_url == "http://127.0.0.1:9/v1"


def test_a_provider_without_completions_or_address_is_named() -> None:
    with pytest.raises(ModelError, match="expected a provider with completions"):
        completions_model("mockllm/model", None)
    with pytest.raises(ModelError, match=r"SERVICE_BASE_URL|SERVICE_API_KEY"):
        chat_model("openai-api/service/model", None)


def test_only_providers_that_pass_on_a_body_are_asked_to_continue() -> None:
    config = GenerateConfig(extra_body={"top_k": 3})
    told = continuing(chat_model("vllm/toy", "http://127.0.0.1:9/v1").api, config)
    assert told.extra_body == {"top_k": 3, "add_generation_prompt": False, "continue_final_message": True}
    mock = get_model("mockllm/model", memoize=False).api
    assert not takes_body(mock)
    assert continuing(mock, config) is config
