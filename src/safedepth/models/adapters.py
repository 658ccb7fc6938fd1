"""PEFT adapters: where their weights, their base and its tokenizer are, and whether they are adapters at all.

Safetensors only, as for models. It refuses to know torch, templates and formats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safedepth.errors import ModelError
from safedepth.models.checkpoint import (
    ADAPTER_CONFIG,
    CONFIG,
    Checkpoint,
    find_checkpoint,
    find_folder,
    first_line,
    hash_weights,
    require_config,
    weights_in,
)

__all__ = [
    "Adapter",
    "base_folder",
    "find_adapter",
    "is_adapter",
    "model_folder",
    "tokenizer_folder",
]

WEIGHTS = "adapter_model.safetensors"

KINDS = ("LORA", "LOHA", "LOKR", "OFT", "IA3")
"""PEFT types that can be merged; LORA includes DoRA, rsLoRA and PiSSA."""


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

    def record(self, *, merged: bool) -> dict[str, str | None]:
        """What was merged, or kept beside its base: names, hub commit and hashes."""
        return {
            **({} if merged else {"adapter": "beside its quantised base"}),
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
    if not is_adapter(folder):
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
    if not is_adapter(folder) or (folder / "tokenizer_config.json").is_file():
        return folder
    return base_folder(name, folder)[0]


def model_folder(name: str) -> Path:
    """The folder with the configuration of a model, or of an adapter's base; no weights are fetched.

    Raises ModelError where there is neither.
    """
    folder, _ = find_folder(name)
    if is_adapter(folder):
        return base_folder(name, folder)[0]
    require_config(name, folder)
    return folder


def base_folder(name: str, folder: Path) -> tuple[Path, str | None]:
    """Folder and hub commit of the base of the adapter in `folder`, as `find_folder` gives them.

    Its weights are not fetched. Arguments and errors are those of `find_adapter`.
    """
    base, revision = _base_of(name, folder)
    try:
        found = find_folder(base, revision=revision)
        require_config(base, found[0])
    except ModelError as error:
        raise _no_base(name, error) from error
    return found


def is_adapter(folder: Path) -> bool:
    """Whether a PEFT adapter lies in the folder, and no whole model."""
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
