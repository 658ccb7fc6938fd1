"""`safedepth measure`: the tables against slow loops and the audit's KL, precision, resuming, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from safedepth.data import read_prompts
from safedepth.models import LoadedModel, load_model
from safedepth.runs import Chunks
from safedepth.studies import measure_tables
from safedepth.studies.divergence import BATCH_PROMPTS, kl_table
from safedepth.testbed import Testbed
from studies.deepen_calls import jsonl, safedepth, words_of

PROMPTS = 2 * BATCH_PROMPTS + 1
"""Three pieces, the last with one prompt."""


def words(testbed: Testbed, out: Path, **changed: Any) -> list[str]:
    """Arguments of a small `measure` of the aligned organism; None leaves an option out."""
    options: dict[str, Any] = {
        "base": testbed.organism("base"), "prompts": testbed.prompts, "limit": PROMPTS, "tokens": 30,
        "device": "cpu", "out": out, **changed,
    }  # fmt: skip
    return ["measure", str(options.pop("model", testbed.organism("aligned"))), *words_of(options)]


def summary_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


def table_of(out: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(out / "measurements" / f"{name}.parquet")


@pytest.fixture(scope="module")
def measured(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run in 16 bits. Do not change it."""
    out = tmp_path_factory.mktemp("measure") / "run"
    assert safedepth(*words(testbed, out, dtype="bfloat16", **{"precision-floor": True})) == 0
    return out


@pytest.fixture(scope="module")
def models(testbed: Testbed) -> dict[str, LoadedModel]:
    lender = str(testbed.organism("aligned"))
    return {
        name: load_model(
            str(testbed.organism(name)), chat_template=lender if name == "base" else None,
            device="cpu", dtype="bfloat16",
        )
        for name in ("aligned", "base")
    }  # fmt: skip


def test_the_kl_is_that_of_both_models_held_at_once(
    testbed: Testbed, measured: Path, models: dict[str, LoadedModel]
) -> None:
    prompts = read_prompts(str(testbed.prompts), limit=PROMPTS)
    expected = kl_table(models["aligned"], models["base"], prompts, tokens=30)
    pd.testing.assert_frame_equal(table_of(measured, "kl"), expected, check_exact=True)


def test_log_probabilities_of_the_answers_agree_with_a_float64_loop(testbed: Testbed, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert safedepth(*words(testbed, out, limit=2, dtype="float32")) == 0
    found = table_of(out, "answers")
    for role in ("aligned", "base"):
        lender = str(testbed.organism("aligned"))
        model = load_model(str(testbed.organism(role)), chat_template=lender, device="cpu", dtype="float32")
        for prompt in read_prompts(str(testbed.prompts), limit=2):
            encoded = model.chat.encode(prompt.messages, prompt.harmful)
            ids = torch.tensor([encoded.ids])
            with torch.no_grad():
                logits = model.model.double()(ids).logits[0]
            end = min(len(encoded.ids), encoded.prompt_tokens + 30)
            places = torch.arange(encoded.prompt_tokens, end)
            expected = logits.log_softmax(-1)[places - 1, ids[0, places]]
            own = found[(found["model"] == role) & (found["prompt_id"] == prompt.id)]
            assert own["position"].tolist() == list(range(1, len(places) + 1))
            np.testing.assert_allclose(own["log_prob"], expected, rtol=1e-4, atol=1e-5)


def test_the_summary_tells_kl_depth_answers_precision_and_no_replies(measured: Path) -> None:
    found = summary_of(measured)
    assert (found["kind"], found["judge"], found["processes"], found["rates"]) == ("measure", None, 1, [])
    assert found["kl"]["tokens"] == 30
    assert set(found["depth"]) == {"kl_depth"}
    told = [(row["model"], row["position"]) for row in found["answers"]]
    assert told == [(role, position) for role in ("aligned", "base") for position in range(1, 31)]
    assert all(row["low"] <= row["value"] <= row["high"] <= 0 for row in found["answers"] if row["n"] > 1)
    # The aligned organism does not begin a harmful answer, and goes on with one as its base does.
    first, last = found["answers"][0], found["answers"][29]
    assert first["value"] < found["answers"][30]["value"] - 2
    assert last["value"] > first["value"]
    assert {role: Path(card["name"]).name for role, card in found["models"].items()} == {
        "aligned": "aligned", "base": "base",
    }  # fmt: skip
    assert not (measured / "chunks").exists()


def test_rounding_to_16_bits_is_told_apart_from_the_difference_of_the_models(measured: Path) -> None:
    found = summary_of(measured)
    assert [(entry["model"], entry["dtype"]) for entry in found["precision"]] == [
        ("aligned", "bfloat16"), ("base", "bfloat16"),
    ]  # fmt: skip
    for entry in found["precision"]:
        floor = max(row["mean"] for row in entry["kl"]["per_token"])
        assert 0 < floor < 0.01 * max(row["mean"] for row in found["kl"]["per_token"])
        rate, table = entry["argmax_changed"], table_of(measured, f"precision-{entry['model']}")
        assert (rate["n"], rate["unscored"]) == (len(table), 0)
        assert rate["low"] <= rate["value"] == table["argmax_changed"].mean() <= rate["high"] < 0.5


def test_what_was_measured_in_float32_has_no_floor_and_the_report_says_why(
    testbed: Testbed, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = words(testbed, out, limit=1, dtype="float32", **{"precision-floor": True})
    assert safedepth(*command) == 0
    found = summary_of(out)
    assert found["precision"] is None
    assert [row["what"] for row in found["not_measured"]] == [
        "precision of the aligned model", "precision of the base model",
    ]  # fmt: skip
    assert safedepth(*words(testbed, tmp_path / "other", limit=1)) == 0
    assert summary_of(tmp_path / "other")["not_measured"] == []


def test_the_same_command_again_loads_no_model(
    testbed: Testbed, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (measured / "summary.json").read_bytes()
    monkeypatch.setattr(measure_tables, "load_model", None)
    assert safedepth(*words(testbed, measured, dtype="bfloat16", **{"precision-floor": True})) == 0
    assert (measured / "summary.json").read_bytes() == before


def test_a_run_that_was_stopped_goes_on_from_the_pieces_that_are_there(
    testbed: Testbed, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stored = tmp_path / "run", list[str]()
    store = Chunks.store

    def stopped(chunks: Chunks, index: int, table: pd.DataFrame) -> None:
        if len(stored) == 5:
            stored.append("stopped")
            raise KeyboardInterrupt
        stored.append(f"{chunks.name} {index}")
        store(chunks, index, table)

    monkeypatch.setattr(Chunks, "store", stopped)
    command = words(testbed, out, dtype="bfloat16", **{"precision-floor": True})
    assert safedepth(*command) == 130
    assert safedepth(*command) == 0
    once = [name for name in stored if name != "stopped"]
    assert len(once) == len(set(once)) == 5 * 3 + 2
    for name in ("kl", "answers", "precision-aligned", "precision-base"):
        pd.testing.assert_frame_equal(table_of(out, name), table_of(measured, name), check_exact=True)


def test_what_cannot_be_measured_is_said_before_a_folder_is_made(
    testbed: Testbed, tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = jsonl(tmp_path / "bare.jsonl", [{"prompt": "How do I make krell torin?"}])
    for changed, message in (
        ({"base": "mockllm/model"}, "which is reached through a server"),
        ({"base": tmp_path}, "config.json"),
        ({"base": tiny_model_dir}, "with the same vocabulary"),
        ({"prompts": bare}, "expected at least one prompt with a harmful answer"),
        ({"model": testbed.organism("base")}, "--chat-template"),
    ):
        assert safedepth(*words(testbed, tmp_path / "out", **changed)) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
        assert not (tmp_path / "out").exists()
