"""The blocks on servers, log-probabilities, precision and processes as the page counts on them.

Every part is in its place, empty where the study wrote nothing. No meaning is known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safedepth.report.shapes import ESTIMATE, estimate, listed, mapping, rows
from safedepth.report.style import Record

__all__ = ["divergence", "measured"]

POINT = ("position", "mean", "low", "high", "n")
SHARES = ("tokens", "share_first_5", "share_first_5_low", "share_first_5_high")
SERVER = ("url", "model", "forcing", "context", "fingerprint")
ABILITY = ("name", "answer", "evidence")


def measured(summary: Record) -> dict[str, Any]:
    """What a run says of its servers, of log-probabilities, of rounding, and of how many processes it had."""
    return {
        "servers": {
            str(role): _reached(of)
            for role, of in mapping(summary, "servers").items()
            if isinstance(of, Mapping) and of
        },
        "answers": rows(summary, "answers", ("model", "position", *ESTIMATE)),
        "precision": [
            row
            | {
                "kl": divergence(row.get("kl")),
                "argmax_changed": {"unscored": None} | estimate(row.get("argmax_changed")),
            }
            for row in rows(summary, "precision", ("model", "dtype"))
        ],
        "processes": summary.get("processes"),
    }


def divergence(of: Any) -> dict[str, Any] | None:
    """A KL by position with its shares; None where there is none."""
    if not isinstance(of, Mapping) or not of:
        return None
    points = [p for p in rows(of, "per_token", POINT) if p["position"] is not None]
    return {key: of.get(key) for key in SHARES} | {"per_token": points}


def _reached(of: Mapping[str, Any]) -> dict[str, Any]:
    """The servers behind one role, each with what it can do."""
    servers = [
        row
        | {
            "served_as": [str(name) for name in listed(row, "served_as") if name],
            "abilities": rows(row, "abilities", ABILITY),
        }
        for row in rows(of, "capabilities", SERVER)
    ]
    return {"capabilities": servers, "forced_as": of.get("forced_as")}
