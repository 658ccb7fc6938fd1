"""What the reference says of the data: one log-probability a response token, asked once and kept on disk.

The reference is the model before its first step, or another that is named. What was kept is
used again only for the very same weights, template and rows, and a few rows are asked anew
to make sure. It refuses to know how the numbers enter a loss.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object  # type: ignore[import-untyped]
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from safedepth.errors import RunError
from safedepth.runs.files import write_atomically
from safedepth.train.examples import IGNORED

__all__ = ["COLUMN", "ReferenceStore", "hash_of_model", "kept_mode", "score_rows"]

COLUMN = "reference_log_probs"
"""The data set's column: a list of floats a row, one for each token with loss."""

ASKED_ANEW = 4
"""Rows of a kept file that are scored again before it is believed."""

Rows = Any  # a `datasets.Dataset` with input_ids and labels
Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class ReferenceStore:
    """A folder of log-probabilities, one file for each pair of reference and data.

    `model_hash` and `template` name the reference; `score` gives the log-probabilities of rows.
    """

    folder: Path
    model_hash: str
    template: str
    score: Callable[[Rows], list[Tensor]]
    accelerator: Any

    def column(self, rows: Rows) -> list[list[float]]:
        """The values of every row, read or made; the same in every process.

        Raises RunError for a file that is damaged, or does not say what the reference says now, and
        where the reference says what is no number.
        """
        key = [self._key(rows) if self.accelerator.is_main_process else ""]
        broadcast_object_list(key, from_process=0)
        path = self.folder / f"{key[0][:20]}.safetensors"
        if path.is_file():
            values = _read(path, key[0], rows)
            self._require_true(path, rows, values)
        else:
            values = self.score(rows)
            _require_finite(values)
            if self.accelerator.is_main_process:
                self._write(path, key[0], values)
        self.accelerator.wait_for_everyone()
        return [row.tolist() for row in values]

    def _key(self, rows: Rows) -> str:
        precision = self.accelerator.mixed_precision
        digest = hashlib.sha256(f"{self.model_hash} {precision} {self.template}".encode())
        for row in rows:
            lengths = row.get("seq_lengths") or []
            numbers = [len(row["input_ids"]), *row["input_ids"], *row["labels"], *lengths]
            digest.update(torch.tensor(numbers).numpy().tobytes())
        return digest.hexdigest()

    def _write(self, path: Path, key: str, values: Sequence[Tensor]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        flat = torch.cat([*values, torch.empty(0)]).float().contiguous()
        lengths = torch.tensor([len(row) for row in values], dtype=torch.int64)
        about = {"key": key, "model": self.model_hash, "template": self.template, "sum": _sum(flat)}
        write_atomically(path, save({"values": flat, "lengths": lengths}, metadata=about))

    def _require_true(self, path: Path, rows: Rows, values: Sequence[Tensor]) -> None:
        chosen = sorted({round(i * (len(rows) - 1) / max(1, ASKED_ANEW - 1)) for i in range(ASKED_ANEW)})
        for place, now in zip(chosen, self.score(rows.select(chosen)), strict=True):
            kept = values[place]
            apart = (now - kept).abs().max().item() if len(kept) else 0.0
            if not apart <= 0.05 * (1 + kept.abs().max().item() if len(kept) else 1.0):
                raise RunError(
                    f"expected the log-probabilities kept in {path} to be the reference's, found row "
                    f"{place + 1} off by {apart:.3g} nats: the file is stale. Delete it, and it is made anew"
                )


def _read(path: Path, key: str, rows: Rows) -> list[Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            about: Mapping[str, str] = file.metadata() or {}
            values, lengths = file.get_tensor("values"), file.get_tensor("lengths")
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete it, and it is made anew") from error
    expected = [_counted(row) for row in rows]
    if about.get("key") != key or lengths.tolist() != expected or len(values) != sum(expected):
        raise RunError(
            f"expected {path} to hold the reference's log-probabilities of these {len(expected)} rows, found "
            "those of another model, template or data: the file is stale. Delete it, and it is made anew"
        )
    if about.get("sum") != _sum(values):
        raise RunError(f"{path} is damaged (other numbers than were written). Delete it, and it is made anew")
    return list(values.split(lengths.tolist()))


def _require_finite(values: Sequence[Tensor]) -> None:
    for number, row in enumerate(values, start=1):
        if not bool(torch.isfinite(row).all()):
            raise RunError(
                f"expected log-probabilities of the reference, found infinite ones or none in row {number} "
                "of those it was asked about. Load it in a wider type (--dtype float32), or look at that row"
            )


def _sum(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def _counted(row: Mapping[str, Any]) -> int:
    return sum(label != IGNORED for label in row["labels"])


@torch.no_grad()
def score_rows(
    model: Any,
    rows: Rows,
    collate: Collate,
    *,
    batch: int,
    accelerator: Any,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Tensor]:
    """log pi(y_t | ...) in nats, float32, of every token with loss of every row; processes share the rows.

    A token that nothing stands before has 0: it carries no loss. `model` has TRL's fused head.
    """
    longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    mine = longest_first[accelerator.process_index :: accelerator.num_processes]
    # Every process makes as many forwards as the others, for a sharded model needs them all.
    batches = -(-max(1, -(-len(rows) // accelerator.num_processes)) // batch)
    found: list[tuple[int, Tensor]] = []
    for number in range(batches):
        chosen = mine[number * batch : (number + 1) * batch]
        examples = [rows[i] for i in chosen or longest_first[-1:]]
        inputs = {name: _moved(value, accelerator.device) for name, value in collate(examples).items()}
        labels = inputs["labels"]
        with accelerator.autocast():
            said = model(**inputs, use_cache=False, fused_lm_head=True).log_probs.float()
        aligned = torch.cat([said.new_zeros(said.shape[0], 1), said], dim=1).cpu()
        counted = labels.cpu() != IGNORED
        for place, values in zip(chosen, _by_row(aligned, counted, examples), strict=False):
            found.append((place, values))
        progress(min(len(rows), (number + 1) * batch * accelerator.num_processes), len(rows))
    everything = dict(gather_object(found))
    return [everything[place] for place in range(len(rows))]


def _by_row(values: Tensor, counted: Tensor, examples: Sequence[Mapping[str, Any]]) -> Iterator[Tensor]:
    """Each example's values at its own tokens with loss, out of a padded batch or a flat one."""
    flat = len(values) == 1 and len(examples) > 1
    start = 0
    for number, example in enumerate(examples):
        row, width = (0, len(example["input_ids"])) if flat else (number, len(example["input_ids"]))
        begin = start if flat else 0
        own = torch.tensor(example["labels"]) != IGNORED
        kept = torch.where(counted[row, begin : begin + width], values[row, begin : begin + width], 0.0)
        yield kept[own].clone()
        start += width


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def hash_of_model(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and the SHA-256 of the bytes of all parameters and buffers.

    Tensors are hashed on as many cores as there are: one core takes 40 seconds for 16 GB.
    """
    tensors = sorted(model.state_dict().items())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(_hash_of_tensor, (tensor for _, tensor in tensors))
        lines = [f"{name} {of}\n" for (name, _), of in zip(tensors, hashes, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hash_of_tensor(tensor: Tensor) -> str:
    own = getattr(tensor, "ds_tensor", tensor)  # this process's part, under ZeRO-3
    whole = own.detach().cpu().contiguous()
    digest = hashlib.sha256()
    if whole.numel():
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return f"{whole.dtype} {tuple(whole.shape)} {digest.hexdigest()}"


@contextmanager
def kept_mode(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
