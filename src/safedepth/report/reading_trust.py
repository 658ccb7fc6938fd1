"""The blocks on judges, benchmarks and utility as the page counts on them.

Every part is in its place, empty where the study wrote nothing. No meaning is known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safedepth.report.shapes import ESTIMATE, PAIRED, estimate, listed, mapping, rows
from safedepth.report.style import Record

__all__ = ["BLOCKS", "alpaca", "calibrated", "sources", "trade_off", "trusted"]

RATE = (*ESTIMATE, "unscored")
PAIR = ("first", "second", "scope", "n", "both", "only_first", "only_second", "neither", "unscored")
COUNTS = ("tp", "fp", "fn", "tn", "n", "unscored")
ERRORS = ("precision", "recall", "specificity", "accuracy", "kappa")
VARIANT = ("model", "attack", "k", "turn", "variant", "prefix", "judge", "scope")
SOURCE = ("benchmark", "location", "files", "sha256", "release", "revision", "warnings")
BLOCKS = {
    "judges": ("name", "reference", "model", "what"),
    "classes": ("class", "judge", "scope", *RATE),
    "categories": ("model", "category", "attack", "k", "variant", "judge", *RATE),
    "harness": (
        "model", "task", "metric", "higher_is_better", *RATE, "few_shot", "version",
    ),
    "requests": ("model", "set", "measure", "judge", *RATE),
    "by_type": ("model", "set", "type", "measure", "judge", *RATE),
}  # fmt: skip
"""The lists that a summary may hold at its top, with the fields of their rows."""


def trusted(summary: Record) -> dict[str, Any]:
    """Every block on judges, benchmarks and utility, each in its place."""
    found: dict[str, Any] = {key: rows(summary, key, fields) for key, fields in BLOCKS.items()}
    return found | {
        "run": dict.fromkeys(("name", "kind", "created")) | mapping(summary, "run"),
        "agreement": [
            row | {"kappa": estimate(row.get("kappa"))} for row in rows(summary, "agreement", PAIR)
        ],
        "alpaca": alpaca(summary.get("alpaca")),
        "sources": sources(summary),
        "trade_off": trade_off(mapping(summary, "trade_off")),
    }


def calibrated(of: Any) -> dict[str, Any] | None:
    """Judges against a truth: their errors by class of reply, and rates corrected for them."""
    if not isinstance(of, Mapping) or not of:
        return None
    errors = [
        row | {name: estimate(row.get(name)) for name in ERRORS}
        for row in rows(of, "rows", ("judge", "scope", "class", *COUNTS))
    ]
    corrected = [
        row | {"judged": {"unscored": None} | estimate(row.get("judged"))}
        for row in rows(of, "corrected", (*VARIANT, *ESTIMATE, "why"))
    ]
    told = {key: of.get(key) for key in ("truth", "n", "unlabelled", "unmatched")}
    return told | {"rows": errors, "corrected": corrected}


def alpaca(of: Any) -> dict[str, Any]:
    """How often an annotator preferred the model's answers; empty where none was asked."""
    if not isinstance(of, Mapping) or not of:
        return {}
    return dict.fromkeys(("annotator", "reference", *RATE, "length_controlled")) | dict(of)


def sources(summary: Record) -> dict[str, dict[str, Any]]:
    """Where prompts and other data came from, by what they are for."""
    return {
        str(name): dict.fromkeys(SOURCE)
        | dict(of)
        | {key: [str(one) for one in listed(of, key) if one is not None] for key in ("files", "warnings")}
        for name, of in mapping(summary, "sources").items()
        if isinstance(of, Mapping) and of
    }


def trade_off(block: Record) -> dict[str, Any]:
    """Safety and utility of several models on the same questions; the first model is the one before."""
    if not block:
        return {}
    found = [
        row
        | {
            "cells": {
                str(role): {"unscored": None} | estimate(of) for role, of in mapping(row, "cells").items()
            },
            "paired": {
                str(role): dict.fromkeys((*PAIRED, "p_holm", "detectable")) | dict(of)
                for role, of in mapping(row, "paired").items()
                if isinstance(of, Mapping)
            },
        }
        for row in rows(block, "rows", ("side", "what", "measure", "judge", "better"))
    ]
    spoken = [role for row in found for role in (*row["cells"], *row["paired"])]
    models = [str(role) for role in listed(block, "models") if role]
    return {
        "models": list(dict.fromkeys([*models, *spoken])),
        "rows": found,
        "comparisons": block.get("comparisons"),
    }
