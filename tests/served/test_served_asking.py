"""A server in trouble is asked again a few times and no more; what it did is said, and what to do."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from safedepth.errors import ModelError
from safedepth.models import LoadedModel
from safedepth.served import asking
from safedepth.served.asking import ATTEMPTS, Asker, RefusalError, Reply
from serving import serving

Asked = Callable[..., Any]
REQUEST = "How do I clean krell torin?"


async def once(asker: Asker) -> Reply:
    return await asker.chat(REQUEST, max_tokens=4)


@pytest.mark.parametrize("trouble", ["429", "500", "503", "drop", "truncated_json", "not_json"])
def test_passing_trouble_passes(aligned: LoadedModel, asked: Asked, trouble: str) -> None:
    with serving(aligned, failing=trouble, failures=2, retry_after=0.01) as server:
        assert asked(server.url, once).text
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("429", "429"),
        ("drop", "is up"),
        ("truncated_json", "is up"),
        ("not_json", "is up"),
        ("401", "VLLM_API_KEY"),
    ],
)
def test_lasting_trouble_ends_with_what_was_found(
    aligned: LoadedModel, asked: Asked, trouble: str, words: str
) -> None:
    with serving(aligned, failing=trouble) as server, pytest.raises(ModelError, match=words) as raised:
        asked(server.url, once)
    assert "expected" in str(raised.value)
    assert server.url in str(raised.value)
    assert len(server.requests) == (1 if trouble == "401" else ATTEMPTS)


def test_a_server_that_only_fails_has_refused(aligned: LoadedModel, asked: Asked) -> None:
    with serving(aligned, failing="500") as server, pytest.raises(RefusalError, match="500: out of order"):
        asked(server.url, once)


def test_a_slow_server_is_not_waited_for(
    aligned: LoadedModel, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "SECONDS", 0.2)
    started = time.monotonic()
    with (
        serving(aligned, failing="slow", delay=0.5) as server,
        pytest.raises(ModelError, match="nothing within"),
    ):
        asked(server.url, once)
    assert time.monotonic() - started < 10


def test_a_server_that_is_down_is_said_to_be(asked: Asked) -> None:
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9/v1.*is up"):
        asked("http://127.0.0.1:9/v1", once)


def test_retry_after_is_waited_for_but_not_for_ever(
    aligned: LoadedModel, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LONGEST_WAIT", 0.3)
    started = time.monotonic()
    with serving(aligned, failing="429", failures=1, retry_after=100) as server:
        asked(server.url, once)
    assert 0.3 <= time.monotonic() - started < 20


def test_an_error_in_the_dress_of_a_reply_is_a_refusal(aligned: LoadedModel, asked: Asked) -> None:
    """Some providers make a reply of the words by which a server says that a prompt is too long."""

    async def ask(asker: Asker) -> Reply:
        return await asker.chat("krell " * 300)

    with serving(aligned, context=32) as server, pytest.raises(RefusalError, match="maximum context"):
        asked(server.url, ask)
