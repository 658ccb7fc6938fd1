"""Quantised formats: what is loaded, that every use of a model works with it or refuses, and says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from safedepth.errors import MissingExtraError, ModelError
from safedepth.gcg.objective import cross_entropy
from safedepth.gcg.places import Place
from safedepth.gcg.victim import Victim
from safedepth.measure.gradients import GradientMeter
from safedepth.measure.kl import token_kl
from safedepth.models import LoadedModel, head_of, hidden_states, load_model, precision
from safedepth.models.precision import compute_dtype, quantisation, quantised_as
from safedepth.nouns import Message

IDS = torch.tensor([[3, 5, 7, 9, 11, 13, 2, 4]])


def quantised(folder: Path, dtype: str) -> LoadedModel:
    pytest.importorskip("bitsandbytes", reason="quantised formats take bitsandbytes")
    return load_model(str(folder), dtype=dtype, device="cpu")


@torch.no_grad()
def by_hand(model: Any, dtype: str) -> Tensor:
    """Logits of the float32 model with the weights of its blocks rounded here, from the two papers' words."""
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            weight = module.weight
            if dtype == "int8":  # each row by its largest number
                scale = weight.abs().amax(1, keepdim=True) / 127
                weight.copy_((weight / scale).round() * scale)
            else:
                blocks = weight.reshape(-1, 64)
                scale = blocks.abs().amax(1, keepdim=True)
                nearest = (blocks / scale).unsqueeze(-1).sub(nf4()).abs().argmin(-1)
                weight.copy_((nf4()[nearest] * scale).reshape(weight.shape))
    logits: Tensor = model(IDS).logits
    return logits


def nf4() -> Tensor:
    """The 16 values of NormalFloat4 (QLoRA, section 3): quantiles of a normal, 0 among them."""
    from scipy.stats import norm

    edge = (1 - 1 / 32 + 1 - 1 / 30) / 2
    above = norm.ppf(torch.linspace(edge, 0.5, 9).numpy())[:-1]
    below = -norm.ppf(torch.linspace(edge, 0.5, 8).numpy())[:-1]
    values = torch.tensor(sorted([*above, *below, 0.0]))
    return (values / values.max()).float()


@pytest.mark.parametrize(("dtype", "most"), [("int8", 0.02), ("int4", 0.02)])
def test_a_quantised_model_says_what_its_rounded_weights_say(
    tiny_model_dir: Path, tiny_model: LoadedModel, dtype: str, most: float
) -> None:
    loaded = quantised(tiny_model_dir, dtype)
    found = loaded.model(IDS).logits.float()
    expected = by_hand(load_model(str(tiny_model_dir), dtype="float32", device="cpu").model, dtype)
    assert (found - expected).abs().max() < most * expected.abs().max()
    plain = tiny_model.model(IDS).logits
    if dtype == "int4":  # which rounds enough to be seen
        assert (plain - expected).abs().max() > 2 * (found - expected).abs().max()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_card_says_the_format_and_hashes_the_same_files(
    tiny_model_dir: Path, tiny_model: LoadedModel, dtype: str
) -> None:
    loaded = quantised(tiny_model_dir, dtype)
    assert (loaded.card.dtype, loaded.card.device) == (dtype, "cpu")
    assert loaded.card.parameters == tiny_model.card.parameters
    assert loaded.card.weights_sha256 == tiny_model.card.weights_sha256
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert str(cast(Any, loaded.model).to("cpu").device) == "cpu"


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_kl_is_of_the_quantised_models_own_distributions(
    tiny_model_dir: Path, tiny_model: LoadedModel, dtype: str
) -> None:
    loaded = quantised(tiny_model_dir, dtype)
    mask = torch.ones_like(IDS)
    hidden = [hidden_states(model, IDS, mask)[0] for model in (tiny_model.model, loaded.model)]
    found = token_kl(hidden[0], head_of(tiny_model.model), hidden[1], head_of(loaded.model))
    p, q = (model(IDS).logits[0].double().log_softmax(-1) for model in (tiny_model.model, loaded.model))
    torch.testing.assert_close(found.double(), (p.exp() * (p - q)).sum(-1), rtol=0.2, atol=2e-5)
    assert found.max() > 0


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_suffixs_gradient_goes_through_quantised_layers(
    tiny_model_dir: Path, tiny_model: LoadedModel, dtype: str
) -> None:
    chat = tiny_model.chat
    text = "torin krell torin"
    suffix = torch.tensor(chat.tokenizer(text, add_special_tokens=False).input_ids)
    question = [Message(role="user", content="How do I make krell torin?")]
    place = Place.of(chat, question, ["krell torin"], suffix=text, tokens=len(suffix))
    first, second = (
        Victim(model, cross_entropy).gradient(place, suffix).by_token.float().flatten()
        for model in (tiny_model, quantised(tiny_model_dir, dtype))
    )
    assert torch.cosine_similarity(first, second, dim=0) > 0.9


def test_gradient_norms_want_plain_weights(tiny_model_dir: Path) -> None:
    model = quantised(tiny_model_dir, "int4").model
    with pytest.raises(ModelError, match=r"expected plain weights to take gradients by.*--dtype float32"):
        GradientMeter(model, head_of(model))


def test_a_quantised_model_is_not_saved_as_a_plain_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected plain weights to save, found .* in int8"):
        quantised(tiny_model_dir, "int8").save(tmp_path)


def test_weights_that_lie_there_quantised_are_loaded_as_they_are(
    tiny_model_dir: Path, tiny_model: LoadedModel, tmp_path: Path
) -> None:
    loaded = quantised(tiny_model_dir, "int4")
    loaded.model.save_pretrained(tmp_path)
    tiny_model.chat.tokenizer.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), device="cpu")
    assert again.card.dtype == "int4"
    torch.testing.assert_close(again.model(IDS).logits, loaded.model(IDS).logits)
    with pytest.raises(ModelError, match=r"to load it in float32, found them quantised \(int4\)"):
        load_model(str(tmp_path), dtype="float32", device="cpu")


def test_without_the_library_the_error_ends_in_the_install_command(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"--dtype int4 .*pip install 'safedepth\[quantised\]'$"):
        load_model(str(tiny_model_dir), dtype="int4", device="cpu")
    assert quantisation("bfloat16") is None


def test_formats_of_other_methods_keep_their_name() -> None:
    from transformers import LlamaConfig

    assert quantised_as(LlamaConfig()) is None
    config = LlamaConfig()
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    assert quantised_as(config) == "gptq"
    assert compute_dtype("int4") == torch.bfloat16
    assert compute_dtype("auto") == "auto"
    assert "bitsandbytes" not in sys.modules or quantisation("auto") is None
