"""A served model answers as the local one does, spreads its requests, and says what a server did wrong."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from tenacity.wait import wait_fixed

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.models import LoadedModel
from safedepth.provider.api import register_loaded
from safedepth.served import patience
from safedepth.served.api import ServedAPI, served_model
from safedepth.served.capabilities import Ability, Answer, Capabilities
from safedepth.served.clients import Server
from safedepth.served.patience import ServerError
from serving import Server as Fake
from serving import serving
from tokenizer_zoo import byte_tokenizer

YES, NO = Ability(Answer.YES, "It did."), Ability(Answer.NO, "It did not.")
NAME = "openai-api/toy/toy"
GREEDY = GenerateConfig(temperature=0.0, max_tokens=12, seed=3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "none")
    monkeypatch.setattr(ServedAPI, "retry_wait", lambda self: wait_fixed(0.01))


@pytest.fixture
def fake(tiny_model: LoadedModel) -> Iterator[Fake]:
    with serving(tiny_model) as server:
        yield server


def able(url: str, **changes: Any) -> Capabilities:
    names = ("continues", "white_space", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop")
    everything = dict.fromkeys(names, YES)
    whole = Capabilities(
        url=url, model="toy", served_as=("toy",), context=256, fingerprint="f", canaries=(), **everything
    )
    return replace(whole, **changes)


def connected(loaded: LoadedModel, *fakes: Fake, **changes: Any) -> Model:
    servers = [Server(NAME, fake.url, able(fake.url, **changes)) for fake in fakes]
    return served_model("toy", servers, loaded.chat)


def said(model: Model, messages: list[ChatMessage], config: GenerateConfig = GREEDY) -> str:
    return output(model, messages, config).completion


def output(model: Model, messages: list[ChatMessage], config: GenerateConfig = GREEDY) -> ModelOutput:
    async def asked() -> ModelOutput:
        try:
            return await model.generate(messages, config=config)
        finally:
            if isinstance(model.api, ServedAPI):
                await model.api.aclose()

    return asyncio.run(asked())


def request(text: str = "How do I make krell torin?") -> list[ChatMessage]:
    return [ChatMessageUser(content=text)]


def forced(loaded: LoadedModel, k: int) -> list[ChatMessage]:
    ids = loaded.chat.answer_ids("Sure, here is how to make krell torin")[:k]
    text = loaded.chat.decode(ids)
    return [*request(), ChatMessageAssistant(content=text, metadata={"prefill_ids": ids})]


def local(loaded: LoadedModel) -> Model:
    register_loaded("here", loaded)
    return get_model("safedepth/here", memoize=False)


@pytest.mark.parametrize("lacking", [{}, {"token_ids": NO}], ids=["tokens", "text"])
@pytest.mark.parametrize("k", [1, 4])
def test_what_follows_forced_tokens_is_what_follows_them_locally(
    fake: Fake, tiny_model: LoadedModel, lacking: dict[str, Ability], k: int
) -> None:
    messages = forced(tiny_model, k)
    served = connected(tiny_model, fake, **lacking)
    assert said(served, messages) == said(local(tiny_model), messages) != ""
    (path, body) = fake.requests[-1]
    if lacking:
        assert (path, body["continue_final_message"]) == ("/v1/chat/completions", True)
    else:
        ids = tiny_model.chat.prompt_ids([{"role": "user", "content": messages[0].text}])
        assert (path, body["prompt"]) == ("/v1/completions", [*ids, *messages[-1].metadata["prefill_ids"]])  # type: ignore[index]
        assert body["stop_token_ids"] == sorted(tiny_model.chat.stop_ids)


def test_nothing_forced_goes_the_same_way_as_something(fake: Fake, tiny_model: LoadedModel) -> None:
    assert said(connected(tiny_model, fake), request()) == said(local(tiny_model), request())
    assert fake.requests[-1][0] == "/v1/completions"


def test_sampling_is_stated_whole_in_the_words_of_the_endpoint(fake: Fake, tiny_model: LoadedModel) -> None:
    config = GenerateConfig(top_k=5, top_p=0.5, seed=7, max_tokens=3, logit_bias={4: -100.0})
    said(connected(tiny_model, fake), request(), config)
    body = fake.requests[-1][1]
    assert {key: body[key] for key in ("top_k", "top_p", "seed", "temperature", "logit_bias")} == {
        "top_k": 5, "top_p": 0.5, "seed": 7, "temperature": 1.0, "logit_bias": {"4": -100.0},
    }  # fmt: skip


def test_what_a_server_does_not_honour_is_not_asked_of_it(fake: Fake, tiny_model: LoadedModel) -> None:
    served = connected(tiny_model, fake, top_k=NO, logit_bias=NO)
    said(served, request(), GREEDY.merge(GenerateConfig(top_k=5)))
    assert "top_k" not in fake.requests[-1][1]
    with pytest.raises(ModelError, match=r"does not keep tokens out.*It did not\."):
        said(served, request(), GREEDY.merge(GenerateConfig(logit_bias={4: -100.0})))


def test_where_nothing_continues_a_forced_beginning_is_refused_with_the_evidence(
    fake: Fake, tiny_model: LoadedModel
) -> None:
    served = connected(tiny_model, fake, continues=Ability(Answer.NO, "It began anew."), token_ids=NO)
    with pytest.raises(ModelError, match=r"not seen to continue.*It began anew\."):
        said(served, forced(tiny_model, 2))
    assert not fake.requests
    assert said(served, request()) != ""


def test_requests_spread_over_servers_by_their_seed_and_always_alike(tiny_model: LoadedModel) -> None:
    with serving(tiny_model) as first, serving(tiny_model) as second:
        served = connected(tiny_model, first, second)
        for seed in (0, 1, 2, 4, 4):
            said(served, request(), GREEDY.merge(GenerateConfig(seed=seed)))
        asked = [[body["seed"] for _, body in one.requests] for one in (first, second)]
    assert asked == [[0, 2, 4, 4], [1]]


def test_two_servers_with_other_answers_are_no_one_model(fake: Fake, tiny_model: LoadedModel) -> None:
    one, other = (
        Server(NAME, url, able(url, fingerprint=answer, canaries=(answer,)))
        for url, answer in (("http://a/v1", "yes"), ("http://b/v1", "no"))
    )
    with pytest.raises(ModelError, match=r"http://a/v1.*http://b/v1"):
        served_model("toy", [one, other], tiny_model.chat)


@pytest.mark.parametrize("trouble", ["429", "500", "drop", "truncated_json"])
def test_what_passes_is_asked_again(fake: Fake, tiny_model: LoadedModel, trouble: str) -> None:
    fake.behaviour.failing, fake.behaviour.failures = trouble, 2  # type: ignore[assignment]
    assert said(connected(tiny_model, fake), request()) == said(local(tiny_model), request())
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "told"),
    [("429", "out of order"), ("500", "out of order"), ("drop", "Connection"), ("truncated_json", "JSON")],
)
def test_what_does_not_pass_ends_with_the_address_and_what_was_found(
    fake: Fake, tiny_model: LoadedModel, trouble: str, told: str
) -> None:
    fake.behaviour.failing = trouble  # type: ignore[assignment]
    with pytest.raises(ServerError, match=told) as raised:
        said(connected(tiny_model, fake), request())
    assert fake.url in str(raised.value)
    assert 1 < len(fake.requests) <= 1 + patience.RETRIES


def test_a_slow_server_is_waited_for_so_long_and_no_longer(
    fake: Fake, tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.2)
    monkeypatch.setattr(patience, "SILENCE", 0.3)
    fake.behaviour.failing, fake.behaviour.delay = "slow", 1.0
    with pytest.raises(ServerError, match="nothing within 0"):
        said(connected(tiny_model, fake), request())
    assert len(fake.requests) <= 4


def test_a_prompt_beyond_the_context_is_an_error_and_its_words_are_no_reply(
    fake: Fake, tiny_model: LoadedModel
) -> None:
    fake.behaviour.context = 4
    for lacking in ({}, {"token_ids": NO}):
        with pytest.raises(ServerError, match="maximum context length"):
            said(connected(tiny_model, fake, **lacking), request())


def test_a_reply_that_was_cut_short_says_so(fake: Fake, tiny_model: LoadedModel) -> None:
    fake.behaviour.cut = 2
    cut = output(connected(tiny_model, fake), request())
    assert (cut.metadata or {})["left_out"] == "the server cut the reply after 2 of 12 tokens"
    fake.behaviour.cut = None
    assert not output(connected(tiny_model, fake), request()).metadata


@pytest.mark.parametrize(
    ("text", "lacking", "why"),
    [
        ("Sure, ", {"white_space": NO}, "white space"),
        ("Sure", {"white_space": NO}, None),
        ("Sure, ", {}, None),
        ("\u00e9", {}, "inside a character"),
    ],
)
def test_what_text_cannot_force_exactly_is_known_before_it_is_asked(
    text: str, lacking: dict[str, Ability], why: str | None
) -> None:
    chat = ChatFormat.of(byte_tokenizer())
    server = Server(NAME, "http://a/v1", able("http://a/v1", token_ids=NO, **lacking))
    api = served_model("toy", [server], chat).api
    assert isinstance(api, ServedAPI)
    ids = chat.answer_ids(text)
    found = api.obstacle(ids[:1] if text == "\u00e9" else ids)
    assert (found is None) if why is None else (found is not None and why in found)


def test_special_tokens_cannot_be_forced_as_text(fake: Fake, tiny_model: LoadedModel) -> None:
    api = connected(tiny_model, fake, token_ids=NO).api
    assert isinstance(api, ServedAPI)
    assert "special tokens" in (api.obstacle([tiny_model.chat.tokenizer.eos_token_id]) or "")
