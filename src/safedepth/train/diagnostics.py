"""What a constrained training does, position by position: loss, weight, KL, implicit advantage.

Sums are kept by group of response positions while batches pass and are told at every log; the
KL is exact, over the whole vocabulary, on a few rows put aside. Nothing here changes a loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from safedepth.runs.files import write_atomically
from safedepth.train.losses import implicit_advantage, token_weights
from safedepth.train.positions import GROUPS, group_of, response_positions
from safedepth.train.reference import kept_mode

__all__ = ["FILE", "DiagnosticsFile", "KLProbe", "PositionSums", "read_diagnostics", "tracked"]

FILE = "diagnostics.jsonl"
"""In the output folder: one line a logging step and group of positions."""

PROBE_ROWS, PROBE_POSITIONS, PROBE_NUMBERS = 8, 40, 2**24
"""Rows and positions that the KL is measured on, and the most probabilities kept for it."""


class PositionSums:
    """Sums of what is told of tokens, by group of response positions, since the last log."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, positions: Tensor, log_probs: Tensor, reference: Tensor | None, betas: Tensor) -> None:
        """Count a batch: all of one shape, position 0 where there is nothing to count."""
        counted = positions > 0
        said = log_probs[counted].float()
        parts = [torch.ones_like(said), -said]
        if reference is not None:
            of, beta = reference[counted].float(), betas[counted]
            parts += [token_weights(said, of, beta), implicit_advantage(said, of, beta)]
        sums = torch.zeros(len(GROUPS), 4, dtype=torch.float64, device="cpu")
        values = torch.stack(parts, dim=1).double().cpu()
        sums[:, : len(parts)].index_add_(0, group_of(positions[counted]).cpu(), values)
        if reference is None:
            sums[:, 2:] = torch.nan
        self._sums = sums if self._sums is None else self._sums + sums

    def told(self, reduce: Callable[[Tensor], Tensor]) -> list[dict[str, Any]]:
        """Means by group since the last time, over all processes (`reduce` sums); begins anew."""
        if self._sums is None:
            return []
        sums, self._sums = reduce(self._sums), None
        rows = []
        for (first, last), (n, *totals) in zip(GROUPS, sums.tolist(), strict=True):
            if n:
                means = [None if total != total else total / n for total in totals]
                names = ("nll", "weight", "advantage")
                rows.append(
                    {"position": first, "last": last, "n": int(n), **dict(zip(names, means, strict=True))}
                )
        return rows


class KLProbe:
    """KL(model || reference) in nats by group of positions, exact, on the first rows of the data."""

    def __init__(
        self, rows: Sequence[dict[str, Any]], collate: Callable[..., dict[str, Any]], *, vocabulary: int
    ) -> None:
        self.rows, self.collate, self.vocabulary = list(rows)[:PROBE_ROWS], collate, vocabulary
        self._reference: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def remember(self, reference: Any) -> None:
        """Keep the reference's log-probabilities at the probe's positions."""
        self._reference = [self._said(reference, row) for row in self.rows]

    @torch.no_grad()
    def measure(self, model: Any) -> dict[int, float]:
        """Mean KL at each group's index; groups without a position are left out."""
        found: dict[int, list[float]] = {}
        with kept_mode(model):
            for row, (groups, of) in zip(self.rows, self._reference, strict=True):
                _, said = self._said(model, row)
                kl = (said.exp() * (said - of)).sum(-1).clamp(min=0)
                for group, value in zip(groups.tolist(), kl.tolist(), strict=True):
                    found.setdefault(group, []).append(value)
        return {group: sum(values) / len(values) for group, values in found.items()}

    def _said(self, model: Any, row: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Groups of the row's first response positions, and the log-probabilities there [N, V]."""
        inputs = self.collate([row])
        positions = response_positions(torch.tensor(row["labels"]), row.get("seq_lengths"))
        places = (positions > 0).nonzero().squeeze(-1)
        places = places[places > 0]
        most = max(5, min(PROBE_POSITIONS, PROBE_NUMBERS // (self.vocabulary * PROBE_ROWS)))
        places = places[positions[places] <= most][: 2 * PROBE_POSITIONS]
        device = next(model.parameters()).device
        given = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
            if name in ("input_ids", "attention_mask", "position_ids")
        }
        logits = model(**given, use_cache=False, logits_to_keep=(places - 1).to(device)).logits[0]
        return group_of(positions[places]), logits.float().log_softmax(-1).cpu()


class DiagnosticsFile(TrainerCallback):
    """The file of diagnostics; a resumed training drops the lines of steps it makes again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        """Keep the lines up to the step that the training goes on from."""
        if state.is_world_process_zero and self.path.is_file():
            kept = [row for row in read_diagnostics(self.path) if row["step"] <= state.global_step]
            write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add lines."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def read_diagnostics(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of diagnostics; a last line that a kill left half written is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def tracked(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The rows as a tracker takes them: `weight/1`, `kl/6-10`, ..."""
    found: dict[str, float] = {}
    for row in rows:
        last = row["last"]
        place = (
            f"{row['position']}+"
            if last is None
            else str(last)
            if last == row["position"]
            else f"{row['position']}-{last}"
        )
        found |= {
            f"{name}/{place}": row[name]
            for name in ("nll", "weight", "kl", "advantage")
            if row[name] is not None
        }
    return found
