"""An adapter merged into its base, checked against PEFT's own forward pass.

After it there is an ordinary model and nothing downstream knows of adapters. A base whose
weights are quantised keeps the changes beside them: merged, they would be rounded to 16 values.
It refuses to know where adapters lie.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from safedepth.errors import ModelError
from safedepth.models.adapters import Adapter
from safedepth.models.checkpoint import ADAPTER_CONFIG, UNLOADABLE, first_line
from safedepth.models.precision import quantised_as

__all__ = ["merge_adapter"]

BESIDE = ("LORA",)
"""PEFT types that can stand beside quantised weights and say the same there."""

_PROBE_TOKENS = 8


@torch.no_grad()
def merge_adapter(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """`model`, the adapter's base, with the adapter merged into it; `model` itself is used up.

    Beside quantised weights the adapter's own are kept, in layers of PEFT's; the rest is merged.
    Raises ModelError where the adapter does not fit that base, or where merging would change what
    the adapted model says.
    """
    from peft import PeftConfig, PeftModel

    quantised = quantised_as(model.config)
    try:
        config = PeftConfig.from_pretrained(str(adapter.folder))
        if quantised is not None:
            _require_beside(adapter, config, quantised)
        _resize(model, adapter)
        config.inference_mode = True
        # The two steps of PeftModel.from_pretrained, which does not tell what was left over.
        with warnings.catch_warnings():
            # PEFT 0.21 still uses the first name; what the second warns of is seen to below.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
            adapted = PeftModel(model, config)
        found = adapted.load_adapter(str(adapter.folder), "default", torch_device=str(model.device))
        _require_all(adapter, missing=found.missing_keys, unexpected=found.unexpected_keys)
        _untie(model)
        expected = _logits(adapted)
        merged = _merged(adapted) if quantised is None else _merged_where_plain(adapted)
    except UNLOADABLE as error:
        raise ModelError(
            f"expected an adapter of {adapter.base.name} in {adapter.name}, found one that cannot be applied "
            f"to it: {first_line(error)}. It belongs to another base (or to this one before its embedding "
            f"was resized), or is damaged: correct base_model_name_or_path in {ADAPTER_CONFIG}, or save it "
            "again"
        ) from error
    # In 16 bits every merged weight is rounded; in 32 bits only the order of summation differs. LLM.int8
    # rounds hidden states to 8 bits, where a small difference may become a step.
    relative = 5e-2 if quantised else 1e-4 if model.dtype == torch.float32 else 2e-2
    tolerance = relative * expected.abs().max()
    gap = (_logits(merged) - expected).abs().max()
    if not gap <= tolerance:
        raise ModelError(
            f"expected {adapter.name} to say the same once merged into {adapter.base.name}, found logits "
            f"that differ by {float(gap):.3g}. This adapter cannot be merged; with a base in 16 bits or "
            "quantised, try one in float32 (--dtype float32)"
        )
    return merged


def _require_all(adapter: Adapter, *, missing: list[str], unexpected: list[str]) -> None:
    """PEFT would go on with random numbers for what is missing, and without what it has no place for."""
    with safe_open(adapter.weights, framework="pt") as tensors:
        brought = set(tensors.keys())
    # PEFT 0.21 writes a module that it saves twice where tokens were added to it.
    left = [key for key in unexpected if key.replace(".modules_to_save", "") not in brought - {key}]
    if missing or left:
        named = ", ".join([*missing, *left][:3])
        raise ValueError(f"{len(missing)} weights missing, {len(left)} without a place ({named})")


def _resize(model: PreTrainedModel, adapter: Adapter) -> None:
    """Give the base as many rows as the adapter brings for its embedding, where tokens were added to it."""
    embedding = cast(Any, model).get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    with safe_open(adapter.weights, framework="pt") as tensors:
        brought = [key for key in tensors.keys() if key.endswith(f"{name}.weight")]  # noqa: SIM118 - no mapping
        rows = {int(tensors.get_slice(key).get_shape()[0]) for key in brought}
    if rows and rows != {int(embedding.weight.shape[0])}:
        model.resize_token_embeddings(max(rows), mean_resizing=False)


def _require_beside(adapter: Adapter, config: Any, quantised: str) -> None:
    """Raise ModelError for an adapter that PEFT cannot keep beside quantised weights."""
    start = str(getattr(config, "init_lora_weights", True)).lower()
    changed = start.startswith(("pissa", "olora", "corda"))  # it counts on a base that it changed first
    dora = quantised == "int8" and getattr(config, "use_dora", False)  # PEFT 0.21 loses the scales of rows
    if config.peft_type in BESIDE and not changed and not dora:
        return
    what = "DoRA" if dora else f"{start} weights" if changed else config.peft_type
    raise ModelError(
        f"expected an adapter that can stand beside a base in {quantised}, as plain LoRA can, found {what} "
        f"in {adapter.name}. Load it without --dtype {quantised}"
    )


def _merged(adapted: Any) -> PreTrainedModel:
    return cast(PreTrainedModel, adapted.merge_and_unload(safe_merge=True))


def _merged_where_plain(adapted: Any) -> PreTrainedModel:
    """The model inside, its changes merged except into quantised weights, where PEFT's layers stay."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    model: Any = adapted.get_base_model()
    done: list[str] = []
    for name, module in list(model.named_modules()):
        layer: Any = module
        if any(name.startswith(f"{other}.") for other in done):
            continue
        if isinstance(module, AuxiliaryTrainingWrapper):
            whole = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        elif isinstance(module, BaseTunerLayer) and layer.get_base_layer().weight.is_floating_point():
            layer.merge(safe_merge=True)
            whole = layer.get_base_layer()
        else:
            continue
        model.set_submodule(name, whole)
        done.append(name)
    return cast(PreTrainedModel, model)


def _untie(model: PreTrainedModel) -> None:
    """Give the output its own matrix, lest a change of one end, merged, change the other as well."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    config = model.config.get_text_config()
    into, out = cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings()
    adapted = any(isinstance(end, BaseTunerLayer | AuxiliaryTrainingWrapper) for end in (into, out))
    if not adapted or not config.tie_word_embeddings:
        return
    if not isinstance(out, AuxiliaryTrainingWrapper):
        layer = cast(Any, out).get_base_layer() if isinstance(out, BaseTunerLayer) else out
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    config.tie_word_embeddings = False


def _logits(model: Any) -> Tensor:
    """Logits of a short random input."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(rows, (1, _PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
    return cast(Tensor, model(input_ids=ids.to(model.device), use_cache=False).logits).float()
