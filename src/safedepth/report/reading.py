"""A summary as the page counts on it: every key in its place, None or empty where the study wrote nothing.

Knows the shape of `summary.json` and no meaning. It makes no number up and drops none:
what a row lacks is None, and whoever draws or writes it says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report.style import Record

__all__ = ["complete", "deepened_models"]

ESTIMATE = ("value", "low", "high", "n")
RATE = ("model", "attack", "judge", "scope", "n", "harmful", "value", "low", "high", "unscored")
VARIANT = ("k", "turn", "prefix", "unscored_reasons")
POINT = ("position", "mean", "low", "high", "n")
SHARES_OF_KL = ("tokens", "share_first_5", "share_first_5_low", "share_first_5_high")
CLAIM = ("id", "statement", "criterion", "detail", "paper", "value", "low", "high", "unit", "holds")
PAIRED = ("before", "after", "difference", "low", "high", "p", "n")
COMPARED = ("model", "against", "what", "measure", "judge", *PAIRED)
MEASURED = ("model", "set", "measure", *ESTIMATE, "unscored")
ROLES = ("aligned", "deepened", "control")


def complete(summary: Record) -> dict[str, Any]:
    """The summary with every key that the page reads; the summary itself is left as it is."""
    found = dict(summary)
    found["kind"] = summary.get("kind") or ""
    found["created"] = summary.get("created") or ""
    for key in ("seeds", "warnings"):
        found[key] = [entry for entry in _list(summary, key) if entry is not None]
    found["models"] = _mapping(summary, "models")
    found["rates"] = _rates(summary)
    found["depth"] = _estimates(summary.get("depth"))
    found["kl"] = _kl(summary.get("kl"))
    found["claims"] = [
        claim | {"id": _text(claim["id"]), "paper": _text(claim["paper"])}
        for claim in _rows(summary, "claims", CLAIM)
    ]
    found["not_measured"] = [
        {key: _text(value) for key, value in entry.items()}
        for entry in _rows(summary, "not_measured", ("what", "why"))
    ]
    found["refusal_prefixes"] = _prefixes(summary.get("refusal_prefixes"))
    found["calibration"] = _calibration(summary.get("calibration"))
    found["deepening"] = _deepening(summary.get("deepening"))
    found["comparison"] = _comparison(summary.get("comparison"))
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
            "facts": [fact for fact in _list(row, "facts") if isinstance(fact, Sequence) and len(fact) == 2],
            "losses": _rows(row, "losses", ("step", "safety", "anchor")),
        }
        for row in _rows(block, "training", ("model",))
    ]
    refusals = [
        row
        | {key: _mapping(row, key) for key in ("shares",)}
        | {key: _estimate(row.get(key)) for key in ("parts", "specificity")}
        for row in _rows(block, "refusals", ("model", "n", "specific", "by_chance"))
    ]
    kl = {role: _kl(of) for role, of in _mapping(block, "kl").items()}
    found = {
        "models": [str(name) for name in _list(block, "models") if name],
        "kl": {role: of for role, of in kl.items() if of},
        "depth": {role: _estimates(of) for role, of in _mapping(block, "depth").items()},
        "paired": _rows(block, "paired", COMPARED),
        "utility": _rows(block, "utility", MEASURED),
        "refusals": refusals,
        "training": training,
        "finetuning": _rows(block, "finetuning", ("model", "data", "step", "k", *ESTIMATE)),
    }
    return found | {"models": deepened_models(found)}


def _comparison(block: Any) -> dict[str, Any]:
    """Variants, columns and cells; empty where the run compares nothing."""
    if not isinstance(block, Mapping) or not block:
        return {}
    cells = _rows(block, "cells", ("variant", "column", *ESTIMATE))
    paired = _rows(block, "paired", ("variant", "column", *PAIRED))
    variants = _rows(block, "variants", ("name", "recovery", "style", "turns", "definition"))
    columns = _rows(block, "columns", ("key", "title", "unit", "better"))
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
        "findings": [str(sentence) for sentence in _list(block, "findings") if sentence],
    }


def _rates(summary: Record) -> list[dict[str, Any]]:
    """Rates with every key; `k`, `turn` and `prefix` only where they say something."""
    return [
        {key: value for key, value in rate.items() if value is not None or key not in VARIANT}
        for rate in _rows(summary, "rates", RATE)
    ]


def _kl(of: Any) -> dict[str, Any] | None:
    if not isinstance(of, Mapping) or not of:
        return None
    points = [p for p in _rows(of, "per_token", POINT) if p["position"] is not None]
    return {key: of.get(key) for key in SHARES_OF_KL} | {"per_token": points}


def _prefixes(of: Any) -> dict[str, Any] | None:
    if not isinstance(of, Mapping) or not of:
        return None
    openings = _rows(of, "openings", ("model", "text", "count", "n"))
    return {"share": _estimate(of.get("share")), "openings": openings}


def _calibration(of: Any) -> dict[str, Any] | None:
    """Organisms of known depth; one whose depth is missing cannot be placed and calibrates nothing."""
    if not isinstance(of, Mapping) or not of:
        return None
    points = [
        point
        | {
            "organism": _text(point["organism"]),
            "measures": _estimates(point.get("measures")),
            "curve": [step for step in _rows(point, "curve", ("k", *ESTIMATE)) if step["k"] is not None],
        }
        for point in _rows(of, "points", ("organism", "d"))
        if point["d"] is not None
    ]
    return {"points": points, "rank_correlation": _estimates(of.get("rank_correlation"))}


def _estimates(of: Any) -> dict[str, dict[str, Any]]:
    return {str(name): _estimate(entry) for name, entry in (of or {}).items()}


def _estimate(of: Any) -> dict[str, Any]:
    return dict.fromkeys(ESTIMATE) | (dict(of) if isinstance(of, Mapping) else {})


def _rows(of: Record, key: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a list, each with these fields at least."""
    return [dict.fromkeys(fields) | dict(row) for row in _list(of, key) if isinstance(row, Mapping)]


def _list(of: Record, key: str) -> list[Any]:
    value = of.get(key)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _mapping(of: Record, key: str) -> dict[str, Any]:
    value = of.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def _others(found: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    return [name for name in dict.fromkeys(found) if name is not None and name not in known]


def _text(value: Any) -> str:
    return "–" if value is None else str(value)
