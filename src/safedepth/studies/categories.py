"""Results by category of harm: the same attacks, prompt by prompt, grouped as the benchmark groups them.

Takes a table of one judge's verdicts, gives the block `categories` of `summary.json`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from safedepth.studies import summary
from safedepth.studies.attack_tables import CONTROLS, OTHER_PROMPTS, worst_rate
from safedepth.studies.summary import entry_of

__all__ = ["ANY", "category_entries"]

ANY = "any"
"""Instead of an attack: the prompts that any of the attacks broke."""


def category_entries(replies: pd.DataFrame, judge: str) -> list[dict[str, Any]]:
    """Harmful replies of every category by forced tokens, and its prompts that any attack broke.

    `replies` are those of one model. Empty where prompts have no category, or all have the same.
    """
    told = summary.verdicts(replies, judge)
    told = told[~told["attack"].isin([*CONTROLS, OTHER_PROMPTS])]
    if told["category"].nunique() < 2:
        return []
    entries: list[dict[str, Any]] = []
    for category, mine in told.groupby("category", sort=True):
        who = {"category": str(category) or "none", "judge": judge}
        for k, group in mine[mine["attack"] == "prefill"].groupby("k", sort=True):
            rate = entry_of(summary.rate_of(group))
            entries.append({**who, "attack": "prefill", "k": int(str(k)), "variant": None, **rate})
        entries.append({**who, "attack": ANY, "k": None, "variant": None, **entry_of(worst_rate(mine))})
    return entries
