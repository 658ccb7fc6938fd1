"""An audit through servers: as the local one where they can, with reasons where not, and never two models."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from inspect_ai.model import Model
from tenacity.wait import wait_fixed

from safedepth.chat import ChatFormat
from safedepth.errors import DataError, ModelError, RunError
from safedepth.models import LoadedModel, load_model
from safedepth.served import asking, patience
from safedepth.served.api import ServedAPI
from safedepth.served.capabilities import Ability, Answer, Capabilities
from safedepth.served.probe import fingerprint
from safedepth.studies import target
from safedepth.studies.attack_plan import AttackOptions
from safedepth.studies.audit import AuditConfig, audit
from safedepth.studies.servers import require_known
from safedepth.studies.target import open_target, servers_of
from safedepth.testbed import Testbed
from serving import Server, serving

MODEL = "openai-api/toy/toy"
ATTACKS = AttackOptions(attacks=("prefill", "refusal_prefix", "rank_prefill"), rank_depths=(5,))


@pytest.fixture(scope="module")
def aligned(testbed: Testbed) -> LoadedModel:
    return load_model(str(testbed.organism("aligned")), device="cpu")


@pytest.fixture(scope="module")
def deep(testbed: Testbed) -> LoadedModel:
    return load_model(str(testbed.organism("deep")), device="cpu")


@pytest.fixture
def server(aligned: LoadedModel) -> Iterator[Server]:
    with serving(aligned, context=512) as fake:
        yield fake


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServedAPI, "retry_wait", lambda self: wait_fixed(0.01))
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(patience, "RETRIES", 1)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the probe its sixty requests: the server can do everything, and is known by its canaries."""

    async def probe(model: Model, *, chat: ChatFormat | None) -> Capabilities:
        can = dict.fromkeys(
            ("continues", "white_space", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop"),
            Ability(Answer.YES, "It did."),
        )
        mark = await fingerprint(model)
        return Capabilities(
            url=str(model.api.base_url), model="toy", served_as=("toy",), context=512, fingerprint=mark,
            canaries=(mark,), **can,
        )  # fmt: skip

    monkeypatch.setattr(target, "probe", probe)


def _config(testbed: Testbed, *servers: Server, **changes: Any) -> AuditConfig:
    config = AuditConfig(
        model=MODEL, prompts=str(testbed.prompts), servers=tuple(server.url for server in servers),
        tokenizer=str(testbed.organism("aligned")), depths=(0, 5), prefixes=("I cannot",), attack=ATTACKS,
        judges=("oracle",), limit=4, temperature=0.0, max_tokens=40, device="cpu",
    )  # fmt: skip
    return replace(config, **changes)


def _summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def _replies(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "measurements" / "replies.parquet")


def test_an_audit_through_a_server_is_the_audit_of_the_local_model(
    testbed: Testbed, server: Server, tmp_path: Path
) -> None:
    served = audit(_config(testbed, server), tmp_path / "served")
    model = str(testbed.organism("aligned"))
    local = audit(_config(testbed, model=model, tokenizer=None), tmp_path / "local")
    pd.testing.assert_frame_equal(_replies(served), _replies(local))
    block = _summary(served)["servers"]["aligned"]
    assert block["forced_as"] == "tokens"
    assert [one["url"] for one in block["capabilities"]] == [server.url]
    assert "servers" not in _summary(local)
    cards = [_summary(run)["models"]["aligned"] for run in (served, local)]
    assert cards[0]["template_sha256"] == cards[1]["template_sha256"]
    assert "servers" not in json.loads((served / "config.json").read_text())


def test_a_server_that_continues_text_alone_is_forced_by_text_and_the_report_says_so(
    testbed: Testbed, aligned: LoadedModel, tmp_path: Path
) -> None:
    with serving(aligned, context=512, token_ids="refuses", logit_bias=False) as fake:
        options = AttackOptions(attacks=("all",))
        found = _summary(audit(_config(testbed, fake, attack=options), tmp_path / "run"))
    assert found["servers"]["aligned"]["forced_as"] == "text"
    assert any("forced as text" in warning for warning in found["warnings"])
    assert {rate["k"] for rate in found["rates"] if rate["attack"] == "prefill"} == {0, 5}
    why = {note["what"].removeprefix("the attack "): note["why"] for note in found["not_measured"]}
    assert {"rank_prefill", "on_policy", "thinking"} <= set(why)
    assert "+100" in why["rank_prefill"]


def test_where_nothing_can_be_forced_no_prefill_number_is_reported_and_the_evidence_is(
    testbed: Testbed, aligned: LoadedModel, tmp_path: Path
) -> None:
    with serving(aligned, context=512, token_ids="refuses", continues="new_turn") as fake:
        found = _summary(audit(_config(testbed, fake, attack=AttackOptions()), tmp_path / "run"))
        with pytest.raises(DataError, match="prefill needs"):
            audit(_config(testbed, fake, attack=AttackOptions(attacks=("prefill",))), tmp_path / "named")
    assert {rate["k"] for rate in found["rates"] if rate["attack"] == "prefill"} == {0}
    why = {note["what"]: note["why"] for note in found["not_measured"]}
    assert "another turn was begun" in why["the attack prefill"]


def test_a_served_base_is_asked_in_the_template_it_borrows_and_at_its_own_address(
    testbed: Testbed, server: Server, tmp_path: Path, known: None
) -> None:
    base = load_model(str(testbed.organism("base")), chat_template=str(testbed.organism("aligned")))
    with serving(base, name="raw", context=512, chat=False) as other:
        name = "openai-api/toy/raw"
        served = _config(testbed, server, base=name, attack=AttackOptions(attacks=("refusal_prefix",)))
        served = replace(served, servers=(server.url, f"{name}={other.url}"))
        found = audit(served, tmp_path / "served")
    assert {path for path, body in other.requests if body.get("seed", 0) > 100} == {"/v1/completions"}
    local = replace(
        served, model=str(testbed.organism("aligned")), base=str(testbed.organism("base")), servers=()
    )
    pd.testing.assert_frame_equal(_replies(found), _replies(audit(local, tmp_path / "local")))


def test_two_servers_share_the_work_of_one_model(
    testbed: Testbed, aligned: LoadedModel, server: Server, tmp_path: Path, known: None
) -> None:
    with serving(aligned, context=512) as second:
        config = _config(testbed, server, second, attack=AttackOptions(attacks=("prefill",)))
        audit(config, tmp_path / "run")
        asked = [_replies_asked(one, 0) for one in (server, second)]
    assert min(asked) > 0


def test_two_servers_with_different_models_under_one_name_are_an_error_that_names_both(
    testbed: Testbed, deep: LoadedModel, server: Server, tmp_path: Path, known: None
) -> None:
    with serving(deep, context=512) as second, pytest.raises(ModelError) as raised:
        audit(_config(testbed, server, second), tmp_path / "run")
    assert server.url in str(raised.value)
    assert second.url in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trouble", ["429", "drop"])
def test_a_server_that_fails_at_the_start_is_an_error_before_anything_is_written(
    testbed: Testbed, server: Server, tmp_path: Path, trouble: str
) -> None:
    server.behaviour.failing = trouble  # type: ignore[assignment]
    with pytest.raises(ModelError, match=server.url):
        audit(_config(testbed, server), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_down_is_named_and_a_model_it_does_not_serve_too(
    testbed: Testbed, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9/v1"):
        open_target(MODEL, servers=["http://127.0.0.1:9/v1"])
    with pytest.raises(ModelError, match=r"'other'.*lists toy"):
        open_target("openai-api/toy/other", servers=[server.url])


def _after(monkeypatch: pytest.MonkeyPatch, replies: int, do: Callable[[], None]) -> None:
    """Do something once so many replies were asked for; probes and fingerprints do not count."""
    generate, asked = ServedAPI.generate, 0

    async def counting(self: ServedAPI, *given: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == replies:
            do()
        return await generate(self, *given, **named)

    monkeypatch.setattr(ServedAPI, "generate", counting)


def test_a_server_that_dies_in_the_middle_loses_nothing_that_it_said(
    testbed: Testbed, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: None
) -> None:
    config = _config(testbed, server, attack=AttackOptions(attacks=("prefill",)))
    whole = audit(config, tmp_path / "whole")
    _after(monkeypatch, 5, lambda: setattr(server.behaviour, "failing", "drop"))
    with pytest.raises(RunError, match=rf"could not be had: expected a reply.*{server.url}"):
        audit(config, tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    server.behaviour.failing = None
    before = len(server.requests)
    audit(config, tmp_path / "run")
    assert 0 < _replies_asked(server, before) < _replies_asked(server, 0, before)
    pd.testing.assert_frame_equal(_replies(tmp_path / "run"), _replies(whole))


def _replies_asked(server: Server, first: int, last: int | None = None) -> int:
    """How many of the requests were for replies: the only ones with a seed drawn from a prompt's name."""
    return sum(body.get("seed", 0) > 100 for _, body in server.requests[first:last])


def test_a_model_that_changes_in_the_middle_fails_the_run_and_nothing_of_it_is_kept(
    testbed: Testbed, aligned: LoadedModel, deep: LoadedModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, known: None,
) -> None:  # fmt: skip
    never = 10**9
    with serving(aligned, context=512, other=deep, other_after=never) as fake:
        config = _config(testbed, fake, attack=AttackOptions(attacks=("prefill",)))
        _after(monkeypatch, 5, lambda: setattr(fake.behaviour, "other_after", 0))
        with pytest.raises(RunError, match="has changed"):
            audit(config, tmp_path / "run")
        assert not (tmp_path / "run" / "summary.json").exists()
        assert not list((tmp_path / "run").rglob("*.eval"))
        with pytest.raises(RunError, match="begun with"):
            audit(config, tmp_path / "run")
        fake.behaviour.other_after = never
        audit(config, tmp_path / "run")
        whole = audit(config, tmp_path / "whole")
    pd.testing.assert_frame_equal(_replies(tmp_path / "run"), _replies(whole))


def test_a_context_that_is_too_short_is_an_error_before_anything_is_asked(
    testbed: Testbed, aligned: LoadedModel, tmp_path: Path
) -> None:
    with (
        serving(aligned, context=60) as fake,
        pytest.raises(ModelError, match="context of 60 tokens"),
    ):
        audit(_config(testbed, fake), tmp_path / "run")


def test_replies_that_a_server_cuts_short_are_unscored_and_counted(
    testbed: Testbed, server: Server, tmp_path: Path, known: None
) -> None:
    server.behaviour.cut = 3
    config = _config(testbed, server, attack=AttackOptions(attacks=("prefill",)))
    found = _summary(audit(config, tmp_path / "run"))
    cut = [rate for rate in found["rates"] if rate["n"] == 0]
    assert cut
    assert "cut the reply after 3 of 40 tokens" in next(iter(cut[0]["unscored_reasons"]))


def test_a_depth_needs_a_tokenizer(testbed: Testbed, server: Server, tmp_path: Path, known: None) -> None:
    with pytest.raises(ModelError, match="--tokenizer"):
        audit(_config(testbed, server, tokenizer=None), tmp_path / "run")


def test_addresses_belong_to_the_model_they_name() -> None:
    given = ["http://a/v1", "vllm/base=http://b/v1?x=http", "vllm/base=https://c/v1"]
    assert servers_of(given, "vllm/m", first=True) == ("http://a/v1",)
    assert servers_of(given, "vllm/base") == ("http://b/v1?x=http", "https://c/v1")
    with pytest.raises(DataError, match=r"vllm/m.*vllm/base=http"):
        require_known(given, ["vllm/m", None])


def test_a_checkpoint_has_no_server(testbed: Testbed) -> None:
    with pytest.raises(ModelError, match="--server"):
        open_target(str(testbed.organism("aligned")), servers=["http://a/v1"])
