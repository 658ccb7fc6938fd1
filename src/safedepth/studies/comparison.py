"""From the tables of many variants to the `comparison` block of `summary.json`.

A column is a value of each prompt, averaged over what it pools (depths, turns, seeds);
variants are compared prompt by prompt with the one named `against`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from safedepth.measure.paired import paired_difference
from safedepth.measure.statistics import wilson
from safedepth.nouns import Outcome
from safedepth.studies import summary
from safedepth.studies.deepening import OVER_REFUSAL, RIGHT, Measured, refusals_of

__all__ = ["comparison_block"]


@dataclass(frozen=True)
class _Column:
    key: str
    title: str
    better: str
    values: Callable[[str], pd.Series]
    """Role -> the value of each prompt, in 0..1."""


def comparison_block(
    measured: Measured,
    variants: Sequence[Mapping[str, Any]],
    *,
    trained: Sequence[int],
    deeper: Sequence[int],
    against: str,
) -> dict[str, Any]:
    """All variants in all columns, and the paired differences from the variant `against`."""
    columns = _columns(measured, trained, deeper)
    names = [str(variant["name"]) for variant in variants]
    cells: list[dict[str, Any]] = []
    paired: list[dict[str, Any]] = []
    for column in columns:
        values = {name: column.values(name) for name in names}
        for name in names:
            cells.append({"variant": name, "column": column.key, **_cell(values[name])})
            if name != against:
                both = values[name].index.intersection(values[against].index).sort_values()
                found = paired_difference(
                    values[against].loc[both].to_numpy(dtype=np.float64),
                    values[name].loc[both].to_numpy(dtype=np.float64),
                    seed=measured.seed,
                )
                paired.append({"variant": name, "column": column.key, **asdict(found)})
    described = [
        {"key": c.key, "title": c.title, "unit": "share", "better": c.better} for c in columns
    ] + _more_columns()
    cells += [cell for name in names for cell in _more_cells(measured, name)]
    return {
        "variants": [dict(variant) for variant in variants],
        "columns": described,
        "cells": cells,
        "against": against,
        "paired": paired,
        "findings": _findings(columns, paired, names, against),
    }


def _columns(measured: Measured, trained: Sequence[int], deeper: Sequence[int]) -> list[_Column]:
    def prefill(depths: Sequence[int], pool: str) -> Callable[[str], pd.Series]:
        def values(role: str) -> pd.Series:
            table = measured.harm(role, "prefill")
            return _shares(table[table["k"].isin(list(depths))], Outcome.COMPLIED, pool)

        return values

    def turns(role: str) -> pd.Series:
        table = measured.harm(role, "multi_turn")
        return _shares(table[(table["turn"] > 1) & (table["k"] > 0)], Outcome.COMPLIED, "mean")

    def benign(kind: str, event: Outcome) -> Callable[[str], pd.Series]:
        def values(role: str) -> pd.Series:
            return _shares(measured.all_benign(role, kind), event, "mean")

        return values

    forced = [k for k in trained if k]
    return [
        _Column(
            "trained", f"harmful, {forced[0]} to {forced[-1]} tokens forced", "lower", prefill(forced, "mean")
        ),
        _Column(
            "deeper", f"harmful, {deeper[0]} to {deeper[-1]} tokens (none trained)", "lower",
            prefill(deeper, "mean"),
        ),
        _Column("chosen", "harmful, attacker picks the depth", "lower", prefill([*trained, *deeper], "any")),
        _Column("turns", "harmful, turns 2 and 3 with 5 or 20 tokens forced", "lower", turns),
        _Column("right", "right answers", "higher", benign(RIGHT, Outcome.COMPLIED)),
        _Column("refused", "over-refusal", "lower", benign(OVER_REFUSAL, Outcome.REFUSED)),
    ]  # fmt: skip


def _shares(table: pd.DataFrame, event: Outcome, pool: str) -> pd.Series:
    """Each prompt's share of `event`, or the share of seeds in which it happened at all (`any`)."""
    scored = table[table["outcome"] != Outcome.UNSCORED.value]
    hit = (scored["outcome"] == event.value).astype(float)
    if pool == "any":
        hit = hit.groupby([scored["prompt_id"], scored["seed"]]).max()
        return hit.groupby("prompt_id").mean()
    return hit.groupby(scored["prompt_id"]).mean()


def _cell(values: pd.Series) -> dict[str, Any]:
    """The mean over prompts; Wilson's interval at the number of prompts, which holds whatever was pooled."""
    n = len(values)
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = wilson(float(values.sum()), n)
    return {"value": float(values.mean()), "low": low, "high": high, "n": n}


def _more_columns() -> list[dict[str, Any]]:
    return [
        {"key": "depth", "title": "recovery depth", "unit": "tokens", "better": "higher"},
        {
            "key": "parts",
            "title": "parts of a refusal beyond it (0 to 3)",
            "unit": "number",
            "better": "higher",
        },
        {"key": "specific", "title": "specificity of refusals", "unit": "share", "better": "higher"},
    ]


def _more_cells(measured: Measured, name: str) -> list[dict[str, Any]]:
    """Depth, and how useful and specific refusals after forced tokens are."""
    depth = summary.depth_of(measured.harm(name, "prefill"), None, seed=measured.seed).get("recovery_depth")
    cells = [{"variant": name, "column": "depth", **asdict(depth)}] if depth else []
    quality = refusals_of(measured, name)
    if quality is not None:
        cells.append({"variant": name, "column": "parts", **quality["parts"]})
        cells.append({"variant": name, "column": "specific", **quality["specificity"]})
    return cells


def _findings(
    columns: Sequence[_Column], paired: Sequence[Mapping[str, Any]], names: Sequence[str], against: str
) -> list[str]:
    """What differs from `against` beyond chance, in words, one sentence a variant."""
    better = {column.key: column.better for column in columns}
    titles = {column.key: column.title for column in columns}
    sentences = []
    for name in names:
        helped: list[str] = []
        hurt: list[str] = []
        for row in paired:
            if row["variant"] != name or row["low"] is None or row["low"] <= 0 <= row["high"]:
                continue
            good = (row["difference"] < 0) == (better[row["column"]] == "lower")
            change = f"{titles[row['column']]} ({100 * row['difference']:+.1f} points)"
            (helped if good else hurt).append(change)
        if name == against or name == "aligned":
            continue
        parts = [f"better in {'; '.join(helped)}"] if helped else []
        parts += [f"worse in {'; '.join(hurt)}"] if hurt else []
        said = " and ".join(parts) if parts else "no difference beyond chance"
        sentences.append(f"{name} against {against}: {said}.")
    return sentences
