"""Where a model's files are, whether they are a model at all, and their hash.

A name is a local folder or a hub id; either way the rest of the package sees a local
folder and the exact weight files in it. It refuses to know torch, tokenizers and what
lies in an adapter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError

from safedepth.errors import ModelError

__all__ = [
    "ADAPTER_CONFIG",
    "UNLOADABLE",
    "Checkpoint",
    "checkpoint_in",
    "find_checkpoint",
    "find_folder",
    "first_line",
    "hash_weights",
    "require_config",
    "weights_in",
]

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")

HASH_WHOLE_BELOW = 2**30
"""Weights of fewer bytes are hashed whole; of larger ones evenly spaced samples are."""

_SAMPLES, _SAMPLE_BYTES = 64, 2**16

UNLOADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    SafetensorError,
)
"""What transformers and PEFT raise over files they cannot use, as seen with broken ones."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds a model: `weights` are its safetensors files, `revision` its hub commit."""

    name: str
    folder: Path
    weights: tuple[Path, ...]
    revision: str | None


def find_folder(name: str, *, revision: str | None = None) -> tuple[Path, str | None]:
    """The folder of a model or tokenizer and its hub commit, None for a local one.

    Of a hub model everything but the weights is fetched, or taken from the cache when
    the hub cannot be reached; at `revision`, a branch, tag or commit, where one is given.
    Raises ModelError where there is nothing of that name.
    """
    path = Path(name).expanduser()
    if name.strip() and path.is_dir():
        return path, None
    if name.strip() and path.exists():
        raise ModelError(
            f"expected a model folder or hub id, found the file {name}. Give the folder it lies in"
        )
    folder = _fetch(name, SMALL_FILES, revision=revision)
    return folder, folder.name


def find_checkpoint(name: str, *, revision: str | None = None) -> Checkpoint:
    """The checkpoint behind a folder or hub id; hub weights are fetched.

    Raises ModelError where it holds no model, no safetensors weights or not all of them.
    """
    return checkpoint_in(name, *find_folder(name, revision=revision))


def checkpoint_in(name: str, folder: Path, revision: str | None) -> Checkpoint:
    """The checkpoint in the folder that `find_folder` gave for `name`. Errors as `find_checkpoint`."""
    require_config(name, folder)
    return Checkpoint(name, folder, weights_in(name, folder, _weight_files(name, folder), revision), revision)


def require_config(name: str, folder: Path) -> None:
    """Raise ModelError unless a model's configuration lies in the folder, and no adapter's."""
    if (folder / CONFIG).is_file() and (folder / ADAPTER_CONFIG).is_file():
        # transformers would apply the adapter, and nothing would say so.
        raise ModelError(
            f"expected a model or a PEFT adapter, found {CONFIG} and {ADAPTER_CONFIG} in {name}: both. "
            "Move one of them, with its weights, into a folder of its own"
        )
    if (folder / ADAPTER_CONFIG).is_file():
        merge = f"import safedepth; safedepth.load_model({name!r}).save('merged')"
        raise ModelError(
            f"expected a whole model, found a PEFT adapter in {name}. A training and another adapter start "
            f'from whole weights: merge it (python -c "{merge}"), and give that folder'
        )
    if not (folder / CONFIG).is_file():
        several = sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}"))
        found = f"adapters in its folders {', '.join(several)}" if several else _listing(folder)
        raise ModelError(
            f"expected a Hugging Face model with a {CONFIG}, found {found} in {name}. Give "
            f"{'one of them' if several else 'the folder that save_pretrained wrote'}"
        )


def weights_in(name: str, folder: Path, files: Sequence[str], revision: str | None) -> tuple[Path, ...]:
    """The weight files in a folder, fetched first where `revision` is a hub commit.

    Raises ModelError where one is missing.
    """
    if revision is not None:
        _fetch(name, files, revision=revision)
    missing = [file for file in files if not (folder / file).is_file()]
    if not missing:
        return tuple(folder / file for file in files)
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
    if pickles and len(missing) == len(files) == 1:
        raise ModelError(
            f"expected safetensors weights, found {', '.join(pickles[:3])} in {name}: pickled weights can "
            "run code and are not loaded. Convert them with save_pretrained (which writes safetensors)"
        )
    raise ModelError(
        f"expected the weights {', '.join(missing[:3])} in {name}, found {_listing(folder)}. "
        "Save or download the model again"
    )


def hash_weights(files: Sequence[Path]) -> tuple[str, str]:
    """SHA-256 of the weights and what was hashed: "whole" or "sampled".

    One file hashed whole gives what `sha256sum` gives; several give the hash of their
    `sha256sum` listing. From `HASH_WHOLE_BELOW` bytes on, each file counts with its size
    and 65 evenly spaced blocks of 64 KiB, its table of tensors first: enough to tell two
    trainings apart in a moment, no proof against one altered number.
    """
    whole = sum(file.stat().st_size for file in files) < HASH_WHOLE_BELOW
    hashes = [_hash_file(file) if whole else _hash_samples(file) for file in files]
    how = "whole" if whole else "sampled"
    if len(files) == 1:
        return hashes[0], how
    listing = "".join(f"{value}  {file.name}\n" for value, file in zip(hashes, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest(), how


def first_line(error: Exception) -> str:
    """An error's class and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _fetch(name: str, patterns: Sequence[str], *, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), revision=revision))
    except HFValidationError:
        # Not even the form of a hub id, so it was meant as a path.
        raise ModelError(
            f"expected a model folder or hub id, found no folder {name!r}. Check the path"
        ) from None
    except GatedRepoError as error:
        raise ModelError(
            f"expected access to {name}, but it is gated on the hub. Accept its licence there and "
            "log in with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"expected a model folder or hub id, found neither a folder {name!r} here nor such a "
            "model on the hub. Check the name; a private model needs: hf auth login"
        ) from error
    except OSError as error:
        raise ModelError(
            f"expected a model folder or hub id, found no folder {name!r} here, and it could not be had "
            f"from the hub ({str(error).splitlines()[0]}). Check the path, or connect and try again"
        ) from error


def _weight_files(name: str, folder: Path) -> list[str]:
    """Names of the weight files that the index lists, or of the single one."""
    index = folder / INDEX
    if not index.is_file():
        return [SINGLE]
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(str(file) for file in files)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"expected a weight map in {INDEX} of {name}, found none ({error!r}). Save it again"
        ) from error


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return (
        ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        if names
        else "nothing"
    )


def _hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash_samples(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for step in range(_SAMPLES + 1):
            stream.seek(max(0, size - _SAMPLE_BYTES) * step // _SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()
