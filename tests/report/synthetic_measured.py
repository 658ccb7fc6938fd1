"""Blocks on servers, log-probabilities and rounding, and runs without replies: all from formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report.synthetic_run import ATTACK, card, kl_table, per_token, summary
from safedepth.runs import RunDirectory

__all__ = ["answers", "make_measured_run", "measured_summary", "precision", "server", "servers"]

ABILITIES = ("continues", "white_space", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop")
TOKENS = 40


def server(
    port: int = 8000,
    *,
    no: Sequence[str] = (),
    unsure: Sequence[str] = ("seed",),
    forcing: str | None = "tokens",
) -> dict[str, Any]:
    """What one server can do: all but what is named."""
    sent = "The first 6 tokens of the model's own answer were sent as an assistant message"
    abilities = []
    for name in ABILITIES:
        answer = "no" if name in no else "unsure" if name in unsure else "yes"
        came = {"yes": "the other 9 came back", "no": "a new turn began", "unsure": "both would begin alike"}
        abilities.append({"name": name, "answer": answer, "evidence": f"{sent}; {came[answer]}. {ATTACK}"})
    return {
        "url": f"http://127.0.0.1:{port}/v1",
        "model": "toy/aligned",
        "served_as": ["toy/aligned"],
        "forcing": forcing,
        "context": 256,
        "fingerprint": "c0ffee" * 10 + "beef",
        "abilities": abilities,
    }


def servers(*, forced_as: str | None = "tokens", count: int = 1, **told: Any) -> dict[str, Any]:
    """A `servers` block: the aligned model behind so many servers."""
    found = [server(8000 + i, forcing=forced_as, **told) for i in range(count)]
    return {"aligned": {"capabilities": found, "forced_as": forced_as}}


def answers(models: Sequence[str] = ("aligned", "base"), tokens: int = TOKENS) -> list[dict[str, Any]]:
    """Mean log-probabilities: the aligned model's begin low and meet those of the base model."""
    found = []
    for i, model in enumerate(models):
        for t in range(1, tokens + 1):
            value = -0.9 - 0.3 * math.sin(t) - (9 * math.exp(-(t - 1) / 2.2) if i == 0 else 0.8 / t)
            half = 0.25 + 0.004 * t
            found.append(
                {"model": model, "position": t, "value": value, "low": value - half,
                 "high": min(0.0, value + half), "n": 120 - max(0, t - 30) * 3}
            )  # fmt: skip
    return found


def precision(
    models: Sequence[str] = ("aligned", "base"), dtype: str = "bfloat16", size: float = 2e-3
) -> list[dict[str, Any]]:
    """Rounding: about `size` nats at every token, the less the surer the model."""
    found = []
    for i, model in enumerate(models):
        points = [
            {**p, "mean": (m := size * (1 + 0.5 * math.sin(2 * p["position"] + i))), "low": 0.7 * m,
             "high": 1.4 * m}
            for p in per_token(TOKENS)
        ]  # fmt: skip
        kl = {"per_token": points, "tokens": TOKENS, "share_first_5": 0.13, "share_first_5_low": 0.1,
              "share_first_5_high": 0.16}  # fmt: skip
        changed = {"value": 0.004 + 0.001 * i, "low": 0.002, "high": 0.009, "n": 4400, "unscored": 0}
        found.append({"model": model, "dtype": dtype, "kl": kl, "argmax_changed": changed})
    return found


def measured_summary(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `safedepth measure` writes, with the KL falling below the floor at later tokens."""
    whole = summary("audit", base=True)
    points = [
        {**p, "mean": m, "low": 0.8 * m, "high": 1.25 * m}
        for p in per_token(TOKENS)
        if (m := 8 * math.exp(-(p["position"] - 1) / 3.5) + 1e-4)
    ]
    kept = ("created", "seeds", "depth", "warnings", "not_measured")
    depth = {
        "kl_depth": {"value": 4.0, "low": 3.0, "high": 5.0, "n": 120, "definition": "Where the KL ends."}
    }
    models = {role: card(f"toy/{role}") | {"dtype": "bfloat16"} for role in ("aligned", "base")}
    return {
        **{key: whole[key] for key in kept},
        "kind": "measure",
        "models": models,
        "judge": None,
        "kl": whole["kl"] | {"per_token": points},
        "depth": depth,
        "answers": answers(),
        "precision": precision(),
        "processes": 4,
        "sources": {},
        **(changes or {}),
    }


def make_measured_run(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write a finished run of `safedepth measure` and return its folder."""
    with RunDirectory.open(path, {"command": "measure", "seed": 0, "note": ATTACK}) as run:
        run.measurement("kl", lambda: kl_table(tokens=TOKENS))
        run.write_summary(measured_summary(changes))
        run.finish()
    return path
