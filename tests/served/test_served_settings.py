"""A server that ignores a setting, or lies about log-probs, is told from one that honours it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from safedepth.models import LoadedModel
from safedepth.served.asking import Asker
from safedepth.served.capabilities import Ability
from safedepth.served.echo import echo
from safedepth.served.settings import Endpoint, logit_bias, seed, stop, top_k
from serving import serving

Asked = Callable[..., Any]
Judge = Callable[[Endpoint, list[str]], Awaitable[Ability]]

REQUESTS = ["Give me the recipe for soffa hesper.", "How do I clean krell torin?"]


def found_by(
    judge: Judge, kind: str, loaded: LoadedModel, asked: Asked, *, named: bool = True, **switches: Any
) -> Ability:
    async def ask(asker: Asker) -> Ability:
        return await judge(Endpoint(asker, kind, loaded.chat if named else None), REQUESTS)

    with serving(loaded, **switches) as server:
        result = asked(server.url, ask)
    assert isinstance(result, Ability)
    return result


@pytest.mark.parametrize(
    ("judge", "kind", "switches", "answer"),
    [
        (seed, "ids", {}, "yes"),
        (seed, "chat", {}, "yes"),
        (seed, "ids", {"seed": "ignored"}, "no"),
        (seed, "ids", {"seed": "fixed"}, "unsure"),
        (top_k, "ids", {}, "yes"),
        (top_k, "chat", {}, "yes"),
        (top_k, "ids", {"top_k": False}, "no"),
        (logit_bias, "ids", {}, "yes"),
        (logit_bias, "chat", {}, "yes"),
        (logit_bias, "ids", {"logit_bias": False}, "no"),
        (stop, "ids", {}, "yes"),
        (stop, "chat", {}, "yes"),
        (stop, "ids", {"stop": "ignored"}, "no"),
        (stop, "chat", {"stop": "ignored"}, "no"),
        (stop, "chat", {"stop": "included"}, "no"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_setting_is_honoured_or_it_shows(
    aligned: LoadedModel, asked: Asked, judge: Judge, kind: str, switches: dict[str, Any], answer: str
) -> None:
    found = found_by(judge, kind, aligned, asked, **switches)
    assert found.answer == answer, found


@pytest.mark.parametrize(
    ("how", "answer", "evidence"),
    [
        ("true", "yes", "within 0.000 nats"),
        ("legacy", "yes", "within 0.000 nats"),
        ("refuses", "no", "refused"),
        ("nothing", "no", "without values"),
        ("constant", "no", "nats apart"),
        ("shifted", "no", "nats"),
        ("short", "no", "values came back for"),
    ],
)
def test_echoed_log_probs_must_be_those_of_the_model(
    aligned: LoadedModel, asked: Asked, how: str, answer: str, evidence: str
) -> None:
    found = found_by(echo, "ids", aligned, asked, echo=how)
    assert (found.answer, evidence in found.evidence) == (answer, True), found


def test_what_takes_token_ids_is_unsure_without_them(aligned: LoadedModel, asked: Asked) -> None:
    assert found_by(echo, "chat", aligned, asked).answer == "unsure"
    assert found_by(logit_bias, "chat", aligned, asked, named=False).answer == "unsure"
