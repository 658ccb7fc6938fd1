"""The blocks on attacks that leave the weights alone, as the page counts on them.

Every part is in its place, empty where the study wrote nothing. No meaning is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report.shapes import ESTIMATE, estimate, mapping, pairs, rows
from safedepth.report.style import Record

__all__ = ["adaptive", "attacks", "cost", "decoding", "suffixes"]

RATE = (*ESTIMATE, "unscored")
WHOSE = ("model", "judge")
ARM = ("arm", "attack", "variant", "k", "tries", "broke")


def attacks(block: Record) -> dict[str, Any]:
    """Every attack at its strongest, and what any of them broke."""
    return {
        "overview": rows(block, "overview", (*WHOSE, "attack", "variant", "k", *RATE)),
        "any": rows(block, "any", (*WHOSE, *RATE)),
    }


def decoding(block: Record) -> dict[str, Any]:
    """Harmful replies by decoding setting, the worst of all settings, and the best of n."""
    return {
        "settings": rows(block, "settings", (*WHOSE, "kind", "setting", "variant", *RATE)),
        "worst": rows(block, "worst", (*WHOSE, *RATE)),
        "best_of": _placed(rows(block, "best_of", (*WHOSE, "tries", *RATE)), "tries"),
    }


def suffixes(found: Any) -> list[dict[str, Any]]:
    """Searches for suffixes, one entry a model, be it one mapping or a list of them."""
    if isinstance(found, Mapping):
        found = [found] if found else []
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    return [_suffix(block) for block in found if isinstance(block, Mapping) and block]


def _suffix(block: Record) -> dict[str, Any]:
    loss = _placed(rows(block, "loss", ("prompt_id", "step", "loss")), "step")
    return {
        "facts": pairs(block.get("facts")),
        "method": block.get("method"),
        "model": block.get("model"),
        "loss": [row for row in loss if row["loss"] is not None],
        "searches": rows(block, "searches", ("prompt_id", "steps", "loss", "broken", "seconds")),
        "success": _placed(rows(block, "success", ("step", *RATE)), "step"),
    }


def adaptive(block: Record) -> dict[str, Any]:
    """An adaptive attacker's tries, what it chose, and its worst case."""
    told = ("prompt_id", "tries", "broken_by", "confirmed", "repeated")
    return {
        "facts": pairs(block.get("facts")),
        "budget": block.get("budget"),
        "curve": _placed(rows(block, "curve", ("policy", "tries", *RATE)), "tries"),
        "arms": rows(block, "arms", ARM),
        "prompts": rows(block, "prompts", told),
        "worst": {"unscored": None} | estimate(block.get("worst")),
    }


def cost(block: Record) -> dict[str, Any]:
    """What the replies of a run cost."""
    found = mapping({"cost": block}, "cost")
    return dict.fromkeys(("replies", "tokens", "seconds")) | found if found else {}


def _placed(found: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """The rows that say where on the axis they stand."""
    return [row for row in found if row[by] is not None]
