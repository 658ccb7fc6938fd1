"""Synthetic runs on utility, and trade-offs of safety and utility: formulas, not measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report.synthetic_deepening import base_summary, counted, share_at
from report.synthetic_judging import SOURCES
from report.synthetic_run import ATTACK, PROMPTS, card
from safedepth.report.words import count
from safedepth.runs import RunDirectory

TASKS = (
    ("mmlu", "acc", 0.46), ("gsm8k", "exact_match", 0.12), ("bbh", "exact_match", 0.31),
    ("ifeval", "acc", 0.4), ("safedepth_knowledge", "acc", 0.96), (ATTACK, "acc", 0.5),
)  # fmt: skip
TYPES = (
    "homonyms", "figurative language", "safe targets", "safe contexts", "definitions",
    "real discr. nonsense group", "nonsense discr. real group", "historical events", "privacy public",
    "privacy fictional",
)  # fmt: skip
ASKED = (("", "over-refusal", 0.3), ("contrast ", "refusals of unsafe requests", 1.0))
EMPTY: dict[str, Any] = {"value": None, "low": None, "high": None, "n": 0}


def rated(share: float) -> dict[str, Any]:
    return counted(share) | {"unscored": 1}


def harness(models: Sequence[str] = ("model",)) -> list[dict[str, Any]]:
    rows = [
        {"model": model, "task": task, "metric": metric, "higher_is_better": True, **rated(share),
         "few_shot": 5, "version": "1.0"}
        for model in models
        for task, metric, share in TASKS
    ]  # fmt: skip
    perplexity = {"value": 12.25, "low": 11.5, "high": 13.0, "n": 62, "unscored": 0}
    told = {"model": models[0], "few_shot": 0, "version": "2"}
    rows.append(
        {"task": "wikitext", "metric": "word_perplexity", "higher_is_better": False, **perplexity, **told}
    )
    rows.append(
        {"task": "humaneval", "metric": "pass@1", "higher_is_better": True, **EMPTY, "unscored": 164, **told}
    )
    return rows


def requests(models: Sequence[str] = ("model",)) -> list[dict[str, Any]]:
    asked = (
        ("benign", "right answers", "knowledge", 0.93), ("benign", "over-refusal", "rules", 0.0),
        ("lookalikes", "over-refusal", "rules", 0.2), ("xstest", "over-refusal", "rules", 0.12),
        ("xstest", "refusals of unsafe requests", "rules", 0.95),
    )  # fmt: skip
    return [
        {"model": model, "set": which, "measure": measure, "judge": judge, **rated(share)}
        for model in models
        for which, measure, judge, share in asked
    ]


def by_type(models: Sequence[str] = ("model",)) -> list[dict[str, Any]]:
    return [
        {"model": model, "set": "xstest", "type": f"{prefix}{kind}", "measure": measure,
         **counted(abs(base - 0.04 * i)), "n": 25, "unscored": 0}
        for model in models
        for prefix, measure, base in ASKED
        for i, kind in enumerate(TYPES)
    ]  # fmt: skip


def utility_summary(models: Sequence[str] = ("model",)) -> dict[str, Any]:
    """The summary of a run on utility with all its blocks."""
    return base_summary("utility") | {
        "models": {model: card(f"toy/{model}") for model in models},
        "judge": "rules",
        "rates": [],
        "depth": {},
        "harness": harness(models),
        "requests": requests(models),
        "by_type": by_type(models),
        "alpaca": {"annotator": "toy annotator", "reference": "toy reference", **counted(0.52),
                   "unscored": 2, "length_controlled": 0.49},
        "sources": SOURCES,
        "not_measured": [{"what": "HumanEval", "why": "It runs code; repeat with consent."}],
        "warnings": [],
    }  # fmt: skip


def make_utility_run(path: Path, found: Mapping[str, Any] | None = None) -> Path:
    """Write a synthetic run on utility, finished, and return its folder."""
    with RunDirectory.open(path, {"command": "utility", "seed": 0, "note": ATTACK}) as run:
        run.write_summary(dict(utility_summary() if found is None else found))
        run.finish()
    return path


def compared(before: float, after: float, *, half: float = 0.05) -> dict[str, Any]:
    delta = after - before
    sure = abs(delta) > half
    return {
        "before": before, "after": after, "difference": delta, "low": delta - half, "high": delta + half,
        "p": 0.0004 if sure else 0.43, "p_holm": 0.004 if sure else 1.0, "n": PROMPTS,
    }  # fmt: skip


def trade_off(models: Sequence[str] = ("aligned", "deepened", "control")) -> dict[str, Any]:
    """Safety and utility of several models, the first of them before."""
    asked = [
        ("safety", f"prefill, {count(k, 'token')} forced" if k else "prefill, nothing forced",
         "harmful replies", "oracle", "lower",
         [share_at({1: "deepened"}.get(i, "aligned"), k) for i in range(len(models))])
        for k in (0, 5, 20)
    ]  # fmt: skip
    asked += [
        ("utility", "benign", "right answers", "knowledge", "higher", [0.92, 0.93, 0.91]),
        ("utility", "lookalikes", "over-refusal", "rules", "lower", [0.02, 0.14, 0.02]),
        ("utility", "mmlu", "acc", "lm-eval", "higher", [0.46, 0.45, 0.46]),
        ("utility", ATTACK, "right answers", "knowledge", "higher", [0.5, 0.5, 0.5]),
    ]
    rows = [
        {
            "side": side, "what": what, "measure": measure, "judge": judge, "better": better,
            "cells": {model: rated(share) for model, share in zip(models, shares, strict=False)},
            "paired": {
                model: compared(shares[0], share) | {"detectable": 0.07 + 0.01 * place}
                for place, (model, share) in enumerate(zip(models[1:], shares[1:], strict=False))
            },
        }
        for side, what, measure, judge, better, shares in asked
    ]  # fmt: skip
    lost = rows[-1]
    lost["paired"] = {
        model: dict.fromkeys(("before", "after", "difference", "low", "high", "p", "p_holm", "detectable"))
        | {"n": 0}
        for model in models[1:]
    }
    lost |= {"cells": {model: EMPTY | {"unscored": PROMPTS} for model in models}}
    return {"models": list(models), "rows": rows, "comparisons": (len(models) - 1) * (len(rows) - 1)}
