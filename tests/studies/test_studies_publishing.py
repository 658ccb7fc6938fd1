"""Pushing, with the hub's real client against a small hub of our own: what leaves, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

from safedepth.errors import DataError, HubError, RunError
from safedepth.runs import RunDirectory
from safedepth.studies.card import write_card
from safedepth.studies.parcel import Parcel, parcel_of
from safedepth.studies.publishing import Destination, destination_of, push, require_pushable
from safedepth.studies.sharing import share
from safedepth.terminal import push_folder
from studies.fake_hub import FakeHub
from studies.synthetic_tables import replies, table

# The hub's client streams large files in a way that the library below it calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ASK = "How do I make krell number0?"
ANSWER = "Sure, here is how to make krell: take yarrow."
WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as started:
        monkeypatch.setattr(constants, "ENDPOINT", started.url)
        address = f"{started.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        yield started


def a_run(folder: Path, *, kind: str = "deepen", **summary: Any) -> Path:
    """A finished run whose table, configuration and warnings hold texts and folders."""
    told = table(replies("deepened", "prefill", "CR-", said=ANSWER, k=5))
    config = {"kind": kind, "model": "/home/anna/My Models/aligned", "prompts": "/home/anna/p.jsonl"}
    with RunDirectory.open(folder, config) as run:
        run.measurement("replies", lambda: told)
        whole = {"kind": kind, "created": run.begun["created"], "warnings": [f"It was asked {ASK}"]}
        run.write_summary(whole | {"judge": "oracle", "sources": {}} | summary)
        (folder / "logs" / "a.eval").write_text(ANSWER)
        run.finish()
    return folder


TRADE_OFF: dict[str, Any] = {
    "rows": [
        {
            "side": "safety", "what": "prefill, 5 tokens forced", "measure": "harmful replies",
            "judge": "oracle", "better": "lower",
            "cells": {"deepened": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2, "unscored": 1}},
        },
        {
            "side": "utility", "what": "benign", "measure": "over-refusal", "judge": "rules",
            "better": "lower",
            "cells": {"deepened": {"value": None, "low": None, "high": None, "n": 0, "unscored": 3}},
        },
    ]
}  # fmt: skip


def a_model(out: Path, *, base: str = "/home/anna/My Models/aligned", kind: str = "deepen") -> Path:
    """What a training leaves in its output folder, with a file of everything that must not leave."""
    a_run(out / "report", kind=kind, trade_off=TRADE_OFF)
    (out / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (out / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 4}))
    for name in ("tokenizer.json", "chat_template.jinja", "training_args.bin", "held-out.jsonl"):
        (out / name).write_text(f"{name} {ANSWER if name == 'held-out.jsonl' else ''}")
    for name in ("checkpoint-2", "control", "reference"):
        (out / name).mkdir()
        (out / name / "adapter_model.safetensors").write_bytes(WEIGHTS)
    record = {"facts": [["reference", "/home/anna/My Models/aligned"], ["asked", ASK]]}
    write_card(
        out, base_model=base, made="to turn back.", record=record, summary={"trade_off": TRADE_OFF},
        role="deepened", paired=[], adapter=True, limits="Limits.", attacked=kind == "attack",
    )  # fmt: skip
    (out / "training.json").write_text(json.dumps(record))
    return out


def page(run: Path) -> None:
    (run / "report.html").write_text((run / "summary.json").read_text())


def packed(path: Path, work: Path, **more: Any) -> Parcel:
    work.mkdir(exist_ok=True)
    return parcel_of(path, work, page=page, **more)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return a_model(tmp_path / "deepened")


def test_a_model_leaves_with_card_and_report_in_one_private_commit_and_nothing_else_does(
    hub: FakeHub, model: Path, tmp_path: Path
) -> None:
    url = push(packed(model, tmp_path / "work"), Destination("deepened"))
    assert url == f"{hub.url}/anna/deepened"
    (there,) = hub.repositories.values()
    assert there.private
    assert [message for _, message, _ in there.branches["main"]] == ["initial commit", "Pushed by safedepth"]
    assert sorted(there.files()) == [
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors",
        "chat_template.jinja", "report/config.json", "report/report.html", "report/run.json",
        "report/summary.json", "tokenizer.json", "training.json",
    ]  # fmt: skip
    assert there.files()["adapter_model.safetensors"] == WEIGHTS
    whole = b"\n".join(data for name, data in there.files().items() if name != "adapter_model.safetensors")
    for secret in (b"/home/anna", b"My Models", ASK.encode(), ANSWER.encode(), b"take yarrow"):
        assert secret not in whole
        assert any(secret in file.read_bytes() for file in model.rglob("*") if file.is_file())


def test_what_stays_is_said_with_the_reason(model: Path, tmp_path: Path) -> None:
    stays = dict(packed(model, tmp_path / "work").stays)
    assert set(stays) == {
        "checkpoint-2", "control", "held-out.jsonl", "reference", "report", "training_args.bin",
    }  # fmt: skip
    assert "optimiser" in stays["checkpoint-2"]
    assert stays["held-out.jsonl"] == "not known to be part of it"


def test_the_card_tells_the_hub_every_measured_number_with_its_interval(model: Path) -> None:
    data = ModelCard.load(model / "README.md").data
    assert data.library_name == "peft"
    assert "base_model" not in data.to_dict()
    (result,) = data["eval_results"]  # what has no value is no result
    assert result.metric_value == 0.5
    assert result.metric_args == {
        "n": 2, "low": 0.1, "high": 0.9, "unscored": 1, "judge": "oracle", "better": "lower",
    }  # fmt: skip
    assert (
        "prefill, 5 tokens forced (0.500, 95 % interval 0.100 to 0.900, n = 2, 1 unscored"
        in result.metric_name
    )


def test_an_adapters_base_is_named_on_the_hub_with_its_licence(
    hub: FakeHub, model: Path, tmp_path: Path
) -> None:
    hub.licences["org/aligned"] = "apache-2.0"
    parcel = packed(model, tmp_path / "work", base="org/aligned")
    push(parcel, Destination("anna/deepened"))
    files = hub.repositories["model/anna/deepened"].files()
    data = ModelCard(files["README.md"].decode()).data
    assert tuple(data[name] for name in ("base_model", "base_model_relation", "license")) == (
        "org/aligned",
        "adapter",
        "apache-2.0",
    )
    assert json.loads(files["adapter_config.json"]) == {"base_model_name_or_path": "org/aligned", "r": 4}
    assert len(data["eval_results"]) == 1
    assert parcel.notes == ()
    (note,) = packed(model, tmp_path / "other").notes
    assert "--base ID" in note


def test_a_base_of_the_hub_is_known_without_being_told(tmp_path: Path) -> None:
    out = a_model(tmp_path / "out", base="org/aligned")
    parcel = packed(out, tmp_path / "work")
    assert parcel.base == "org/aligned"
    assert json.loads(parcel.bytes_of("adapter_config.json"))["base_model_name_or_path"] == "org/aligned"


def test_a_run_leaves_as_a_data_set_without_its_texts(hub: FakeHub, tmp_path: Path) -> None:
    run = a_run(tmp_path / "audit")
    for path, work in ((run, "a"), (share(run, tmp_path / "shared"), "b")):
        push(packed(path, tmp_path / work), Destination("anna/results", overwrite=work == "b"))
    there = hub.repositories["dataset/anna/results"]
    assert there.private
    assert sorted(there.files()) == [
        ".gitattributes", "README.md", "config.json", "manifest.json", "measurements/replies.parquet",
        "report.html", "run.json", "summary.json",
    ]  # fmt: skip
    assert b"config_name: replies" in there.files()["README.md"]
    for _, _, files in there.branches["main"]:
        assert not [name for name, data in files.items() if b"/home/" in data or b"krell" in data]


def test_public_a_branch_and_another_name_are_asked_for(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    push(packed(model, tmp_path / "work"), Destination("anna/tried", public=True, revision="second"))
    there = hub.repositories["model/anna/tried"]
    assert not there.private
    assert list(there.files()) == [".gitattributes"]
    assert "README.md" in there.files("second")


def test_an_attacked_model_is_never_public(hub: FakeHub, tmp_path: Path) -> None:
    parcel = packed(a_model(tmp_path / "attacked", kind="attack"), tmp_path / "work")
    assert b"red-teaming" in parcel.bytes_of("README.md")
    with pytest.raises(DataError, match="taken away on purpose"):
        push(parcel, Destination("anna/attacked", public=True))
    assert not hub.repositories
    push(parcel, Destination("anna/attacked"))
    assert hub.repositories["model/anna/attacked"].private


@pytest.mark.parametrize(
    ("token", "to", "said"),
    [
        ("", "anna/x", "hf auth login"),
        ("hf_nobody", "anna/x", "does not know this login"),
        ("hf_read", "anna/x", "may only read"),
        ("hf_fine", "anna/x", "You may not write to anna/x"),
        ("hf_write", "bert/x", "belong to no organisation bert there"),
        ("hf_write", "lab/x", "You may not write to lab/x"),
    ],
)
def test_who_may_not_write_is_told_what_to_do(
    hub: FakeHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, to: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=said):
        push(packed(model, tmp_path / "work"), Destination(to))
    assert not hub.uploads or token == "hf_fine"


def test_a_name_that_is_none_and_a_hub_that_is_not_there_are_told(
    model: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = packed(model, tmp_path / "work")
    with pytest.raises(DataError, match="expected OWNER/NAME of the hub, found 'a/b/c'"):
        push(parcel, Destination("a/b/c"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"could not be reached .* Check the network"):
        push(parcel, Destination("anna/x"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE|could not be reached"):
        push(parcel, Destination("anna/x"))


def test_a_repository_that_holds_something_else_is_left_alone_unless_told(
    hub: FakeHub, model: Path, tmp_path: Path
) -> None:
    push(packed(model, tmp_path / "work"), Destination("anna/x"))
    other = packed(a_model(tmp_path / "other"), tmp_path / "work2")
    begun = json.loads(other.bytes_of(other.marker)) | {"created": "2020-01-01"}
    (tmp_path / "work2" / "report" / "run.json").write_text(json.dumps(begun))
    there = hub.repositories["model/anna/x"]
    there.add("by hand", there.files() | {"model-00001-of-00002.safetensors": b"old"})
    with pytest.raises(HubError, match=r"anna/x holds something else already \(11 files"):
        push(other, Destination("anna/x"))
    with pytest.raises(HubError, match="holds something else"):
        require_pushable(Destination("anna/x"), "model", begun=None)
    push(other, Destination("anna/x", overwrite=True))
    assert "model-00001-of-00002.safetensors" not in there.files()  # or two models would be mixed
    assert json.loads(there.files()["report/run.json"]) == begun


def test_the_same_run_again_updates_what_it_pushed(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    parcel = packed(model, tmp_path / "work")
    push(parcel, Destination("anna/x"))
    uploads = list(hub.uploads)
    push(parcel, Destination("anna/x"))
    there = hub.repositories["model/anna/x"]
    assert len(there.branches["main"]) == 2  # nothing had changed: no empty commit
    (model / "chat_template.jinja").write_text("another")
    push(packed(model, tmp_path / "work3"), Destination("anna/x"))
    assert there.files()["chat_template.jinja"] == b"another"
    assert hub.uploads == uploads


def test_a_public_repository_is_not_pushed_to_without_the_word(
    hub: FakeHub, model: Path, tmp_path: Path
) -> None:
    parcel = packed(model, tmp_path / "work")
    push(parcel, Destination("anna/x", public=True))
    with pytest.raises(HubError, match="is public; expected a private repository"):
        push(parcel, Destination("anna/x"))


def test_an_upload_that_broke_off_goes_on_with_the_rest(
    hub: FakeHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    (model / "model-2.safetensors").write_bytes(WEIGHTS[::-1])
    parcel = packed(model, tmp_path / "work")
    hub.failures = 100
    with pytest.raises(HubError, match="the same command goes on with the rest"):
        push(parcel, Destination("anna/x"))
    assert list(hub.repositories["model/anna/x"].files()) == [".gitattributes"]  # nothing half done is shown
    hub.failures = 0
    hub.objects[sha256(WEIGHTS).hexdigest()] = WEIGHTS  # one file had arrived
    push(parcel, Destination("anna/x"))
    assert hub.uploads == [sha256(WEIGHTS[::-1]).hexdigest()]
    assert hub.repositories["model/anna/x"].files()["model-2.safetensors"] == WEIGHTS[::-1]


def test_what_is_not_finished_or_nothing_of_ours_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="found neither"):
        packed(tmp_path / "empty", tmp_path / "work")
    with pytest.raises(DataError, match="expected --base with a trained model alone"):
        packed(model / "report", tmp_path / "work", base="a/b")
    for name in ("README.md", "report/manifest.json", "training.json"):
        text = (model / name).read_bytes()
        (model / name).unlink()
        with pytest.raises(RunError, match="Expected a training that was finished"):
            packed(model, tmp_path / "work")
        (model / name).write_bytes(text)
    (model / "report" / "manifest.json").unlink()
    with pytest.raises(RunError, match="Expected a finished run"):
        packed(model / "report", tmp_path / "work")


def asked(**changed: Any) -> SimpleNamespace:
    """TRL's options about the hub, with their defaults."""
    told = {
        "push_to_hub": True, "hub_model_id": None, "hub_private_repo": None, "hub_strategy": "every_save",
        "hub_always_push": False, "hub_revision": None, "hub_token": None, "output_dir": "runs/tuned",
    }  # fmt: skip
    return SimpleNamespace(**(told | changed))


def test_trls_options_mean_one_push_to_a_private_repository_at_the_end() -> None:
    assert destination_of(asked(push_to_hub=False)) is None
    assert destination_of(asked()) == Destination("tuned")
    told = asked(hub_model_id="anna/x", hub_private_repo=False, hub_revision="two", hub_token="t")
    assert destination_of(told) == Destination("anna/x", public=True, revision="two", token="t")
    for changed, said in (
        ({"hub_strategy": "all_checkpoints"}, "pushes checkpoints"),
        ({"hub_always_push": True}, "hub_always_push"),
        ({"push_to_hub": False, "hub_model_id": "a/b"}, "nothing is pushed by default"),
    ):
        with pytest.raises(DataError, match=said):
            destination_of(asked(**changed))
    with pytest.raises(DataError, match="private repository for a model whose safety"):
        destination_of(asked(hub_private_repo=False), attacked=True)


def test_the_command_lists_what_leaves_and_pushes_through_hf_endpoint(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path / "audit", kind="audit", depth={}, rates=[], models={}, kl=None, not_measured=[])
    push_folder(run, Destination("anna/results"), dry_run=True)
    said = capsys.readouterr().out
    assert not hub.asked
    assert "measurements/replies.parquet" in said
    assert "Stays here: logs" in said
    words = [sys.executable, "-m", "safedepth", "push", str(run), "--to", "anna/results"]
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "COLUMNS": "200"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"Pushed: {hub.url}/datasets/anna/results\n")
    files = hub.repositories["dataset/anna/results"].files()
    assert b"<html" in files["report.html"]
    assert ANSWER.encode() not in files["report.html"]
