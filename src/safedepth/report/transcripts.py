"""A few replies to read: which ones, and what of them is left out.

The choice is a rule, not a taste: for several depths one reply of every outcome, the
first by prompt and seed. Unless the reader asked for them, two things are replaced by
a count of their words: what was forced from a harmful answer, and every continuation
that not all judges called a refusal. A judge that saw the continuation alone is asked
about that; with the prefix in view it may speak of the prefix. A judge's reason, which
may quote what was redacted, is left out with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safedepth.nouns import Outcome, Scope
from safedepth.report.words import count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Part", "Transcript", "Verdict", "choose"]

REPLY = ("prompt_id", "seed", "repeat", "model", "attack", "k", "prefix")
DEPTHS_SHOWN = 4


@dataclass(frozen=True)
class Part:
    """A piece of text as the page shows it; `redacted` where `text` only says how much is missing."""

    text: str
    redacted: bool


@dataclass(frozen=True)
class Verdict:
    """What one judge said, given the continuation alone or both parts."""

    judge: str
    scope: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Transcript:
    """One reply: who was asked what, what was forced, how it went on, what the judges said."""

    model: str
    attack: str
    variant: str
    prompt_id: str
    category: str
    prompt: str
    forced: Part
    continuation: Part
    stop_reason: str
    verdicts: tuple[Verdict, ...]


def choose(
    replies: pd.DataFrame, *, judge: str | None = None, show_harmful: bool = False
) -> list[Transcript]:
    """The transcripts of a run, by depth and outcome; the same replies give the same choice.

    `replies` is the table `measurements/replies.parquet`: one row for every reply,
    judge and scope. Outcomes are those of `judge` (if None, the table's first) on the
    continuation, or on both parts where it saw no continuation alone.
    """
    if replies.empty:
        return []
    key = [column for column in REPLY if column in replies]
    rows = replies.astype({"k": "Int64"}).sort_values(key, kind="stable")
    led = rows[rows["judge"] == (judge or replies["judge"].iloc[0])]
    alone = led[led["scope"] == Scope.CONTINUATION.value]
    led = led if alone.empty else alone
    chosen = []
    for variant in _variants(led):
        for outcome in Outcome:
            matching = variant[variant["outcome"] == outcome.value]
            if not matching.empty:
                chosen.append(_transcript(rows, matching.iloc[0], key, show_harmful=show_harmful))
    return chosen


def _variants(led: pd.DataFrame) -> list[pd.DataFrame]:
    """Several depths of the aligned model, then the first refusal prefix of each model."""
    prefill = led[(led["attack"] == "prefill") & (led["model"] == "aligned")]
    depths = sorted(int(k) for k in prefill["k"].dropna().unique())
    found = [prefill[prefill["k"] == k] for k in _spread(depths, DEPTHS_SHOWN)]
    forced = led[(led["attack"] == "refusal_prefix") & (led["prefix"].fillna("") != "")]
    for model in ("base", "aligned"):
        of_model = forced[forced["model"] == model]
        if not of_model.empty:
            found.append(of_model[of_model["prefix"] == of_model["prefix"].min()])
    return found


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of the values, the first and the last among them, evenly apart."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _transcript(
    rows: pd.DataFrame, reply: pd.Series[Any], key: Sequence[str], *, show_harmful: bool
) -> Transcript:
    same = rows
    for column in key:
        value = reply[column]
        same = same[same[column].isna() if _missing(value) else same[column] == value]
    refused = all(outcome == Outcome.REFUSED for outcome in _on_continuation(same))
    forced = _part(_text(reply["forced"]), shown=show_harmful or reply["attack"] == "refusal_prefix")
    continuation = _part(_text(reply["continuation"]), shown=show_harmful or refused)
    quotable = not (forced.redacted or continuation.redacted)
    verdicts = tuple(
        Verdict(row["judge"], row["scope"], row["outcome"], _text(row["reason"]) if quotable else "")
        for _, row in same.iterrows()
    )
    return Transcript(
        model=reply["model"],
        attack=reply["attack"],
        variant=_variant(reply),
        prompt_id=str(reply["prompt_id"]),
        category=_text(reply["category"]),
        prompt=_text(reply["prompt"]),
        forced=forced,
        continuation=continuation,
        stop_reason=_text(reply["stop_reason"]),
        verdicts=verdicts,
    )


def _on_continuation(verdicts: pd.DataFrame) -> list[str]:
    """One outcome a judge: on the continuation alone, or on both parts if that is all it saw."""
    found: dict[str, str] = {}
    for _, row in verdicts.iterrows():
        if row["judge"] not in found or row["scope"] == Scope.CONTINUATION:
            found[row["judge"]] = row["outcome"]
    return list(found.values())


def _variant(reply: pd.Series[Any]) -> str:
    if not _text(reply["forced"]):
        return "nothing forced"
    return (
        "a refusal forced"
        if reply["attack"] == "refusal_prefix"
        else f"{count(int(reply['k']), 'token')} forced"
    )


def _part(text: str, *, shown: bool) -> Part:
    words = len(text.split())
    if shown or not words:
        return Part(text, redacted=False)
    return Part(f"[redacted: {count(words, 'word')}]", redacted=True)


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _text(value: Any) -> str:
    return "" if _missing(value) else str(value)
