"""The tables on recovery training: paired tests, KL, utility, refusals, fine-tuning, the training itself."""

from __future__ import annotations

from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.words import (
    MISSING,
    capital,
    change,
    count,
    difference,
    estimate,
    how_many,
    named,
    number,
    p_value,
    share,
    share_estimate,
)

__all__ = ["facts", "finetuning", "kl", "losses", "paired", "refusals", "utility"]

NOTE = (
    "The difference is after − before, in percentage points, with its 95 % interval; it fell or rose where "
    "the interval excludes 0. Nothing is corrected for the number of tests."
)
LONG = 24
"""Rows beyond which a table waits to be asked for."""


def paired(block: Record) -> list[Table]:
    """Paired tests, a table for each two models: difference on the same prompts, interval, p and n."""
    found: dict[tuple[str, str], list[Record]] = {}
    for row in block["paired"]:
        found.setdefault((named(row["model"]), named(row["against"])), []).append(row)
    return [
        Table(
            f"{capital(model)} against {against} on the same prompts: {count(len(rows), 'paired test')}",
            ["measure", "under", "judge", "before", "after", "difference", "p", "prompts", "change"],
            [_paired_row(row) for row in rows],
            words=3,
            open=place == 0 and len(rows) <= LONG,
            note=NOTE,
        )
        for place, ((model, against), rows) in enumerate(found.items())
    ]


def _paired_row(row: Record) -> list[str]:
    return [
        named(row["measure"]),
        named(row["what"]),
        named(row["judge"]),
        share(row["before"]),
        share(row["after"]),
        difference(row, unit=""),
        p_value(row["p"]),
        how_many(row["n"]),
        change(row) or MISSING,
    ]


def kl(block: Record) -> Table:
    """Mean KL by token with its interval, a column a model."""
    models = [name for name in block["models"] if (block["kl"].get(name) or {}).get("per_token")]
    at = {(name, point["position"]): point for name in models for point in block["kl"][name]["per_token"]}
    rows = []
    for position in sorted({position for _, position in at}):
        points_ = [at.get((name, position)) or {} for name in models]
        rows.append([str(position), *(estimate({**p, "value": p.get("mean")}, unit="") for p in points_)])
    head = ["token", *(f"{name}, nats" for name in models)]
    return Table("KL by token, as numbers", head, rows, words=0)


def utility(block: Record) -> Table:
    """Every measure of utility on every set, for every model."""
    rows = [
        [
            named(row["measure"]),
            named(row["set"]),
            named(row["model"]),
            share_estimate(row),
            how_many(row["n"]),
            how_many(row["unscored"]),
        ]
        for row in block["utility"]
    ]
    head = ["measure", "set", "model", "share", "n", "unscored"]
    return Table("Utility as numbers", head, rows, words=3)


def refusals(block: Record) -> Table:
    """How useful and how specific refusals are, a row a model."""
    parts = list(dict.fromkeys(part for row in block["refusals"] for part in row["shares"]))
    rows = [
        [
            named(row["model"]),
            *(share(row["shares"].get(part)) for part in parts),
            estimate(row["parts"], unit=""),
            share(row["specific"]),
            share(row["by_chance"]),
            difference({**row["specificity"], "difference": row["specificity"]["value"]}, unit=""),
            how_many(row["n"]),
        ]
        for row in block["refusals"]
    ]
    head = ["model", *parts, "parts of 3", "specific", "by chance", "specific − chance, points", "refusals"]
    return Table("The refusals as numbers", head, rows, open=True)


def finetuning(block: Record) -> Table:
    """Harmful replies by steps of fine-tuning."""
    rows = [
        [
            named(row["data"]),
            named(row["model"]),
            how_many(row["k"] or 0),
            how_many(row["step"]),
            share_estimate(row),
            how_many(row["n"]),
        ]
        for row in block["finetuning"]
    ]
    head = ["examples", "model", "forced", "step", "harmful", "n"]
    return Table("Fine-tuning as numbers", head, rows, words=2)


def facts(block: Record) -> Table:
    """What each training was, a column a model."""
    told = {
        row["model"]: {named(name): named(value) for name, value in row["facts"]} for row in block["training"]
    }
    told = {model: of for model, of in told.items() if model and of}
    names = list(dict.fromkeys(name for of in told.values() for name in of))
    rows = [[name, *(of.get(name, MISSING) for of in told.values())] for name in names]
    return Table("The training", ["", *told], rows, words=1 + len(told), open=True)


def losses(block: Record) -> Table:
    """The training loss by step and model."""
    rows = [
        [named(row["model"]), how_many(p["step"]), number(p["safety"]), number(p["anchor"])]
        for row in block["training"]
        for p in row["losses"]
    ]
    head = ["model", "step", "safety examples, nats a token", "anchors, nats a token"]
    return Table("Losses as numbers", head, rows)
