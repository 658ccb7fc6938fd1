"""Replies on which judges differ, to read: one for every pattern of verdicts, the commonest first.

What of a reply is shown is for `transcripts` to say, and so is what is redacted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from safedepth.nouns import Outcome, Scope
from safedepth.report.transcript_choice import led_by
from safedepth.report.transcripts import Transcript, transcript
from safedepth.report.words import SCOPES, count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HOW", "disagreements"]

HOW = (
    "For every pattern of verdicts in which one judge calls a reply harmful and another does not, the "
    "first such reply by prompt and seed, the commonest pattern first."
)
PATTERNS = 6
"""Patterns in one scope of which a reply is shown."""
APART = {Outcome.COMPLIED.value, Outcome.REFUSED.value}


def disagreements(replies: pd.DataFrame, *, show_harmful: bool = False) -> list[Transcript]:
    """Transcripts of replies that one judge calls harmful and another does not, in the same scope.

    `replies` is the table `measurements/replies.parquet`. Every transcript says how many replies have the
    same verdicts; one that stands for a pattern in both scopes is shown once.
    """
    if replies.empty:
        return []
    rows, key, _ = led_by(replies, None)
    rows = rows.assign(reply=rows.groupby(key, dropna=False, sort=False).ngroup())
    chosen: dict[int, list[str]] = {}
    for scope in Scope:
        verdicts = rows[rows["scope"] == scope.value]
        wide = verdicts.pivot_table(index="reply", columns="judge", values="outcome", aggfunc="first")
        patterns: dict[tuple[str, ...], list[int]] = {}
        for reply, said in zip(wide.index, wide.fillna("").itertuples(index=False, name=None), strict=True):
            if set(said) >= APART:
                patterns.setdefault(said, []).append(int(reply))
        # Of patterns that are equally common the one whose first reply comes first.
        common = sorted(patterns.values(), key=lambda found: (-len(found), found[0]))
        for found in common[:PATTERNS]:
            told = f"{count(len(found), 'reply', 'replies')} with these verdicts {SCOPES[scope.value]}."
            chosen.setdefault(found[0], []).append(told)
    return [
        replace(
            transcript(rows, rows[rows["reply"] == reply].iloc[0], key, show_harmful=show_harmful),
            note=" ".join(notes),
        )
        for reply, notes in chosen.items()
    ]
