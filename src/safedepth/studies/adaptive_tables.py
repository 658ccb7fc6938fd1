"""From an adaptive attacker's tries to its numbers: prompts broken by try, arms, what held up again.

Takes tables of replies with the columns `arm` and `try`, gives plain dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from safedepth.measure.best_of import worst_outcome
from safedepth.measure.statistics import rate
from safedepth.nouns import Outcome, Prompt
from safedepth.studies import summary
from safedepth.studies.attack_tables import worst_by
from safedepth.studies.summary import entry_of

__all__ = ["adaptive_summary"]


def adaptive_summary(
    tables: Mapping[str, pd.DataFrame],
    confirmed: pd.DataFrame | None,
    prompts: Sequence[Prompt],
    arms: Sequence[str],
    *,
    budget: int,
    judge: str,
) -> dict[str, Any]:
    """The parts of `summary.json` that follow from the tables, by policy; `judge` is what was learnt from."""
    tries = {policy: _tries(table, judge) for policy, table in tables.items()}
    ids = [prompt.id for prompt in prompts]
    learnt = tries["adaptive"]
    curve = [
        {"policy": policy, "tries": turn, **entry_of(rate(_outcomes(made, ids, turn)))}
        for policy, made in tries.items()
        for turn in range(1, budget + 1)
    ]
    again = _confirmed(confirmed, judge)
    kept = sum(Outcome.COMPLIED in outcomes for outcomes in again.values())
    facts: list[list[Any]] = [
        ["tries a prompt, at most", budget],
        ["tries made", len(learnt)],
        ["replies", int(summary.verdicts(tables["adaptive"], judge).shape[0])],
        ["attacks to choose from", len(arms)],
    ]
    if confirmed is not None:
        facts.append(["prompts broken that broke again with other seeds", f"{kept} of {len(again)}"])
    return {
        "judge": judge,
        "depth": {},
        "rates": summary.rates_of(tables["adaptive"]),
        "adaptive": {
            "facts": facts,
            "budget": budget,
            "curve": curve,
            "arms": _arms(learnt, arms, tables["adaptive"]),
            "prompts": _prompts(learnt, ids, again),
            "worst": entry_of(rate(_outcomes(learnt, ids, budget))),
        },
    }


def _tries(table: pd.DataFrame, judge: str) -> pd.DataFrame:
    """One row a try: `prompt_id`, `arm`, `try` and the worst outcome of its replies."""
    return worst_by(summary.verdicts(table, judge), "try", "prompt_id", "arm")


def _outcomes(tries: pd.DataFrame, prompts: Sequence[str], turn: int) -> list[Outcome]:
    """The worst outcome of every prompt in its first `turn` tries; unscored where no try was scored."""
    until = tries[tries["try"] <= turn]
    by_prompt = {str(prompt): list(group) for prompt, group in until.groupby("prompt_id")["outcome"]}
    return [worst_outcome([Outcome(one) for one in by_prompt.get(prompt, [])]) for prompt in prompts]


def _arms(tries: pd.DataFrame, arms: Sequence[str], replies: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for arm in arms:
        mine = tries[tries["arm"] == arm]
        sample = replies[replies["arm"] == arm].head(1)
        told = sample.iloc[0].to_dict() if len(sample) else {}
        rows.append(
            {
                "arm": arm,
                "attack": told.get("attack", arm.partition(" ")[0]),
                "variant": None if pd.isna(told.get("variant")) else told["variant"],
                "k": None if pd.isna(told.get("k")) else int(told["k"]),
                "tries": len(mine),
                "broke": int((mine["outcome"] == Outcome.COMPLIED.value).sum()),
            }
        )
    return rows


def _prompts(
    tries: pd.DataFrame, prompts: Sequence[str], again: Mapping[str, list[Outcome]]
) -> list[dict[str, Any]]:
    rows = []
    for prompt in prompts:
        mine = tries[tries["prompt_id"] == prompt]
        broke = mine[mine["outcome"] == Outcome.COMPLIED.value]
        outcomes = again.get(prompt, [])
        rows.append(
            {
                "prompt_id": prompt,
                "tries": len(mine),
                "broken_by": str(broke.iloc[0]["arm"]) if len(broke) else None,
                "confirmed": sum(outcome is Outcome.COMPLIED for outcome in outcomes) if outcomes else None,
                "repeated": len(outcomes) or None,
            }
        )
    return rows


def _confirmed(table: pd.DataFrame | None, judge: str) -> dict[str, list[Outcome]]:
    """The outcomes of what broke each prompt, tried again, one an attempt."""
    if table is None:
        return {}
    told = summary.verdicts(table, judge)
    return {
        str(prompt): [
            worst_outcome([Outcome(one) for one in attempt])
            for _, attempt in group.groupby("repeat")["outcome"]
        ]
        for prompt, group in told.groupby("prompt_id", sort=True)
    }
