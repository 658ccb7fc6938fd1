"""The blocks on fine-tuning as the page counts on them: dynamics, protection, attack, sweep.

Every part is in its place, empty where the study wrote nothing. No meaning is known here.
"""

from __future__ import annotations

from typing import Any

from safedepth.report.shapes import COMPARED, ESTIMATE, estimate, mapping, pairs, rows
from safedepth.report.style import Record

__all__ = ["attack", "dynamics", "protection", "sweep"]

RATE = (*ESTIMATE, "unscored")
STEPPED = ("model", "data", "objective", "step", "k", *RATE)
TESTED = ("what", "model", "measure", "k", *RATE)
DIAGNOSED = ("run", "step", "position", "last", "n", "nll", "weight", "kl", "advantage")
RUN = ("attack", "model", "objective", "beta", "warmup", "step", *RATE)
TASK = ("task", "start", "model", "objective", "beta", "warmup", "metric")
TRIAL = ("defence", "learning_rate", "epochs", "seed", "peft", "search", "failed", "within")
WORST = ("defence", "trial", *RATE, "trials", "within")


def dynamics(block: Record) -> dict[str, Any]:
    """What fine-tuning did by step, response position and layer; `estimated` where norms are estimates."""
    return {
        "asr": rows(block, "asr", STEPPED),
        "positions": _placed(rows(block, "positions", ("measure", "step", "position", *ESTIMATE))),
        "layers": [
            row for row in _placed(rows(block, "layers", ("step", "layer", "position", "value")))
            if row["layer"] is not None
        ],
        "spread": rows(block, "spread", ("measure", "step", "share_first", "low", "high", "n", "first")),
        "facts": pairs(block.get("facts")),
        "estimated": block.get("estimated"),
    }  # fmt: skip


def protection(block: Record) -> dict[str, Any]:
    """Constrained fine-tuning: of one model (`objective` to `training`), of many runs (`runs` to `betas`)."""
    betas = {str(name): pairs(of) for name, of in mapping(block, "betas").items()}
    return {
        "objective": block.get("objective"),
        "beta": pairs(block.get("beta")),
        "diagnostics": [
            row for row in _placed(rows(block, "diagnostics", DIAGNOSED)) if row["step"] is not None
        ],
        "asr": rows(block, "asr", TESTED),
        "utility": rows(block, "utility", TESTED),
        "paired": rows(block, "paired", COMPARED),
        "training": mapping(block, "training"),
        "runs": rows(block, "runs", RUN),
        "tasks": [
            row
            | {key: rate(row.get(key)) for key in ("utility", "asr")}
            | {"metric": row["metric"] or mapping(row, "utility").get("metric")}
            for row in rows(block, "tasks", TASK)
        ],
        "betas": {name: of for name, of in betas.items() if of},
    }


def attack(block: Record) -> dict[str, Any]:
    """A model before and after an attack on its weights."""
    return {
        "kind": block.get("kind"),
        "objective": block.get("objective"),
        "evaluations": rows(block, "evaluations", ("what", "model", *RATE)),
        "utility": [
            row | {"what": row["set"] if row["what"] is None else row["what"]}
            for row in rows(block, "utility", ("set", *TESTED))
        ],
        "facts": pairs(block.get("facts")),
    }


def sweep(block: Record) -> dict[str, Any]:
    """The trials of an attacker's sweep, and the worst of every defence within the bound on utility."""
    trials = [
        row | {key: rate(row.get(key)) for key in ("asr", "utility")} for row in rows(block, "trials", TRIAL)
    ]
    before = mapping(block, "before")
    worst = [row | {"utility": rate(row.get("utility"))} for row in rows(block, "worst", WORST)]
    return {
        "bound": dict.fromkeys(("metric", "least")) | mapping(block, "bound"),
        "attack": block.get("attack"),
        "before": {key: rate(before.get(key)) for key in ("asr", "utility")},
        "trials": trials,
        "worst": [row for row in worst if row["defence"] is not None],
    }


def rate(of: Any) -> dict[str, Any]:
    """A rate with all its fields; a number alone is a rate whose interval nobody wrote down."""
    if isinstance(of, int | float):
        of = {"value": of}
    return {"unscored": None} | estimate(of)


def _placed(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that say at which position of the response they were measured."""
    return [row for row in found if row["position"] is not None]
