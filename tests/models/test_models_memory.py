"""Memory: what is computed before loading is what loading takes, and what does not fit is never loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from safedepth.errors import ModelError
from safedepth.models import load_model, loading, memory
from safedepth.models.devices import CGROUP, free_memory, said_bytes
from safedepth.models.memory import MemoryNeed, need_of, require_memory, training_need_of

SHAPE: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3,
    "intermediate_size": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def llama(**other: Any) -> PreTrainedModel:
    config = transformers.LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=False, **other)
    return transformers.LlamaForCausalLM(config)


def tied_qwen() -> PreTrainedModel:
    config = transformers.Qwen2Config(**SHAPE, num_key_value_heads=1, tie_word_embeddings=True)
    return transformers.Qwen2ForCausalLM(config)


def gemma2() -> PreTrainedModel:
    config = transformers.Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=32, sliding_window=512)
    return transformers.Gemma2ForCausalLM(config)


def gpt2() -> PreTrainedModel:
    config = transformers.GPT2Config(vocab_size=96, n_embd=64, n_head=4, n_layer=3, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def mixtral() -> PreTrainedModel:
    config = transformers.MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=2)
    return transformers.MixtralForCausalLM(config)


def really_taken(model: torch.nn.Module) -> int:
    """Bytes of all parameters in memory, each once, with what bitsandbytes keeps of scales."""
    found = {}
    for parameter in model.parameters():
        for tensor in (parameter, getattr(parameter, "SCB", None)):
            if isinstance(tensor, torch.Tensor):
                found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        if (state := getattr(parameter, "quant_state", None)) is not None:
            found[state.absmax.data_ptr()] = state.absmax.numel() * state.absmax.element_size()
    return sum(found.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("make", [llama, tied_qwen, gemma2, gpt2, mixtral])
def test_weights_and_cache_are_those_of_the_loaded_model(
    make: Callable[[], PreTrainedModel], dtype: str, tmp_path: Path
) -> None:
    if dtype.startswith("int"):
        pytest.importorskip("bitsandbytes", reason="quantised formats take bitsandbytes")
    make().save_pretrained(tmp_path)
    need = need_of(str(tmp_path), dtype=dtype, device="cpu", rows=2, tokens=5)
    model = loaded_as(tmp_path, dtype)
    assert need.weights == really_taken(model)
    cache = DynamicCache()
    cast(Any, model)(input_ids=torch.ones(2, 5, dtype=torch.long), cache=cache, use_cache=True)
    kept: list[Any] = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]  # type: ignore[union-attr]
    assert need.cache == sum(int(tensor.numel() * tensor.element_size()) for tensor in kept)
    assert need.total == need.weights + need.cache + need.working


@torch.no_grad()
def loaded_as(folder: Path, dtype: str) -> PreTrainedModel:
    from safedepth.models.precision import compute_dtype, quantisation

    quantised = quantisation(dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=compute_dtype(dtype),
        device_map={"": "cpu"},
        **({} if quantised is None else {"quantization_config": quantised}),
    )
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def test_auto_is_the_dtype_of_the_configuration_or_else_of_the_weights(tmp_path: Path) -> None:
    cast(Any, llama()).to(torch.bfloat16).save_pretrained(tmp_path)
    assert need_of(str(tmp_path)).dtype == "bfloat16"
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert need_of(str(tmp_path)).dtype == "bfloat16"
    assert need_of(str(tmp_path)).weights == need_of(str(tmp_path), dtype="float16").weights


def test_no_weights_are_needed_to_know_what_they_take(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    assert need_of(str(tmp_path)).weights == need_of(str(tiny_model_dir)).weights > 0


def test_an_adapter_takes_its_base_and_itself(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(str(tmp_path))
    own = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert need_of(str(tmp_path)).weights == need_of(str(tiny_model_dir)).weights + own


def test_what_is_no_model_has_no_need(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="expected a Hugging Face model"):
        need_of(str(tmp_path))
    with pytest.raises(ModelError, match="found 'int2'"):
        need_of(str(tiny_model_dir), dtype="int2")


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("it was loaded")

    need = need_of(str(tiny_model_dir), dtype="float32", device="cpu")
    monkeypatch.setattr(loading, "_model", loaded)
    monkeypatch.setattr(memory, "free_memory", lambda _: need.total - 1)
    with pytest.raises(ModelError, match=r"that fits cpu, but .* takes 3 MB .*with --dtype bfloat16"):
        load_model(str(tiny_model_dir), dtype="float32", device="cpu")
    half = need_of(str(tiny_model_dir), dtype="bfloat16", device="cpu")
    monkeypatch.setattr(memory, "free_memory", lambda _: half.total - 1)
    with pytest.raises(ModelError, match="would fit with --dtype int8"):
        load_model(str(tiny_model_dir), dtype="float32", device="cpu")
    monkeypatch.setattr(memory, "free_memory", lambda _: 1000)
    with pytest.raises(ModelError, match="Use a machine with more memory"):
        load_model(str(tiny_model_dir), dtype="int4", device="cpu")


@pytest.mark.parametrize(("free", "count"), [(0.6, 2), (0.4, 4), (0.13, 16)])
def test_on_a_gpu_it_says_how_many_would_do(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, free: float, count: int
) -> None:
    gpu = torch.device("cuda:0")
    total = need_of(str(tiny_model_dir), dtype="int4", device="cpu").total
    monkeypatch.setattr(memory, "free_memory", lambda _: int(free * total))
    with pytest.raises(ModelError, match=rf"takes {count} such devices.*--tensor-parallel-size {count}\)"):
        require_memory("it", tiny_model_dir, None, dtype="int4", device=gpu)


def test_where_the_free_memory_is_not_known_nothing_is_refused() -> None:
    need = MemoryNeed("m", "float32", "mps", weights=10**12, cache=0, working=0, free=None)
    assert need.fits
    assert "1000.0 GB of weights" in need.sentence
    assert "an unknown amount is free on mps" in need.sentence
    assert free_memory(torch.device("meta")) is None


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safedepth.models import devices

    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    unlimited = free_memory(torch.device("cpu"))
    for name, text in (("max", "5000\n"), ("current", "4000\n"), ("stat", "anon 1\ninactive_file 700\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_memory(torch.device("cpu")) == 1700
    (tmp_path / "memory.max").write_text("max\n")
    assert unlimited is not None
    assert (free_memory(torch.device("cpu")) or 0) > 10**6
    assert str(CGROUP) == "/sys/fs/cgroup"


def test_training_takes_sixteen_bytes_a_parameter_in_float32_and_eight_in_sixteen_bits(
    tiny_model_dir: Path,
) -> None:
    count = need_of(str(tiny_model_dir), dtype="float32").weights // 4
    full = training_need_of(str(tiny_model_dir))
    assert full.total - full.activations == 16 * count
    assert full.trained == count
    half = training_need_of(str(tiny_model_dir), dtype="bfloat16")
    assert half.total - half.activations == 8 * count
    held = training_need_of(str(tiny_model_dir), reference=True)
    assert held.total - full.total == 4 * count
    shared = training_need_of(str(tiny_model_dir), processes=8)
    assert shared.total - shared.activations == pytest.approx(2 * count, abs=8)
    assert shared.activations == full.activations
    kept = training_need_of(str(tiny_model_dir), checkpointing=False)
    assert kept.activations > full.activations


def test_an_adapter_trains_what_peft_makes_and_needs_no_second_model(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    trained, _ = adapted.get_nb_trainable_parameters()
    need = training_need_of(str(tiny_model_dir), dtype="int4", lora_rank=4, reference=True)
    assert (need.trained, need.reference) == (trained, 0)
    assert need.weights == need_of(str(tiny_model_dir), dtype="int4").weights + 4 * trained
    assert need.gradients == 4 * trained
    assert need.optimiser == 8 * trained
    with pytest.raises(ModelError, match="in 16 or 32 bits to train all of them, found int4"):
        training_need_of(str(tiny_model_dir), dtype="int4")


def test_bytes_are_said_in_powers_of_ten() -> None:
    assert [said_bytes(n) for n in (1, 10**6, 1_500_001, 16_060_000_000)] == [
        "1 MB",
        "1 MB",
        "2 MB",
        "16.1 GB",
    ]
