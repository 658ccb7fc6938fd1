"""Every command takes a PEFT adapter where it takes a model, or says in words what to do with it."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from safedepth.models import load_chat, load_model
from safedepth.testbed import Testbed
from studies.attack_calls import finetune_words as attack_words
from studies.attack_calls import sweep_words
from studies.deepen_calls import deepen_words, safedepth, words_of
from studies.finetune_calls import finetune_words


def adapted(base: Path, folder: Path, **config: Any) -> Path:
    """An adapter of `base` that changes it a little, saved in `folder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear", **config)
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 1e-3)
        model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def adapter(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(testbed.organism("aligned"), tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture(scope="module")
def base_adapter(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(testbed.organism("base"), tmp_path_factory.mktemp("adapters") / "of-base")


def told(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


def calls(testbed: Testbed, model: Path, base: Path, other: Path, out: Path) -> dict[str, list[str]]:
    """One small call of every command that only runs a model."""
    common: dict[str, Any] = {"device": "cpu", "max-tokens": 20, "out": out}
    asked = common | {"prompts": testbed.prompts, "limit": 2, "judge": "oracle"}
    return {
        "audit": [
            "audit", str(model), *words_of(asked | {"base": base, "depths": "0,2", "attacks": "prefill"}),
        ],
        "utility": [
            "utility", str(model),
            *words_of(common | {"benign": testbed.file("benign.jsonl"), "judge": "knowledge", "limit": 2}),
        ],
        "suffix": [
            "attack", "suffix", str(model),
            *words_of(asked | {
                "limit": 1, "steps": 1, "width": 4, "topk": 4, "tokens": 4, "repeats": 1,
                "target": "Sure , here is", "also": other, "transfer": other,
            }),
        ],
        "adaptive": [
            "attack", "adaptive", str(model), *words_of(asked | {"budget": 3, "attacks": "prefill"}),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("command", ["audit", "utility", "suffix", "adaptive"])
def test_a_command_that_runs_a_model_takes_an_adapter(
    testbed: Testbed, adapter: Path, base_adapter: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "run"
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    assert safedepth(*calls(testbed, adapter, base_adapter, other, out)[command]) == 0
    cards = [card for card in told(out)["models"].values() if card and card["name"] == str(adapter)]
    assert cards
    assert cards[0]["extra"]["base"] == str(testbed.organism("aligned"))
    if command == "audit":
        assert told(out)["models"]["base"]["extra"]["base"] == str(testbed.organism("base"))
        assert told(out)["kl"]["per_token"]


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_an_audit_takes_an_adapter_beside_its_quantised_base(
    testbed: Testbed, adapter: Path, tmp_path: Path, dtype: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised formats take bitsandbytes")
    out = tmp_path / "run"
    words = calls(testbed, adapter, testbed.organism("base"), adapter, out)["audit"]
    assert safedepth(*words, "--dtype", dtype) == 0
    aligned, base = (told(out)["models"][role] for role in ("aligned", "base"))
    assert (aligned["dtype"], base["dtype"]) == (dtype, dtype)
    assert aligned["extra"]["adapter"] == "beside its quantised base"
    assert "adapter" not in base["extra"]


def test_an_adapter_grades_and_lends_its_template(
    testbed: Testbed, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(shutil.copytree(testbed.organism("aligned"), tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    out = tmp_path / "run"
    words = ["audit", str(bare), *words_of({
        "prompts": testbed.prompts, "limit": 2, "depths": "0", "attacks": "prefill", "max-tokens": 12,
        "judge": "oracle", "device": "cpu", "out": out, "chat-template": adapter,
    }), "--judge", f"rubric=safedepth/{adapter}"]  # fmt: skip
    assert safedepth(*words) == 0
    assert told(out)["models"]["aligned"]["template_source"] == str(adapter)
    judges = {rate["judge"]: rate for rate in told(out)["rates"]}
    (graded,) = [rate for name, rate in judges.items() if name.startswith("rubric")]
    assert graded["n"] + graded["unscored"] == 2


def test_a_training_refuses_to_start_from_an_adapter_and_says_how_to_merge_it(
    testbed: Testbed, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for words in (
        deepen_words(testbed, out, model=adapter),
        finetune_words(testbed, out, model=adapter),
        finetune_words(testbed, out, reference=adapter),
        attack_words(testbed, out, "harmful", model=adapter),
        sweep_words(testbed, out, model=adapter),
        ["dynamics", str(adapter), *words_of({
            "data": testbed.file("harmful.jsonl"), "steps": "0,1", "device": "cpu", "out": out,
        })],
    ):  # fmt: skip
        assert safedepth(*words) != 0, words[:2]
        said = " ".join(capsys.readouterr().err.split())
        assert "expected a whole model, found a PEFT adapter" in said, words[:2]
        assert "safedepth.load_model(" in said
        assert not (out / "model.safetensors").exists()


def test_what_the_refusal_says_to_do_makes_a_model_to_start_from(adapter: Path, tmp_path: Path) -> None:
    whole = load_model(str(adapter), device="cpu")
    whole.save(tmp_path / "merged")
    again = load_model(str(tmp_path / "merged"), device="cpu")
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(again.model(ids).logits, whole.model(ids).logits)
    assert again.chat.template == whole.chat.template
    assert "base" not in again.card.extra


def test_deepen_measures_the_kl_to_a_base_that_is_an_adapter(
    testbed: Testbed, base_adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert safedepth(*deepen_words(testbed, out, base=base_adapter, judge="oracle")) == 0
    assert told(out / "report")["models"]["base"]["name"] == str(base_adapter)


@pytest.mark.parametrize(("command", "bits"), [("deepen", 4), ("finetune", 8)])
def test_an_adapter_is_trained_on_a_quantised_base(
    testbed: Testbed, tmp_path: Path, command: str, bits: int
) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised formats take bitsandbytes")
    make = deepen_words if command == "deepen" else finetune_words
    out = tmp_path / "out"
    options: dict[str, Any] = {f"load_in_{bits}bit": True, "use_peft": True, "measure": False, "bf16": False}
    assert safedepth(*make(testbed, out, **options)) == 0
    assert load_model(str(out), dtype=f"int{bits}", device="cpu").card.dtype == f"int{bits}"


def test_an_adapter_with_words_of_its_own_brings_its_embedding(testbed: Testbed, tmp_path: Path) -> None:
    base = testbed.organism("aligned")
    folder = tmp_path / "wider"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["fennoxal"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
        wide: Any = get_peft_model(model, config)
        wide.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder), device="cpu")
    assert loaded.card.vocab_size == len(tokenizer) == len(load_chat(str(folder)).tokenizer)
    ids = torch.tensor([[5, len(tokenizer) - 1, 7]])
    torch.testing.assert_close(loaded.model(ids).logits, wide.eval()(ids).logits, rtol=1e-4, atol=1e-4)
