"""The doctor's sheets on a model: what an audit could do with it, and what stands in the way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safedepth.cli import app
from safedepth.errors import ModelError
from safedepth.models import LoadedModel
from safedepth.served import asking
from safedepth.served.capabilities import Ability, Answer, Capabilities
from safedepth.served.clients import Server
from safedepth.studies import doctor_model
from safedepth.studies.doctor_model import Sheet, examine_model
from serving import serving

YES, NO = Ability(Answer.YES, "It did."), Ability(Answer.NO, "It did not.")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)


def found_in(sheet: Sheet) -> dict[str, str]:
    return {finding.check: finding.says or finding.found for finding in sheet.findings}


def capable(url: str, **changes: Any) -> Capabilities:
    names = ("continues", "white_space", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop")
    everything = dict.fromkeys(names, YES)
    whole = Capabilities(
        url=url,
        model="toy",
        served_as=("toy",),
        context=256,
        fingerprint="f",
        canaries=("Yes.",),
        **everything,
    )
    return replace(whole, **changes)


def answering(monkeypatch: pytest.MonkeyPatch, *changes: dict[str, Any]) -> None:
    """Leave out the probe, which has tests of its own; `changes` of one server after the other."""
    left = list(changes)

    async def probed(name: str, place: str | None, chat: object) -> Server:
        return Server(name, place, capable(str(place), **left.pop(0)))

    monkeypatch.setattr(doctor_model, "probed", probed)


def test_a_local_model_is_sized_and_its_template_read_without_loading_it(tiny_model_dir: Path) -> None:
    card, template, audit = examine_model(str(tiny_model_dir), device="cpu")
    assert found_in(card)["kind"] == "model"
    assert "free on cpu" in found_in(card)["memory"]
    assert found_in(template)["system role"] == "yes"
    assert found_in(audit)["answers are forced"] == "as token ids"
    assert "prefill" in found_in(audit)["attacks"]
    assert "suffix" in found_in(audit)["attacks"]


def test_a_model_without_a_template_is_told_how_to_borrow_one(testbed: Any) -> None:
    sheets = examine_model(str(testbed.organism("base")), device="cpu")
    assert not sheets[-1].ok
    assert "--chat-template" in found_in(sheets[-1])["template"]


def test_what_an_audit_could_do_follows_from_what_the_probe_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {"continues": NO, "token_ids": NO})
    found, audit = examine_model("vllm/toy", servers=["http://a/v1"])
    assert found.title == "http://a/v1"
    assert found_in(found)["context"] == "256 tokens"
    assert (found_in(found)["continues"], found_in(found)["white space"]) == ("no", "yes")
    assert found_in(audit)["answers are forced"] == "not at all"
    assert "It did not." in found_in(audit)["not the attack prefill"]
    assert found.ok


def test_one_server_that_is_down_does_not_hide_the_other(tiny_model: LoadedModel) -> None:
    with serving(tiny_model, failing="drop") as server:
        sheets = examine_model("vllm/toy", servers=["http://127.0.0.1:9/v1", server.url])
    assert [sheet.ok for sheet in sheets] == [False, False]
    assert "is up" in found_in(sheets[0])["server"]


def test_two_models_under_one_name_are_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {}, {"fingerprint": "g", "canaries": ("No.",)})
    *_, last = examine_model("vllm/toy", servers=["http://a/v1", "http://b/v1"])
    assert (last.title, last.ok) == ("all servers", False)
    assert "'Yes.' by the first and 'No.' by the second" in found_in(last)["one model"]


def test_servers_force_what_all_of_them_can(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    answering(monkeypatch, {}, {"token_ids": NO})
    *_, audit = examine_model(
        "vllm/toy", servers=["http://a/v1", "http://b/v1"], tokenizer=str(tiny_model_dir)
    )
    assert found_in(audit)["answers are forced"] == "as text"


def test_an_address_for_a_checkpoint_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="as Inspect writes it"):
        examine_model(str(tiny_model_dir), servers=["http://127.0.0.1:9/v1"])


def test_the_command_ends_with_1_where_a_server_cannot_be_asked(tiny_model_dir: Path) -> None:
    run = CliRunner().invoke
    down = run(app, ["doctor", "--model", "vllm/toy", "--server", "http://127.0.0.1:9/v1"])
    assert (down.exit_code, "Connection error" in down.output) == (1, True), down.output
    fit = run(app, ["doctor", "--model", str(tiny_model_dir), "--device", "cpu"])
    assert (fit.exit_code, "an audit" in fit.output) == (0, True), fit.output
