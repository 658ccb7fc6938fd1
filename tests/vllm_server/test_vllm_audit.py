"""Whole audits of served models by the command line, beside the same audit of the model loaded here."""

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from model_server import KEY, QUICK, Server, vllm_server
from safedepth.served import patience
from safedepth.testbed import Testbed
from studies.deepen_calls import safedepth, words_of

SAME = ["prompt_id", "k", "repeat", "forced", "forced_tokens", "continuation", "outcome"]
REPLIES = 8 * 7 * 2


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


def audit(model: str | Path, out: Path, testbed: Testbed, **changed: Any) -> int:
    """Greedy replies of 8 prompts at 7 depths, each twice."""
    options: dict[str, Any] = {
        "prompts": testbed.prompts, "judge": "oracle", "limit": 8, "depths": "0,1,2,5,10,20,40", "repeats": 2,
        "attacks": "prefill", "temperature": 0, "max-tokens": 60, "out": out, **changed,
    }  # fmt: skip
    return safedepth("audit", str(model), *words_of(options))


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def assert_same_replies(served: Path, local: Path) -> None:
    """Every reply the same letter for letter, and so every rate; the first differences otherwise."""
    theirs, ours = (pd.read_parquet(out / "measurements" / "replies.parquet") for out in (served, local))
    assert ours.groupby(["prompt_id", "k", "repeat"]).ngroups == REPLIES
    pd.testing.assert_frame_equal(theirs[SAME], ours[SAME])
    assert without_names(summary(served)["rates"]) == without_names(summary(local)["rates"])


def without_names(rates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in rate.items() if name != "model"} for rate in rates]


@pytest.fixture(scope="module")
def local(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audit of the aligned organism, loaded here."""
    out = tmp_path_factory.mktemp("audits") / "local"
    assert audit(testbed.organism("aligned"), out, testbed) == 0
    return out


def test_an_audit_through_vllm_finds_what_the_local_one_finds(
    server: Server, testbed: Testbed, local: Path, tmp_path: Path
) -> None:
    out, tokenizer = tmp_path / "run", testbed.organism("aligned")
    assert audit("vllm/aligned", out, testbed, server=server.url, tokenizer=tokenizer) == 0
    assert_same_replies(out, local)
    assert summary(out)["servers"]["aligned"]["forced_as"] == "tokens"
    assert len({rate["value"] for rate in summary(out)["rates"]}) > 2, "the depths do not differ"


def test_an_adapter_that_vllm_serves_is_audited_as_the_adapter_loaded_here(
    server: Server, testbed: Testbed, adapter: Path, local: Path, tmp_path: Path
) -> None:
    out, tokenizer = tmp_path / "run", testbed.organism("aligned")
    assert audit(adapter, tmp_path / "local", testbed) == 0
    assert audit("vllm/aligned:adapted", out, testbed, server=server.url, tokenizer=tokenizer) == 0
    assert_same_replies(out, tmp_path / "local")
    with pytest.raises(AssertionError):
        assert_same_replies(out, local)


def test_a_base_model_without_a_template_is_audited_in_a_borrowed_one(
    vllm: Path, testbed: Testbed, tmp_path: Path
) -> None:
    base, lender = testbed.organism("base"), testbed.organism("aligned")
    assert not (base / "chat_template.jinja").exists()
    with vllm_server(vllm, base, "base", tmp_path / "vllm.log", *QUICK) as server:
        words = {"server": server.url, "tokenizer": base, "chat-template": lender}
        assert audit("vllm/base", tmp_path / "run", testbed, **words) == 0
    assert audit(base, tmp_path / "local", testbed, **{"chat-template": lender}) == 0
    assert_same_replies(tmp_path / "run", tmp_path / "local")


def test_an_audit_whose_server_dies_says_so_and_goes_on_at_another_address(
    vllm: Path,
    server: Server,
    testbed: Testbed,
    local: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "SILENCE", 5.0)
    out, tokenizer = tmp_path / "run", testbed.organism("aligned")
    with vllm_server(vllm, tokenizer, "aligned", tmp_path / "vllm.log", *QUICK) as dying:
        killer = threading.Thread(target=kill_amid, args=(dying, out / "logs" / "aligned"))
        killer.start()
        assert audit("vllm/aligned", out, testbed, server=dying.url, tokenizer=tokenizer) == 2
        killer.join()
    said = " ".join(capsys.readouterr().err.split())
    assert f"expected a reply from the server at {dying.url}" in said
    assert "the same command goes on with the rest" in said
    assert "Traceback" not in said
    assert not (out / "summary.json").exists()
    lost = re.search(r"(\d+) of (\d+) replies could not be had", said)
    assert lost is not None
    missing, wanted = map(int, lost.groups())
    assert missing < wanted, "nothing was kept"

    before = asked(server)
    assert audit("vllm/aligned", out, testbed, server=server.url, tokenizer=tokenizer) == 0
    assert_same_replies(out, local)
    probes = 90  # at most, at the beginning and at the end
    assert asked(server) - before <= missing + probes


def kill_amid(server: Server, logs: Path) -> None:
    """Kill the server when it has answered some thirty requests of the audit, which begin with its logs."""
    deadline = time.monotonic() + 300
    while not logs.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    before = asked(server)
    while asked(server) < before + 30 and time.monotonic() < deadline:
        time.sleep(0.05)
    server.kill()


def asked(server: Server) -> int:
    """How many requests for replies the server has logged."""
    return server.log.read_text(errors="replace").count("completions HTTP")
