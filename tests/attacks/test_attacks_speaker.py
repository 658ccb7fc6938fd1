"""A served model given to Inspect is probed once, and forced as the probe found it can be."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai.model import GenerateConfig, Model, get_model
from inspect_ai.solver import Solver

from replying import HARMFUL, log_of, prompt, run
from safedepth.attacks import decoding, insertion, on_policy, prefill, rank_prefill, speaker
from safedepth.attacks.samples import decoding_samples, placed_samples, prefill_samples
from safedepth.chat import ChatFormat
from safedepth.models import LoadedModel
from safedepth.provider.api import register_loaded
from safedepth.served.capabilities import Ability, Answer, Capabilities
from serving import Server, serving

YES, NO = Ability(Answer.YES, "It did."), Ability(Answer.NO, "It began a new turn.")


@pytest.fixture
def server(tiny_model: LoadedModel) -> Iterator[Server]:
    with serving(tiny_model) as fake:
        yield fake


@pytest.fixture
def raw(server: Server) -> Model:
    return get_model("openai-api/toy/toy", base_url=server.url, api_key="none", memoize=False)


def probed(monkeypatch: pytest.MonkeyPatch, server: Server, **changes: Ability) -> list[ChatFormat | None]:
    """Let the probe find this, and say with which tokenizers it was asked."""
    names = ("continues", "white_space", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop")
    abilities: dict[str, Any] = dict.fromkeys(names, YES)
    found = Capabilities(
        url=server.url, model="toy", served_as=("toy",), context=256, fingerprint="", canaries=(), **abilities
    )
    asked: list[ChatFormat | None] = []

    async def probe(model: Model, *, chat: ChatFormat | None) -> Capabilities:
        asked.append(chat)
        return replace(found, **changes)  # type: ignore[arg-type]

    monkeypatch.setattr(speaker, "probe", probe)
    return asked


@pytest.mark.parametrize("lacking", [{}, {"token_ids": NO}], ids=["tokens", "text"])
def test_every_depth_replies_as_the_local_model_does_and_the_probe_is_asked_once(
    server: Server, raw: Model, tiny_model: LoadedModel, tiny_model_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, lacking: dict[str, Ability],
) -> None:  # fmt: skip
    asked = probed(monkeypatch, server, **lacking)
    register_loaded("compared", tiny_model)
    local = get_model("safedepth/compared", memoize=False)

    def task(tokenizer: str | None) -> Task:
        return Task(
            dataset=prefill_samples([prompt()], [0, 2, 5], repeats=1, seed=0),
            solver=prefill(tokenizer=tokenizer),
            config=GenerateConfig(max_tokens=8, temperature=0.0),
        )

    theirs = run(task(str(tiny_model_dir)), raw, tmp_path / "served")
    ours = run(task(None), local, tmp_path / "local")
    assert [sample.output.completion for sample in theirs] == [sample.output.completion for sample in ours]
    assert [sample.metadata["forced"] for sample in theirs] == [sample.metadata["forced"] for sample in ours]
    assert [sample.messages[-1].text for sample in theirs] == [sample.output.completion for sample in theirs]
    assert len(asked) == 1
    assert all(body["max_tokens"] == 8 for _, body in server.requests)


@pytest.mark.parametrize("solver", [prefill, insertion, on_policy, rank_prefill])
def test_a_server_that_opens_a_new_turn_is_refused_with_what_was_seen(
    solver: Any, server: Server, raw: Model, tiny_model_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    probed(monkeypatch, server, continues=NO, token_ids=NO)
    place = "after refusal" if solver is insertion else "own"
    dataset = placed_samples([prompt()], [3], [place], attack="x", repeats=1, seed=0)
    made: Solver = solver(tokenizer=str(tiny_model_dir))
    log = log_of(Task(dataset=dataset, solver=made), raw, tmp_path)
    assert log.error is not None
    assert "It began a new turn." in log.error.message


def test_a_server_whose_tokenizer_nobody_named_is_refused(raw: Model, tmp_path: Path) -> None:
    task = Task(dataset=prefill_samples([prompt()], [3], repeats=1, seed=0), solver=prefill())
    log = log_of(task, raw, tmp_path)
    assert log.error is not None
    assert "--tokenizer" in log.error.message


def test_what_cannot_be_forced_exactly_as_text_is_left_out_with_the_reason(
    server: Server, raw: Model, tiny_model: LoadedModel, tiny_model_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    probed(monkeypatch, server, token_ids=NO)
    end = tiny_model.chat.tokenizer.eos_token
    harmful = HARMFUL.replace("here", f"{end} here")
    task = Task(
        dataset=prefill_samples([prompt(harmful)], [1, 3], repeats=1, seed=0),
        solver=prefill(tokenizer=str(tiny_model_dir)),
        config=GenerateConfig(max_tokens=4),
    )
    plain, special = run(task, raw, tmp_path)
    assert "left_out" not in plain.metadata
    assert "special tokens" in special.metadata["left_out"]
    assert not special.output.choices


def test_decoding_settings_reach_the_server_with_the_top_k_that_inspect_would_not_pass_on(
    server: Server, raw: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed(monkeypatch, server)
    task = Task(
        dataset=decoding_samples([prompt()], 2, repeats=1, seed=0),
        solver=decoding("temperature=0.5;top_k=5", 4),
        config=GenerateConfig(max_tokens=4),
    )
    run(task, raw, tmp_path)
    sent = [(body["temperature"], body["top_p"], body["top_k"]) for _, body in server.requests]
    assert sorted(sent) == [(0.5, 1.0, -1), (1.0, 1.0, 5)]


def test_a_reply_that_the_server_cut_short_is_left_out_and_its_text_kept(
    server: Server, raw: Model, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed(monkeypatch, server)
    server.behaviour.cut = 2
    task = Task(
        dataset=prefill_samples([prompt()], [0], repeats=1, seed=0),
        solver=prefill(tokenizer=str(tiny_model_dir)),
        config=GenerateConfig(max_tokens=8),
    )
    (sample,) = run(task, raw, tmp_path)
    assert sample.metadata["left_out"] == "the server cut the reply after 2 of 8 tokens"
    assert sample.output.completion
