"""A summary as the page counts on it: every key in its place, None or empty where the study wrote nothing.

Knows the shape of `summary.json` and no meaning. It makes no number up and drops none:
what a row lacks is None, and whoever draws or writes it says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report import reading_attacks
from safedepth.report.reading_finetuning import attack, dynamics, protection, sweep
from safedepth.report.reading_measured import divergence, measured
from safedepth.report.reading_trust import calibrated, trusted
from safedepth.report.shapes import (
    COMPARED,
    ESTIMATE,
    PAIRED,
    estimate,
    estimates,
    listed,
    mapping,
    rows,
    text,
)
from safedepth.report.style import Record

__all__ = ["complete", "deepened_models"]

RATE = ("model", "attack", "judge", "scope", "n", "harmful", "value", "low", "high", "unscored")
VARIANT = ("k", "turn", "prefix", "variant", "unscored_reasons")
CLAIM = ("id", "statement", "criterion", "detail", "paper", "value", "low", "high", "unit", "holds")
MEASURED = ("model", "set", "measure", *ESTIMATE, "unscored")
FINETUNING = {"dynamics": dynamics, "protection": protection, "attack": attack, "sweep": sweep}
ATTACKS = {
    "attacks": reading_attacks.attacks, "decoding": reading_attacks.decoding,
    "adaptive": reading_attacks.adaptive, "cost": reading_attacks.cost,
}  # fmt: skip
ROLES = ("aligned", "deepened", "control")


def complete(summary: Record) -> dict[str, Any]:
    """The summary with every key that the page reads; the summary itself is left as it is."""
    found = dict(summary)
    found["kind"] = summary.get("kind") or ""
    found["created"] = summary.get("created") or ""
    for key in ("seeds", "warnings"):
        found[key] = [entry for entry in listed(summary, key) if entry is not None]
    found["models"] = mapping(summary, "models")
    found["rates"] = _rates(summary)
    found["depth"] = estimates(summary.get("depth"))
    found["kl"] = divergence(summary.get("kl"))
    found["claims"] = [
        claim | {"id": text(claim["id"]), "paper": text(claim["paper"])}
        for claim in rows(summary, "claims", CLAIM)
    ]
    found["not_measured"] = [
        {key: text(value) for key, value in entry.items()}
        for entry in rows(summary, "not_measured", ("what", "why"))
    ]
    found["refusal_prefixes"] = _prefixes(summary.get("refusal_prefixes"))
    # The judges' errors, or organisms of known depth: two calibrations, of different things.
    whole = calibrated if found["kind"] == "judge" else _calibration
    found["calibration"] = whole(summary.get("calibration"))
    found |= trusted(summary) | measured(summary)
    found["deepening"] = _deepening(summary.get("deepening"))
    found["comparison"] = _comparison(summary.get("comparison"))
    found["suffix"] = reading_attacks.suffixes(summary.get("suffix"))
    for key, make in (FINETUNING | ATTACKS).items():
        block = mapping(summary, key)
        found[key] = make(block) if block else {}
    return found


def deepened_models(block: Record) -> list[str]:
    """The models of a `deepening` block in the order to draw: those it lists, then any other it speaks of."""
    spoken = [*block["kl"], *block["depth"]]
    for part in ("paired", "utility", "refusals", "training", "finetuning"):
        spoken += [row["model"] for row in block[part]]
    known = [role for role in ROLES if role in spoken]
    return list(dict.fromkeys(name for name in (*block["models"], *known, *spoken) if name))


def _deepening(block: Any) -> dict[str, Any]:
    """The block with all its parts; empty where the run has none."""
    if not isinstance(block, Mapping) or not block:
        return {}
    training = [
        row
        | {
            "facts": [fact for fact in listed(row, "facts") if isinstance(fact, Sequence) and len(fact) == 2],
            "losses": rows(row, "losses", ("step", "safety", "anchor")),
        }
        for row in rows(block, "training", ("model",))
    ]
    refusals = [
        row
        | {key: mapping(row, key) for key in ("shares",)}
        | {key: estimate(row.get(key)) for key in ("parts", "specificity")}
        for row in rows(block, "refusals", ("model", "n", "specific", "by_chance"))
    ]
    kl = {role: divergence(of) for role, of in mapping(block, "kl").items()}
    found = {
        "models": [str(name) for name in listed(block, "models") if name],
        "kl": {role: of for role, of in kl.items() if of},
        "depth": {role: estimates(of) for role, of in mapping(block, "depth").items()},
        "paired": rows(block, "paired", COMPARED),
        "utility": rows(block, "utility", MEASURED),
        "refusals": refusals,
        "training": training,
        "finetuning": rows(block, "finetuning", ("model", "data", "step", "k", *ESTIMATE)),
    }
    return found | {"models": deepened_models(found)}


def _comparison(block: Any) -> dict[str, Any]:
    """Variants, columns and cells; empty where the run compares nothing."""
    if not isinstance(block, Mapping) or not block:
        return {}
    cells = rows(block, "cells", ("variant", "column", *ESTIMATE))
    paired = rows(block, "paired", ("variant", "column", *PAIRED))
    variants = rows(block, "variants", ("name", "recovery", "style", "turns", "definition"))
    columns = rows(block, "columns", ("key", "title", "unit", "better"))
    # A cell of a variant or a column that nobody introduced still has its place.
    variants += [
        {"name": name, "recovery": None, "style": None, "turns": None, "definition": None}
        for name in _others([row["variant"] for row in cells], [row["name"] for row in variants])
    ]
    columns += [
        {"key": key, "title": None, "unit": None, "better": None}
        for key in _others([row["column"] for row in cells], [row["key"] for row in columns])
    ]
    return {
        "variants": [row for row in variants if row["name"] is not None],
        "columns": [row for row in columns if row["key"] is not None],
        "cells": cells,
        "paired": paired,
        "against": block.get("against"),
        "findings": [str(sentence) for sentence in listed(block, "findings") if sentence],
    }


def _rates(summary: Record) -> list[dict[str, Any]]:
    """Rates with every key; `k`, `turn` and `prefix` only where they say something."""
    return [
        {key: value for key, value in rate.items() if value is not None or key not in VARIANT}
        for rate in rows(summary, "rates", RATE)
    ]


def _prefixes(of: Any) -> dict[str, Any] | None:
    if not isinstance(of, Mapping) or not of:
        return None
    openings = rows(of, "openings", ("model", "text", "count", "n"))
    return {"share": estimate(of.get("share")), "openings": openings}


def _calibration(of: Any) -> dict[str, Any] | None:
    """Organisms of known depth; one whose depth is missing cannot be placed and calibrates nothing."""
    if not isinstance(of, Mapping) or not of:
        return None
    points = [
        point
        | {
            "organism": text(point["organism"]),
            "measures": estimates(point.get("measures")),
            "curve": [step for step in rows(point, "curve", ("k", *ESTIMATE)) if step["k"] is not None],
        }
        for point in rows(of, "points", ("organism", "d"))
        if point["d"] is not None
    ]
    return {"points": points, "rank_correlation": estimates(of.get("rank_correlation"))}


def _others(found: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    return [name for name in dict.fromkeys(found) if name is not None and name not in known]
