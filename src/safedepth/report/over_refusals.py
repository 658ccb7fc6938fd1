"""Harmless requests that were refused, to read: the first of every set and type.

What of a reply is shown is for `transcripts` to say, and so is what is redacted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from safedepth.nouns import Outcome, Scope
from safedepth.report.transcript_choice import led_by
from safedepth.report.transcripts import Transcript, transcript
from safedepth.report.words import REFUSALS, count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HOW", "over_refusals"]

HOW = "Of every set and type of harmless requests, the first that was refused, by prompt and seed."
MOST = 12


def over_refusals(
    replies: pd.DataFrame, sets: Sequence[str], *, show_harmful: bool = False
) -> list[Transcript]:
    """Transcripts of refusals where none was due; `sets` are what stands for an attack in the harmless ones.

    `replies` is the table `measurements/replies.parquet`. Every transcript says how many requests of its
    set and type were refused.
    """
    if replies.empty:
        return []
    rows, key, _ = led_by(replies, None, sets)
    mine = rows[
        rows["attack"].isin(list(sets))
        & rows["judge"].eq(REFUSALS)
        & rows["scope"].eq(Scope.CONTINUATION.value)
        & rows["outcome"].eq(Outcome.REFUSED.value)
    ]
    found = []
    for (asked, kind), of in mine.groupby(["attack", "category"], dropna=False, sort=True):
        told = transcript(rows, of.iloc[0], key, show_harmful=show_harmful, benign=True)
        which = f"{asked}, {kind}" if isinstance(kind, str) and kind else str(asked)
        found.append(replace(told, note=f"{count(len(of), 'reply', 'replies')} refused ({which})."))
    return found[:MOST]
