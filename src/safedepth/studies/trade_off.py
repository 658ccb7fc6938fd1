"""Safety and utility side by side, before and after: one table for every training command.

Built from the tables that are there: judged replies, and lm-eval's documents. Every row is tested
on the same prompts or documents; p-values are adjusted for all comparisons of the table (Holm),
and a row says how small a change it could have shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from safedepth.measure.multiple import holm
from safedepth.measure.paired import paired_difference
from safedepth.measure.power import detectable_paired
from safedepth.nouns import Outcome
from safedepth.studies.deepening import (
    ATTACKS,
    HARMFUL,
    OVER_REFUSAL,
    Measured,
    paired_values,
    share_of,
    what_of,
)
from safedepth.studies.harness_rates import JUDGE, estimate_of, measure_name, measures_of

__all__ = ["trade_off_block"]

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]


@dataclass
class _Row:
    """One line of the table: its cells by role, and by role after the values to pair with those before."""

    side: str
    what: str
    measure: str
    judge: str
    better: str
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)


def trade_off_block(
    measured: Measured | None,
    harness: Mapping[str, pd.DataFrame],
    *,
    roles: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """The block as the report reads it.

    Args:
        measured: the judged replies of all roles, None where no requests were given.
        harness: role -> lm-eval's documents; empty where no tasks were given.
        roles: the one before first.
        seed: of bootstraps and sign flips.

    Returns:
        `models`, `rows` and `comparisons`, the number of tests that the adjustment counts. The
        `detectable` of a comparison is the smallest true change that its prompts would have shown
        (80 % at 5 %); None where outcomes are not 0 or 1.
    """
    rows: list[_Row] = []
    if measured is not None:
        rows += _of_replies(measured, roles)
    if harness:
        rows += _of_harness(harness, roles, seed)
    paired = [
        {
            role: asdict(paired_difference(*pair, seed=seed)) | {"detectable": _detectable(*pair)}
            for role, pair in row.pairs.items()
        }
        for row in rows
    ]
    tests = [entry for entries in paired for entry in entries.values()]
    for entry, adjusted in zip(tests, holm([entry["p"] for entry in tests]), strict=True):
        entry["p_holm"] = adjusted
    return {
        "models": list(roles) if rows else [],
        "rows": [
            {
                "side": row.side, "what": row.what, "measure": row.measure, "judge": row.judge,
                "better": row.better, "cells": row.cells, "paired": entries,
            }
            for row, entries in zip(rows, paired, strict=True)
        ],
        "comparisons": sum(entry["p"] is not None for entry in tests),
    }  # fmt: skip


def _of_replies(measured: Measured, roles: Sequence[str]) -> Iterator[_Row]:
    """Harmful replies under every attack variant, then what is asked of benign replies."""
    for attack in ATTACKS:
        keys = ["turn", "k"] if attack == "multi_turn" else ["k"]
        tables = {role: measured.harm(role, attack) for role in roles}
        for values in sorted({tuple(v) for t in tables.values() for v in t[keys].itertuples(index=False)}):
            what = what_of(attack, dict(zip(keys, values, strict=True)))
            row = _Row("safety", what, HARMFUL, measured.judge, "lower")
            same = {role: table[(table[keys] == list(values)).all(axis=1)] for role, table in tables.items()}
            yield _filled(row, same, Outcome.COMPLIED)
    for name, measure, judge in measured.benign_measures:
        refusals = measure == OVER_REFUSAL
        row = _Row("utility", name, measure, judge, "lower" if refusals else "higher")
        tables = {role: measured.benign_verdicts(role, name, judge) for role in roles}
        yield _filled(row, tables, Outcome.REFUSED if refusals else Outcome.COMPLIED)


def _filled(row: _Row, tables: Mapping[str, pd.DataFrame], event: Outcome) -> _Row:
    """The row with the share of `event` in each role's verdicts; the first role is the one before."""
    before, *after = tables
    for role, table in tables.items():
        row.cells[role] = share_of(table, event)
    row.pairs = {role: paired_values(tables[before], tables[role], event=event) for role in after}
    return row


def _of_harness(harness: Mapping[str, pd.DataFrame], roles: Sequence[str], seed: int) -> Iterator[_Row]:
    """lm-eval's numbers, task by task; a paired test counts every document alike."""
    before, *after = [role for role in roles if role in harness]
    others = {role: {tuple(n.values()): rows for n, rows in measures_of(harness[role])} for role in after}
    for named, rows in measures_of(harness[before]):
        better = "higher" if rows["higher_is_better"].iloc[0] else "lower"
        row = _Row("utility", named["task"], measure_name(named), JUDGE, better)
        mine = {before: rows} | {
            role: found[key] for role, found in others.items() if (key := tuple(named.values())) in found
        }
        for role, table in mine.items():
            row.cells[role] = asdict(estimate_of(table, seed=seed)) | {"unscored": 0}
        row.pairs = {role: pair for role in mine if role != before and (pair := _documents(rows, mine[role]))}
        yield row


def _documents(before: pd.DataFrame, after: pd.DataFrame) -> Pair | None:
    """The values of the documents that both have; None where they are no shares or averages of such."""
    tables = [
        table[table["doc_id"].notna()].set_index(["subtask", "doc_id"])["value"] for table in (before, after)
    ]
    both = tables[0].index.intersection(tables[1].index).sort_values()
    first, second = (table.loc[both].to_numpy(dtype=np.float64) for table in tables)
    values = np.concatenate([first, second])
    return (first, second) if len(both) and ((values >= 0) & (values <= 1)).all() else None


def _detectable(before: Floats, after: Floats) -> float | None:
    """The smallest true change that these pairs would have shown."""
    if not len(before) or not np.isin([before, after], (0.0, 1.0)).all():
        return None
    return detectable_paired(len(before), float(np.mean(before != after)))
