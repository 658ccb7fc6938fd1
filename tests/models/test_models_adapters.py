"""Adapters: merged they say what PEFT says, and every way in which one cannot be merged is an error."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, PromptTuningConfig
from peft import get_peft_model as adapted_by
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from safedepth.errors import ModelError
from safedepth.models import LoadedModel, checkpoint, load_chat, load_model
from tokenizer_zoo import TEMPLATES, word_tokenizer

IDS = torch.tensor([[3, 5, 7, 9, 11, 13, 2, 4]])
WEIGHTS = "adapter_model.safetensors"
ATTENTION = ["q_proj", "v_proj"]


def make_adapter(base: Path, folder: Path, config: Any, *, size: float = 0.2) -> Path:
    """An adapter with random weights, so that none is without effect, saved in `folder`."""
    with warnings.catch_warnings():  # of names that transformers deprecates, and of what is saved besides
        warnings.simplefilter("ignore")
        model = adapted_by(AutoModelForCausalLM.from_pretrained(base), config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)
        model.save_pretrained(str(folder))
    return folder


@torch.no_grad()
def logits_by_peft(base: Path, folder: Path) -> Tensor:
    """The oracle: PEFT's own forward pass, base and adapter apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    logits: Tensor = model(IDS).logits
    return logits


@torch.no_grad()
def logits_of(loaded: LoadedModel) -> Tensor:
    logits: Tensor = loaded.model(IDS.to(loaded.model.device)).logits
    return logits


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """LoRA on the attention of the tiny model. Its configuration names the base by its absolute path."""
    return make_adapter(
        tiny_model_dir, tmp_path / "adapter", LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION)
    )


def change_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


CONFIGS = {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION),
    "dora": LoraConfig(r=4, use_dora=True, target_modules="all-linear"),
    "pissa": LoraConfig(r=4, init_lora_weights="pissa", target_modules=ATTENTION),
    "modules to save": LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["lm_head", "embed_tokens"]),
    "embedding": LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"]),
    "some tokens": LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices=[3, 5]),
    "loha": LoHaConfig(r=4, target_modules=ATTENTION),
    "lokr": LoKrConfig(r=4, target_modules=ATTENTION),
    "oft": OFTConfig(r=0, oft_block_size=8, target_modules=ATTENTION),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_loaded_adapter_says_what_peft_says_and_is_an_ordinary_model(
    tiny_model: LoadedModel, tiny_model_dir: Path, tmp_path: Path, kind: str
) -> None:
    folder = make_adapter(tiny_model_dir, tmp_path / "adapter", CONFIGS[kind])
    loaded = load_model(str(folder), device="cpu")
    expected = logits_by_peft(tiny_model_dir, folder)
    torch.testing.assert_close(logits_of(loaded), expected, rtol=1e-5, atol=1e-5)
    assert (logits_of(tiny_model) - expected).abs().max() > 1e-2  # the adapter has an effect
    assert type(loaded.model) is LlamaForCausalLM
    assert [name for name, _ in loaded.model.named_parameters()] == [
        name for name, _ in tiny_model.model.named_parameters()
    ]
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["lm_head"]),
        LoraConfig(r=4, target_modules=["embed_tokens"]),
        LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["lm_head"]),
    ],
    ids=["output", "input", "output saved"],
)
def test_one_end_of_tied_embeddings_changes_alone(
    tiny_model_dir: Path, tmp_path: Path, config: LoraConfig
) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "tied"))
    tensors = load_file(base / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config_file = base / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"tie_word_embeddings": True}))
    folder = make_adapter(base, tmp_path / "adapter", config)
    loaded = load_model(str(folder), device="cpu")
    torch.testing.assert_close(logits_of(loaded), logits_by_peft(base, folder), rtol=1e-5, atol=1e-5)
    assert not loaded.model.config.tie_word_embeddings


def test_the_card_says_what_was_merged(adapter: Path, tiny_model_dir: Path) -> None:
    card = load_model(str(adapter), device="cpu").card
    base, weights, config = (
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (
            tiny_model_dir / "model.safetensors", adapter / WEIGHTS, adapter / "adapter_config.json"
        )
    )  # fmt: skip
    assert (card.name, card.revision) == (str(adapter), None)
    assert card.extra == {
        "architecture": "LlamaForCausalLM",
        "weights_hashed": "whole",
        "adapter_sha256": weights,
        "base": str(tiny_model_dir),
        "base_revision": None,
        "base_sha256": base,
    }
    listing = f"{base}  model.safetensors\n{weights}  {WEIGHTS}\n{config}  adapter_config.json\n"
    assert card.weights_sha256 == hashlib.sha256(listing.encode()).hexdigest()


def test_two_scales_of_one_adapter_are_two_models(adapter: Path) -> None:
    one = load_model(str(adapter), device="cpu")
    change_config(adapter, lora_alpha=16)
    other = load_model(str(adapter), device="cpu")
    assert one.card.extra == other.card.extra
    assert one.card.weights_sha256 != other.card.weights_sha256
    assert (logits_of(one) - logits_of(other)).abs().max() > 1e-2


def test_in_sixteen_bits_the_merged_model_has_the_dtype_asked_for(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["lm_head"])
    folder = make_adapter(tiny_model_dir, tmp_path / "adapter", config, size=0.05)
    loaded = load_model(str(folder), dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    expected = logits_by_peft(tiny_model_dir, folder)
    assert (logits_of(loaded).float() - expected).abs().max() < 2e-2 * expected.abs().max()


def test_the_base_is_found_from_here_and_from_the_adapters_folder(
    adapter: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits_of(load_model(str(adapter), device="cpu"))
    change_config(adapter, base_model_name_or_path=os.path.relpath(tiny_model_dir, adapter))
    torch.testing.assert_close(logits_of(load_model(str(adapter), device="cpu")), expected)
    change_config(adapter, base_model_name_or_path=tiny_model_dir.name)
    monkeypatch.chdir(tiny_model_dir.parent)
    loaded = load_model(str(adapter), device="cpu")
    torch.testing.assert_close(logits_of(loaded), expected)
    assert loaded.card.extra["base"] == tiny_model_dir.name


class Hub:
    """Stands where the hub is: a folder per name, and the revisions asked for."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.asked: list[tuple[str, str | None, bool]] = []

    def __call__(self, name: str, *, allow_patterns: list[str], revision: str | None) -> str:
        weights = any(pattern.endswith(".safetensors") for pattern in allow_patterns)
        self.asked.append((name, revision, weights))
        return str(self.folders[name])


def test_an_adapter_from_the_hub_takes_its_base_at_the_revision_it_names(
    adapter: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits_of(load_model(str(adapter), device="cpu"))
    change_config(adapter, base_model_name_or_path="toy/base", revision="v2")
    hub = Hub({"toy/base": tiny_model_dir, "toy/adapter": adapter})
    monkeypatch.setattr(checkpoint, "snapshot_download", hub)
    loaded = load_model("toy/adapter", device="cpu")
    torch.testing.assert_close(logits_of(loaded), expected)
    # The name of a snapshot's folder is its commit.
    assert (loaded.card.name, loaded.card.revision) == ("toy/adapter", adapter.name)
    assert (loaded.card.extra["base"], loaded.card.extra["base_revision"]) == (
        "toy/base",
        tiny_model_dir.name,
    )
    assert set(hub.asked) == {
        ("toy/adapter", None, False),
        ("toy/adapter", adapter.name, True),
        ("toy/base", "v2", False),
        ("toy/base", tiny_model_dir.name, True),
    }


def test_the_tokenizer_is_the_adapters_own_or_else_its_bases(adapter: Path, tiny_model: LoadedModel) -> None:
    borrowed = load_chat(str(adapter))
    assert borrowed.template == tiny_model.chat.template
    assert borrowed.tokenizer.get_vocab() == tiny_model.chat.tokenizer.get_vocab()
    word_tokenizer(TEMPLATES["plain"]).save_pretrained(adapter)
    assert load_chat(str(adapter)).template == TEMPLATES["plain"]
    assert load_model(str(adapter), device="cpu").chat.template == TEMPLATES["plain"]


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickled_weights(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def truncated_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def infinite_weights(folder: Path) -> None:
    save_file(
        {name: torch.full_like(tensor, torch.inf) for name, tensor in load_file(folder / WEIGHTS).items()},
        folder / WEIGHTS,
    )


def a_weight_less(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, folder / WEIGHTS)


def of_a_deeper_model(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors |= {name.replace("layers.1", "layers.2"): tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS)


def of_a_wider_model(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor.repeat(1, 2) for name, tensor in tensors.items()}, folder / WEIGHTS)


def of_another_family(folder: Path) -> None:
    change_config(folder, target_modules=["c_attn"])


def broken_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{nothing")


def config_that_is_a_list(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


def config_without_a_kind(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')


def no_base_named(folder: Path) -> None:
    change_config(folder, base_model_name_or_path=None)


def base_not_there(folder: Path) -> None:
    change_config(folder, base_model_name_or_path="/no/such/folder")


def base_not_a_model(folder: Path) -> None:
    change_config(folder, base_model_name_or_path=str(folder))


def of_no_sensible_rank(folder: Path) -> None:
    change_config(folder, r=0)


def a_model_as_well(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_weights, rf"expected the weights {WEIGHTS} in .* found .*adapter_config\.json"),
        (pickled_weights, r"found adapter_model\.bin in .* can run code"),
        (truncated_weights, "cannot be applied to it: SafetensorError"),
        (infinite_weights, "cannot be applied to it: ValueError"),
        (a_weight_less, r"1 weights missing, 0 without a place \(.*layers\.1\.self_attn\.q_proj\.lora_B"),
        (of_a_deeper_model, r"0 weights missing, 4 without a place \(.*layers\.2\..*belongs to another base"),
        (of_a_wider_model, r"cannot be applied to it: RuntimeError.*belongs to another base"),
        (of_another_family, r"cannot be applied to it: .*c_attn.*belongs to another base"),
        (broken_config, r"in adapter_config\.json of .* found JSONDecodeError"),
        (config_that_is_a_list, r"in adapter_config\.json of .* found TypeError"),
        (config_without_a_kind, "found KeyError: 'peft_type'"),
        (no_base_named, "found base_model_name_or_path None"),
        (base_not_there, r"base model of the adapter .*: .* no folder '/no/such/folder'.*seen from here or"),
        (base_not_a_model, r"base model of the adapter .*: expected a whole model, found a PEFT adapter"),
        (of_no_sensible_rank, "cannot be applied to it: ValueError"),
        (a_model_as_well, r"found config\.json and adapter_config\.json in"),
    ],
)
def test_a_damaged_adapter_is_an_error_that_says_what_is_wrong(
    adapter: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(adapter)
    with pytest.raises(ModelError, match=message):
        load_model(str(adapter), device="cpu")


@pytest.mark.parametrize("damage", [broken_config, no_base_named, base_not_there])
def test_an_adapter_whose_base_is_not_known_has_no_tokenizer_either(
    adapter: Path, damage: Callable[[Path], None]
) -> None:
    damage(adapter)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        load_chat(str(adapter))


def test_a_base_that_is_not_on_the_hub_is_an_error(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str, **_: object) -> str:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(checkpoint, "snapshot_download", nothing)
    change_config(adapter, base_model_name_or_path="toy/gone")
    with pytest.raises(ModelError, match=r"base model of the adapter .*: .*'toy/gone' here nor such a model"):
        load_model(str(adapter), device="cpu")


def test_an_adapter_that_cannot_be_merged_is_refused_before_it_is_loaded(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    folder = make_adapter(tiny_model_dir, tmp_path / "prompt", config)
    with pytest.raises(ModelError, match=r"out of LORA, .* found 'PROMPT_TUNING'.*that folder"):
        load_model(str(folder), device="cpu")


def test_a_merge_that_changes_what_the_model_says_is_an_error(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(model: Any, **_: object) -> Any:
        return model.base_model.unload()

    monkeypatch.setattr(PeftModel, "merge_and_unload", forgetful, raising=False)
    with pytest.raises(ModelError, match=r"to say the same once merged .* found logits that differ by"):
        load_model(str(adapter), device="cpu")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("lora", "int8"),
        ("lora", "int4"),
        ("dora", "int4"),
        ("modules to save", "int4"),
        ("some tokens", "int8"),
    ],
)
def test_beside_a_quantised_base_an_adapter_says_what_peft_says(
    tiny_model_dir: Path, tmp_path: Path, kind: str, dtype: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised formats take bitsandbytes")
    folder = make_adapter(tiny_model_dir, tmp_path / "adapter", CONFIGS[kind], size=0.1)
    loaded = load_model(str(folder), dtype=dtype, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = load_model(str(tiny_model_dir), dtype=dtype, device="cpu").model
        before = base(IDS).logits
        expected = PeftModel.from_pretrained(base, str(folder)).eval()(IDS).logits.detach()
    found = logits_of(loaded)
    assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()
    assert (before - expected).abs().max() > 5e-2 * expected.abs().max()  # the adapter has an effect
    assert type(loaded.model) is LlamaForCausalLM
    assert (loaded.card.dtype, loaded.card.extra["adapter"]) == (dtype, "beside its quantised base")
    assert type(loaded.model.get_output_embeddings()) is torch.nn.Linear


@pytest.mark.parametrize(("kind", "dtype"), [("dora", "int8"), ("pissa", "int4"), ("loha", "int8")])
def test_an_adapter_that_cannot_stand_beside_a_quantised_base_is_refused(
    tiny_model_dir: Path, tmp_path: Path, kind: str, dtype: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised formats take bitsandbytes")
    folder = make_adapter(tiny_model_dir, tmp_path / "adapter", CONFIGS[kind])
    with pytest.raises(ModelError, match=rf"beside a base in {dtype}.*Load it without --dtype {dtype}"):
        load_model(str(folder), dtype=dtype, device="cpu")


def test_of_several_adapters_in_one_folder_one_is_to_be_named(adapter: Path, tmp_path: Path) -> None:
    for name in ("second", "first"):
        shutil.copytree(adapter, tmp_path / "both" / name)
    with pytest.raises(ModelError, match=r"found adapters in its folders first, second.* Give one of them"):
        load_model(str(tmp_path / "both"), device="cpu")
    assert load_model(str(tmp_path / "both" / "first"), device="cpu").card.extra["base"]
