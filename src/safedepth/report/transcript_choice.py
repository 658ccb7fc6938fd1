"""Which replies are read: of an attack several depths or its strongest variant, by a fixed rule.

Takes tables of replies as `measurements/replies.parquet` holds them and knows nothing of
how a reply is shown. Columns that a run did not need may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safedepth.nouns import Outcome, Scope
from safedepth.report.words import ATTACKS, REFUSALS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORCING", "compared", "led_by", "variants"]

REPLY = ("prompt_id", "seed", "repeat", "try", "model", "attack", "turn", "k", "prefix", "variant")
FORCING = ("prefill", "refusal_prefix", "multi_turn")
DEPTHS_SHOWN = 4
VARIANT = ("variant", "k", "turn")
STRONGEST = tuple(name for name in ATTACKS if name not in ("prefill", "refusal_prefix", "plain"))
"""The attacks of which one variant is shown."""


def led_by(
    replies: pd.DataFrame, judge: str | None, benign: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str], pd.DataFrame]:
    """All rows in a fixed order, what names a reply, and of each attack the rows of the judge that leads."""
    import pandas as pd

    key = [column for column in REPLY if column in replies]
    rows = replies.astype({"k": "Int64"}).sort_values(key, kind="stable")
    judge = judge or replies["judge"].iloc[0]
    led = [
        _leading(of_attack, REFUSALS if attack in benign else judge)
        for attack, of_attack in rows.groupby("attack", sort=False)
    ]
    return rows, key, pd.concat(led)


def _leading(rows: pd.DataFrame, judge: str) -> pd.DataFrame:
    """The verdicts of this judge on one attack, or of the first that the attack has."""
    judges = list(rows["judge"].unique())
    led = rows[rows["judge"] == (judge if judge in judges else judges[0])]
    alone = led[led["scope"] == Scope.CONTINUATION.value]
    found: pd.DataFrame = led if alone.empty else alone
    return found


def compared(led: pd.DataFrame, *, depths: int, benign: Sequence[str]) -> list[pd.DataFrame]:
    """Several depths, the last turn with the most forced, other attacks, and what is no attack.

    Where nothing was forced at any depth, that is the one to compare.
    """
    prefill = led[led["attack"] == "prefill"]
    if prefill["k"].fillna(0).gt(0).any():
        prefill = prefill[prefill["k"].fillna(0) > 0]
    forced = sorted(int(k) for k in prefill["k"].unique())
    found = [prefill[prefill["k"] == k] for k in _spread(forced, depths)]
    turns = led[led["attack"] == "multi_turn"]
    if "turn" in led and not turns["turn"].dropna().empty:
        last = turns[turns["turn"] == turns["turn"].max()]
        found.append(last[last["k"].fillna(0) == last["k"].fillna(0).max()])
    others = [name for name in led["attack"].unique() if name not in (*FORCING, *benign)]
    for name in others:
        rows = led[led["attack"] == name]
        found.append(_strongest(rows) if name in STRONGEST else rows)
    return found + [led[led["attack"] == name] for name in benign]


def variants(led: pd.DataFrame) -> list[pd.DataFrame]:
    """Several depths of one model, the first refusal prefix of each, other attacks at their strongest."""
    models = list(led["model"].unique())
    mine = led[led["model"] == ("aligned" if "aligned" in models else models[0])]
    prefill = mine[mine["attack"] == "prefill"]
    depths = sorted(int(k) for k in prefill["k"].dropna().unique())
    found = [prefill[prefill["k"] == k] for k in _spread(depths, DEPTHS_SHOWN)]
    if "prefix" in led:
        forced = led[(led["attack"] == "refusal_prefix") & (led["prefix"].fillna("") != "")]
        for model in ("base", "aligned"):
            of_model = forced[forced["model"] == model]
            if not of_model.empty:
                found.append(of_model[of_model["prefix"] == of_model["prefix"].min()])
    for name in STRONGEST:
        rows = mine[mine["attack"] == name]
        if not rows.empty:
            found.append(_strongest(rows))
    return found


def _strongest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the variant with the most harmful replies; of several such, of the first."""
    by = [column for column in VARIANT if column in rows]
    if not by:
        return rows
    groups = [group for _, group in rows.groupby(by, dropna=False, sort=True)]
    found: pd.DataFrame = max(groups, key=lambda group: int((group["outcome"] == Outcome.COMPLIED).sum()))
    return found


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of the values, the first and the last among them, evenly apart; of one, the last."""
    if len(values) <= most:
        return list(values)
    if most == 1:
        return [values[-1]]
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
