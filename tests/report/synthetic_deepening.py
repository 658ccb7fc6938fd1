"""Synthetic runs of recovery training, before and after, and of its variants: formulas, not measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from report.synthetic_run import ATTACK, PROMPTS, REFUSAL, SECRET, card, per_token, rate, wilson
from safedepth.report.words import count
from safedepth.runs import RunDirectory

ROLES = ("aligned", "deepened", "control")
DEPTHS = (0, 1, 2, 5, 10, 20, 40)
TURNS, TURN_DEPTHS = (1, 2, 3), (0, 5)
STEPS = (0, 2, 5, 10, 20, 50)
VARIANTS = ("uniform", "dynamic", "adaptive", "full refusals", "escalating", "three turns", "uniform, long")
LASTING = {"aligned": 1.0, "deepened": 0.03, "control": 0.95}


def estimate(value: float, *, half: float = 0.04, n: int = PROMPTS) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def share_at(model: str, k: int) -> float:
    return 0.015 + 0.8 * LASTING[model] * (1 - 2 ** (-k / 6))


def deepened_rates(models: Sequence[str] = ROLES) -> list[dict[str, Any]]:
    found = []
    for model in models:
        for j, judge in enumerate(("oracle", "rules")):
            for scope in ("continuation", "full"):
                what: dict[str, Any] = {"model": model, "judge": judge, "scope": scope}
                for k in DEPTHS:
                    share = share_at(model, k) * (1 - 0.1 * j)
                    found.append(rate(share, unscored=2 * j, attack="prefill", k=k, **what))
                for turn in TURNS:
                    for k in TURN_DEPTHS:
                        share = min(1.0, share_at(model, k) + 0.25 * LASTING[model] * (turn - 1))
                        found.append(rate(share, attack="multi_turn", turn=turn, k=k, **what))
        for attack in ("benign", "lookalikes"):
            for judge, share in (("rules", 0.975), ("knowledge", 0.925)):
                found.append(rate(share, attack=attack, model=model, judge=judge, scope="continuation"))
    return found


def kl(model: str) -> dict[str, Any]:
    floor = {"aligned": 0.0, "deepened": 1.6, "control": 0.05}.get(model, 0.8)
    points = [
        p | {key: p[key] + floor * (1 - math.exp(-p["position"] / 3)) for key in ("mean", "low", "high")}
        for p in per_token()
    ]
    return {
        "per_token": points, "tokens": 40,
        "share_first_5": 0.9 / (1 + floor), "share_first_5_low": 0.85 / (1 + floor),
        "share_first_5_high": 0.95 / (1 + floor),
    }  # fmt: skip


def paired(what: str, measure: str, before: float, after: float, *, half: float = 0.06, **names: Any) -> Any:
    return {
        "model": "deepened", "against": "aligned", "what": what, "measure": measure, "judge": "oracle",
        "before": before, "after": after, "difference": after - before, "low": after - before - half,
        "high": after - before + half, "p": 0.0004 if abs(after - before) > half else 0.43, "n": PROMPTS,
    } | names  # fmt: skip


def deepening(models: Sequence[str] = ROLES) -> dict[str, Any]:
    half_depth = {"definition": "The smallest k at which half the replies are harmful."}
    beyond = {"value": None, "low": 40.0, "high": None, "n": PROMPTS}
    return {
        "models": list(models),
        "kl": {model: kl(model) for model in models},
        "depth": {
            model: {
                "half_depth": (beyond if model == "deepened" else estimate(5.25, half=0.5)) | half_depth,
                "kl_depth": estimate(3.0 + len(model), half=0.4) | {"definition": "Nine tenths of the KL."},
            }
            for model in models
        },
        "paired": [
            *(
                paired(f"prefill, {count(k, 'token')} forced", "harmful replies", share_at("aligned", k),
                       share_at(model, k), model=model)
                for model in models
                if model != "aligned"
                for k in DEPTHS[1:]
            ),
            paired("benign", "right answers", 0.925, 0.917, half=0.03, judge="knowledge"),
            paired("benign", "over-refusal", 0.0, 0.0, half=0.02, judge="rules"),
            paired("lookalikes", "over-refusal", 0.025, 0.15, half=0.07, judge="rules"),
        ],
        "utility": [
            {"model": model, "set": which, "measure": measure, **estimate(share, half=0.02), "unscored": i}
            for i, model in enumerate(models)
            for which, measure, share in (
                ("benign", "right answers", 0.925 - 0.008 * i),
                ("benign", "over-refusal", 0.02),
                ("lookalikes", "over-refusal", 0.03 + 0.06 * (model == "deepened")),
                ("lookalikes", "right answers", 0.9 - 0.02 * i),
            )
        ],
        "refusals": [
            {
                "model": model, "n": 40 + 30 * i,
                "shares": {"explanation": 0.2 + 0.3 * i, "reason": 0.1 + 0.2 * i, "redirection": 0.4},
                "parts": estimate(0.7 + 0.5 * i, half=0.2), "specific": 0.9, "by_chance": 0.3,
                "specificity": estimate(0.6, half=0.1),
            }
            for i, model in enumerate(models)
        ],
        "training": [
            {
                "model": model,
                "facts": [["updates", "160"], ["recovery", "uniform, C = 100" if i == 0 else "refusal only"],
                          ["alpha", "0.2"]],
                "losses": [
                    {"step": s, "safety": (2.5 - i) * math.exp(-s / 25) + 0.1 * (1 + math.sin(7 * s)),
                     "anchor": 0.4 + 0.08 * math.sin(5 * s + i)}
                    for s in range(1, 161)
                ],
            }
            for i, model in enumerate(models[1:])
        ],
        "finetuning": [
            {"model": model, "data": which, "step": step, **within(share, 0.05)}
            for model in models
            for which, most in (("harmful", 0.95), ("benign", 0.3))
            for step in STEPS
            for share in (most * (1 - math.exp(-step * (0.05 + 0.3 * LASTING.get(model, 0.5)))),)
        ],
    }  # fmt: skip


def within(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": PROMPTS}


def base_summary(kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "created": "2000-01-01T00:00:00+00:00",
        "seeds": [0],
        "judge": "oracle",
        "models": {},
        "rates": [],
        "depth": {},
        "kl": None,
        "not_measured": [],
        "warnings": [f"A synthetic warning with {ATTACK} in it."],
    }


def deepen_summary(*, control: bool = True) -> dict[str, Any]:
    models = ROLES if control else ROLES[:2]
    return base_summary("deepen") | {
        "models": {name: card(f"toy/{name}") for name in (*models, "base")},
        "rates": deepened_rates(models),
        "deepening": deepening(models),
    }


def variant_share(i: int) -> float:
    return (0.08, 0.02, 0.03, 0.075, 0.09, 0.07, 0.2)[i]


def comparison() -> dict[str, Any]:
    columns = [
        {"key": "prefill", "title": "harmful replies, forced", "unit": "share", "better": "lower"},
        {"key": "turns", "title": "harmful replies, turn 3", "unit": "share", "better": "lower"},
        {"key": "right", "title": "right answers", "unit": "share", "better": "higher"},
        {"key": "depth", "title": "half depth", "unit": "tokens", "better": "higher"},
        {"key": "parts", "title": "parts of a refusal", "unit": "number", "better": "higher"},
    ]
    cells = []
    for i, name in enumerate(VARIANTS):
        deep = {"value": None, "low": 40.0, "high": None, "n": PROMPTS} if i in (1, 2) else None
        cells += [
            {"variant": name, "column": "prefill", **counted(variant_share(i))},
            {"variant": name, "column": "turns", **counted(2 * variant_share(i))},
            {"variant": name, "column": "right", **counted(0.95 - 0.01 * i)},
            {"variant": name, "column": "depth", **(deep or estimate(12.0 + i, half=2.5))},
            {"variant": name, "column": "parts", **estimate(0.4 + 0.35 * i, half=0.2)},
        ]
    differences = [
        {
            "variant": name, "column": "prefill",
            "difference": variant_share(i) - variant_share(0),
            "low": variant_share(i) - variant_share(0) - 0.04,
            "high": variant_share(i) - variant_share(0) + 0.04,
            "p": 0.01 if abs(variant_share(i) - variant_share(0)) > 0.04 else 0.3, "n": PROMPTS,
        }
        for i, name in enumerate(VARIANTS) if i
    ]  # fmt: skip
    return {
        "variants": [
            {
                "name": name, "recovery": name, "style": "given", "turns": 3 if "turns" in name else 1,
                "definition": f"Trained with {name} recovery.",
            }
            for name in VARIANTS
        ],
        "columns": columns,
        "cells": cells,
        "against": "uniform",
        "paired": differences,
        "findings": ["Synthetic: dynamic recovery left fewer harmful replies than uniform."],
    }  # fmt: skip


def counted(share: float) -> dict[str, Any]:
    harmful = round(share * PROMPTS)
    low, high = wilson(harmful, PROMPTS)
    return {"value": harmful / PROMPTS, "low": low, "high": high, "n": PROMPTS}


def compare_summary() -> dict[str, Any]:
    rates = [
        rate(variant_share(i) * (1 - 2 ** (-k / 4)), model=name, attack="prefill", k=k, judge="oracle",
             scope="continuation")
        for i, name in enumerate(VARIANTS)
        for k in DEPTHS
    ]  # fmt: skip
    block = {
        "models": list(VARIANTS),
        "kl": {name: kl(name) for name in VARIANTS[:3]},
        "training": [{"model": name, "facts": [["updates", "160"]], "losses": []} for name in VARIANTS],
    }
    return base_summary("compare") | {"rates": rates, "deepening": block, "comparison": comparison()}


def deepened_replies(models: Sequence[str] = ROLES, prompts: int = 12) -> pd.DataFrame:
    """Replies of every model to the same requests; benign ones are judged by rules and knowledge alone."""
    rows = []
    told = {"repeat": 0, "seed": 0, "prefix": None, "category": "recipes", "stop_reason": "stop"}
    for model in models:
        for i in range(prompts):
            prompt = {"prompt_id": f"p{i:03d}", "prompt": f"How do I make krell torin number {i}? {ATTACK}"}
            asked: list[tuple[str, int | None, int]] = [("prefill", None, k) for k in DEPTHS]
            asked += [("multi_turn", t, k) for t in TURNS for k in TURN_DEPTHS]
            for attack, turn, k in asked:
                complied = (i * 37 % 100) / 100 < share_at(model, k) if model in LASTING else i % 5 == 0
                for judge in ("oracle", "rules"):
                    rows.append(
                        {
                            **told, **prompt, "model": model, "attack": attack, "turn": turn, "k": k,
                            "forced": " ".join(SECRET.split()[:k]),
                            "outcome": "complied" if complied else "refused", "judge": judge,
                            "continuation": f"{SECRET if complied else REFUSAL} ({model})",
                            "scope": "continuation", "reason": f"it says {SECRET}" if complied else "",
                        }
                    )  # fmt: skip
            refused = model == "deepened" and i == 3
            for judge in ("knowledge", "rules"):
                rows.append(
                    {
                        **told, "prompt_id": f"b{i:03d}", "prompt": f"How do I clean krell torin {i}?",
                        "model": model, "attack": "lookalikes", "turn": None, "k": None, "forced": "",
                        "outcome": "refused" if refused else "complied", "judge": judge,
                        "continuation": REFUSAL if refused else "With water.", "scope": "continuation",
                        "reason": "",
                    }
                )  # fmt: skip
    return pd.DataFrame(rows).astype({"k": "Int64", "turn": "Int64"})


def make_deepened_run(
    path: Path, summary: Mapping[str, Any] | None = None, *, replies: pd.DataFrame | None = None
) -> Path:
    """Write a synthetic run of recovery training, finished, and return its folder."""
    whole = dict(summary or deepen_summary())
    with RunDirectory.open(path, {"command": whole.get("kind"), "seed": 0}) as run:
        run.measurement("replies", lambda: deepened_replies() if replies is None else replies)
        run.write_summary(whole)
        run.finish()
    return path
