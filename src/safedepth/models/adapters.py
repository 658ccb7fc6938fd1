"""PEFT adapters: a small folder of changes to a model, merged into the base model it names.

After merging there is an ordinary model and nothing downstream knows of adapters; that it
says what the adapted one said is checked. Safetensors only, as for models. It refuses to
know tokenizers, templates and devices.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safedepth.errors import ModelError
from safedepth.models.checkpoint import (
    ADAPTER_CONFIG,
    CONFIG,
    UNLOADABLE,
    Checkpoint,
    find_checkpoint,
    find_folder,
    first_line,
    hash_weights,
    weights_in,
)

__all__ = ["Adapter", "find_adapter", "merge_adapter", "tokenizer_folder"]

WEIGHTS = "adapter_model.safetensors"

KINDS = ("LORA", "LOHA", "LOKR", "OFT", "IA3")
"""PEFT types that can be merged; LORA includes DoRA, rsLoRA and PiSSA."""

_PROBE_TOKENS = 8


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder and weights, and the checkpoint it changes."""

    name: str
    folder: Path
    weights: Path
    base: Checkpoint

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides what the merged model says: the adapter's scale stands in its config."""
        return (*self.base.weights, self.weights, self.folder / ADAPTER_CONFIG)

    def record(self) -> dict[str, str | None]:
        """What was merged: names, hub commit and hashes."""
        return {
            "adapter_sha256": hash_weights([self.weights])[0],
            "base": self.base.name,
            "base_revision": self.base.revision,
            "base_sha256": hash_weights(self.base.weights)[0],
        }


def find_adapter(name: str, folder: Path, revision: str | None) -> Adapter | None:
    """The adapter in the folder that `find_folder` gave for `name`; None where it holds something else.

    The base is a folder, seen from here or from the adapter's folder, or else a hub id at
    the revision that the adapter names. Raises ModelError where configuration, weights or
    base are missing or of no use.
    """
    if not _is_adapter(folder):
        return None
    base, base_revision = _base_of(name, folder)
    (weights,) = weights_in(name, folder, (WEIGHTS,), revision)
    try:
        checkpoint = find_checkpoint(base, revision=base_revision)
    except ModelError as error:
        raise _no_base(name, error) from error
    return Adapter(name, folder, weights, checkpoint)


def tokenizer_folder(name: str, folder: Path) -> Path:
    """Where the tokenizer of a model or adapter is: in its own folder, or in that of an adapter's base.

    Arguments and errors are those of `find_adapter`.
    """
    if not _is_adapter(folder) or (folder / "tokenizer_config.json").is_file():
        return folder
    base, revision = _base_of(name, folder)
    try:
        return find_folder(base, revision=revision)[0]
    except ModelError as error:
        raise _no_base(name, error) from error


@torch.no_grad()
def merge_adapter(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """`model`, the adapter's base, with the adapter merged into it; `model` itself is used up.

    Raises ModelError where the adapter does not fit that base, or where merging would
    change what the adapted model says.
    """
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(str(adapter.folder))
        config.inference_mode = True
        # The two steps of PeftModel.from_pretrained, which does not tell what was left over.
        with warnings.catch_warnings():
            # PEFT 0.21 still uses the first name; what the second warns of is seen to below.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
            adapted = PeftModel(model, config)
        found = adapted.load_adapter(str(adapter.folder), "default", torch_device="cpu")
        _require_all(adapter, missing=found.missing_keys, unexpected=found.unexpected_keys)
        _untie(model)
        expected = _logits(adapted)
        merged = cast(PreTrainedModel, cast(Any, adapted).merge_and_unload(safe_merge=True))
    except UNLOADABLE as error:
        raise ModelError(
            f"expected an adapter of {adapter.base.name} in {adapter.name}, found one that cannot be applied "
            f"to it: {first_line(error)}. It belongs to another base (or to this one before its embedding "
            f"was resized), or is damaged: correct base_model_name_or_path in {ADAPTER_CONFIG}, or save it "
            "again"
        ) from error
    # In 16 bits every merged weight is rounded; in 32 bits only the order of summation differs.
    tolerance = (1e-4 if model.dtype == torch.float32 else 2e-2) * expected.abs().max()
    gap = (_logits(merged) - expected).abs().max()
    if not gap <= tolerance:
        raise ModelError(
            f"expected {adapter.name} to say the same once merged into {adapter.base.name}, found logits "
            f"that differ by {float(gap):.3g}. This adapter cannot be merged; with a base in 16 bits or "
            "quantised, try one in float32 (--dtype float32)"
        )
    return merged


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file()


def _base_of(name: str, folder: Path) -> tuple[str, str | None]:
    """The base that an adapter's configuration names, as a path where it is one, and its revision."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base, kind, revision = config["base_model_name_or_path"], config["peft_type"], config.get("revision")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"expected base_model_name_or_path and peft_type in {ADAPTER_CONFIG} of {name}, found "
            f"{first_line(error)}. Save the adapter again with save_pretrained"
        ) from error
    if not isinstance(base, str) or not base.strip() or not isinstance(revision, str | None):
        raise ModelError(
            f"expected the folder or hub id of a base model and its revision in {ADAPTER_CONFIG} of {name}, "
            f"found base_model_name_or_path {base!r} and revision {revision!r}. Write them there"
        )
    if kind not in KINDS:
        raise ModelError(
            f"expected an adapter of a kind out of {', '.join(KINDS)} in {name}, found {kind!r}. Merge it "
            "yourself, if it can be merged (merge_and_unload, then save_pretrained), and give that folder"
        )
    beside = folder / base
    if not Path(base).expanduser().is_dir() and beside.is_dir():
        return str(beside), None
    return base, revision


def _no_base(name: str, error: ModelError) -> ModelError:
    return ModelError(
        f"expected the base model of the adapter {name}: {error}. It is base_model_name_or_path in the "
        f"adapter's {ADAPTER_CONFIG}, a folder (seen from here or from there) or a hub id"
    )


def _require_all(adapter: Adapter, *, missing: list[str], unexpected: list[str]) -> None:
    """PEFT would go on with random numbers for what is missing, and without what it has no place for."""
    if missing or unexpected:
        raise ValueError(
            f"{len(missing)} weights missing, {len(unexpected)} without a place "
            f"({', '.join([*missing, *unexpected][:3])})"
        )


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
    return cast(Tensor, model(input_ids=ids, use_cache=False).logits).float()
