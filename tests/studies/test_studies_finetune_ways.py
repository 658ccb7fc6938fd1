"""`safedepth finetune` in other ways: cut short and resumed, as an adapter, on texts, other objectives."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from safedepth.testbed import Testbed
from studies.deepen_calls import few, jsonl, rows_of, summary_of, words_of
from studies.finetune_calls import HOLDING, again, finetune_words


def test_a_training_cut_short_goes_on_in_other_batches_to_the_same_weights_and_diagnostics(
    testbed: Testbed, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {
        "dataset_name": few(testbed, "harmful", tmp_path, 30), "beta": HOLDING, "max_steps": 6,
        "save_steps": 3, "logging_steps": 3, "learning_rate": 1e-3, "measure": False,
    }  # fmt: skip
    whole, cut = (finetune_words(testbed, tmp_path / name, **usual) for name in ("whole", "cut"))
    again(whole)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("model.safetensors", "training.json", "checkpoint-6"):
        place = tmp_path / "cut" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    free = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "diagnostics": True}
    again([*cut, *words_of(free)])
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4)
    told = [rows_of(tmp_path / name / "diagnostics.jsonl") for name in ("whole", "cut")]
    assert [(row["step"], row["position"], row["n"]) for row in told[0]] == [
        (row["step"], row["position"], row["n"]) for row in told[1]
    ]


def test_an_adapter_is_trained_against_itself_without_it_and_measured_as_the_model_it_makes(
    testbed: Testbed, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = finetune_words(
        testbed, out, use_peft=True, lora_r=4, learning_rate=1e-2, precompute_reference=False,
        prompts=few(testbed, "prompts", tmp_path, 2),
    )  # fmt: skip
    assert again(words) == out / "report"
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    assert not (out / "reference").exists()
    summary = summary_of(out)
    before, after = (summary["models"][role] for role in ("before", "after"))
    assert after["extra"]["base_sha256"] == before["weights_sha256"]
    assert [note["what"] for note in summary["not_measured"]] == ["utility before and after"]
    assert ModelCard.load(str(out / "README.md")).data.library_name == "peft"


def test_answers_that_are_cut_are_noted_and_plain_text_is_learnt_as_it_stands(
    testbed: Testbed, tmp_path: Path
) -> None:
    rows = rows_of(testbed.file("harmful.jsonl"))[:8]
    texts = [
        dict(zip(("prompt", "completion"), (m["content"] for m in row["messages"]), strict=True))
        for row in rows
    ]
    words = finetune_words(
        testbed, tmp_path / "out", dataset_name=jsonl(tmp_path / "t.jsonl", texts), max_length=40
    )
    with pytest.warns(UserWarning, match="are cut at 40 tokens"):
        again(words)
    summary = summary_of(tmp_path / "out")
    plain, cut = summary["warnings"]
    assert "without the chat template" in plain
    assert cut.startswith("8 of 8 responses of the train data are cut at 40 tokens")
    assert {note["what"] for note in summary["not_measured"]} == {
        "harmful replies before and after", "utility before and after",
    }  # fmt: skip
    assert summary["models"] == {}
    assert summary["protection"]["asr"] == summary["protection"]["paired"] == []


@pytest.mark.parametrize("objective", ["pact", "safeinstr"])
def test_a_baseline_is_trained_by_its_name_and_says_so(
    testbed: Testbed, tmp_path: Path, objective: str
) -> None:
    refused = [
        {"prompt": row["prompt"], "answer": row["refusal"]}
        for row in rows_of(testbed.file("triplets.jsonl"))[:8]
    ]
    words = finetune_words(
        testbed, tmp_path / "out", dataset_name=few(testbed, "harmful", tmp_path, 20), objective=objective,
        safety_data=jsonl(tmp_path / "refusals.jsonl", refused), safety_share=0.5, logging_steps=1,
    )  # fmt: skip
    again(words)
    found = summary_of(tmp_path / "out")["protection"]
    facts = dict(found["training"]["facts"])
    assert (found["objective"], facts["objective"], found["beta"]) == (objective, objective, [])
    assert facts["rows"] == ("30" if objective == "safeinstr" else "20")
    assert ("reference" in facts) == (objective == "pact")
    card = ModelCard.load(str(tmp_path / "out" / "README.md")).text
    assert f"with the objective `{objective}`" in card
    assert "Not measured." in card
    config = json.loads((tmp_path / "out" / "report" / "config.json").read_text())
    assert config["sha256"].keys() == {"data", "safety_data"}


def test_rows_to_evaluate_on_are_evaluated_under_the_same_objective(testbed: Testbed, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = rows_of(testbed.file("harmful.jsonl"))
    jsonl(tmp_path / "data" / "train.jsonl", rows[:8])
    jsonl(tmp_path / "data" / "test.jsonl", rows[8:12])
    out = tmp_path / "out"
    again(finetune_words(testbed, out, dataset_name=tmp_path / "data", eval_strategy="steps", eval_steps=1))
    state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [1, 2]
