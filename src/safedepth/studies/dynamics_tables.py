"""Loss, gradient norm and KL by response position while a model is fine-tuned (claims C7, C8), as tables.

One table a model: every checkpoint of a fine-tuning is measured on the same conversations,
against the model that the fine-tuning began with. It refuses to know how they were trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from safedepth.chat import ChatFormat, Encoded
from safedepth.errors import DataError
from safedepth.measure import statistics
from safedepth.measure.gradients import EstimatedNorms, GradientMeter, GradientNorms
from safedepth.models import LoadedModel, head_of
from safedepth.nouns import Anchor, Estimate, Progress, Prompt, TokenSeries
from safedepth.studies.divergence import kl_table

__all__ = ["MEASURES", "dynamics_block", "encoded_rows", "measure_dynamics", "meter_of", "share_of_first"]

MEASURES = ("loss", "gradient", "kl")
LAYER = "layer"
FIRST = 5
"""Tokens whose share of the whole is told: the paper's betas hold as many."""


def measure_dynamics(
    model: LoadedModel,
    initial: LoadedModel,
    rows: Sequence[Anchor],
    *,
    first: int = 20,
    directions: int = 0,
    seed: int = 0,
    meter: GradientMeter | None = None,
    what: str = "tokens of the data",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What each of the first tokens of every answer does to `model`, one row a value.

    Columns: `prompt_id`, `position` (from 1 to `first`), `measure`, `layer`, `value`. Measures are
    "loss" (nats), "gradient" (norm of the loss's gradient, whole model), "kl" (KL(model || initial),
    nats), and "layer", the gradient norm of the layer that `layer` names. With `directions` gradient
    norms are estimated along so many random directions, another set for each answer, from `seed` on,
    and there are no layers. `meter` is the model's, where it has one already. Raises DataError for rows
    that cannot be read or do not fit the context.
    """
    meter = meter or meter_of(model)
    parts: list[pd.DataFrame] = []
    for index, (row, encoded) in enumerate(zip(rows, encoded_rows(model.chat, rows), strict=True)):
        ids, start = torch.tensor(encoded.ids), encoded.prompt_tokens
        count = min(first, len(encoded.ids) - start)
        found: GradientNorms | EstimatedNorms
        if directions:
            found = meter.estimate(ids, start, count, directions=directions, seed=seed + index)
        else:
            found = meter.norms(ids, start, count)
        parts.append(_rows_of(found).assign(prompt_id=row.id))
        if progress is not None:
            progress(what, index + 1, len(rows))
    asked = [Prompt(row.id, row.messages, row.answer) for row in rows]
    kl = kl_table(model, initial, asked, tokens=first, what=f"KL of {what}", progress=progress)
    kl = kl.rename(columns={"kl": "value"}).assign(measure="kl", layer="")
    columns = ["prompt_id", "position", "measure", "layer", "value"]
    return pd.concat([part[columns] for part in (*parts, kl)], ignore_index=True)


def meter_of(model: LoadedModel) -> GradientMeter:
    """What measures the gradients of all parameters of the model."""
    return GradientMeter(model.model, head_of(model.model))


def _rows_of(found: GradientNorms | EstimatedNorms) -> pd.DataFrame:
    """Loss, whole norm and norms by layer of one answer's tokens, one row a value."""
    measured = [("loss", "", found.loss), ("gradient", "", found.whole)]
    if isinstance(found, GradientNorms):
        measured += [(LAYER, name, norms) for name, norms in zip(found.layers, found.by_layer.T, strict=True)]
    positions = np.arange(1, len(found.loss) + 1)
    return pd.concat(
        [
            pd.DataFrame({"position": positions, "measure": measure, "layer": layer, "value": values})
            for measure, layer, values in measured
        ],
        ignore_index=True,
    )


def encoded_rows(chat: ChatFormat, rows: Sequence[Anchor], *, limit: int | None = None) -> list[Encoded]:
    """Every conversation as token ids, its answer as the response.

    Raises DataError or TemplateError naming the row that cannot be read, or that has more than
    `limit` tokens.
    """
    found = []
    for row in rows:
        try:
            encoded = chat.encode(row.messages, row.answer)
        except DataError as error:
            raise DataError(f"row {row.id!r}: {error}") from error
        if limit is not None and len(encoded.ids) > limit:
            raise DataError(
                f"expected conversations that fit into the model's context of {limit} tokens, found "
                f"{len(encoded.ids)} in row {row.id!r}. Shorten it or remove it"
            )
        found.append(encoded)
    return found


def series(table: pd.DataFrame) -> TokenSeries:
    """One measure's values as a series, one row a conversation; several of one place are averaged (seeds)."""
    wide = table.pivot_table(index="prompt_id", columns="position", values="value", aggfunc="mean")
    values = wide.to_numpy(dtype=np.float64)
    mask = ~np.isnan(values)
    return TokenSeries(values=np.where(mask, values, 0.0), mask=mask)


def share_of_first(table: pd.DataFrame, *, tokens: int = FIRST, seed: int) -> Estimate:
    """How much of one measure's sum falls on the first `tokens` of the positions measured."""
    return statistics.share_of_first(series(table), tokens, seed=seed)


def dynamics_block(
    tables: Mapping[int, pd.DataFrame], *, seed: int, estimated: bool = False
) -> dict[str, Any]:
    """The tables of `measure_dynamics` by optimiser step, as the block `dynamics` of `summary.json`.

    Of positions the mean over conversations with its interval, of layers the mean; `spread` is the
    share on the first five positions. `asr` and `facts` are the caller's.
    """
    positions, spread, layers = [], [], []
    for step, table in sorted(tables.items()):
        for measure in MEASURES:
            own = table[table["measure"] == measure]
            by_position = statistics.mean_by_position(series(own), seed=seed)
            positions += [
                {"measure": measure, "step": step, "position": position, **_entry(e)}
                for position, e in enumerate(by_position, start=1)
            ]
            share = share_of_first(own, seed=seed)
            entry = _entry(share)
            entry["share_first"] = entry.pop("value")
            spread.append({"measure": measure, "step": step, "first": FIRST, **entry})
        own = table[table["measure"] == LAYER]
        means = own.groupby(["layer", "position"], sort=False)["value"].mean()
        layers += [
            {"step": step, "layer": layer, "position": int(position), "value": float(value)}
            for (layer, position), value in cast(Any, means.items())
        ]
    return {
        "asr": [], "positions": positions, "layers": layers, "spread": spread, "facts": [],
        "estimated": estimated,
    }  # fmt: skip


def _entry(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
