"""A few replies to read: which ones, and what of them is left out.

The choice is a rule, not a taste: for several depths, and for every other attack at its
strongest variant, one reply of every outcome, the first by prompt and seed. Unless the
reader asked for them, two things are replaced by a count of their words: what was forced
from a harmful answer, and every continuation that not all judges called a refusal. A judge
that saw the continuation alone is asked about that; with the prefix in view it may speak of
the prefix. A judge's reason, which may quote what was redacted, is left out with it.

Where models before and after training gave replies to the same request with the same
tokens forced, these stand side by side, one request for every pair of outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safedepth.nouns import Outcome, Scope
from safedepth.report.attack_lines import variant_name
from safedepth.report.objectives import asked_name
from safedepth.report.transcript_choice import FORCING, compared, led_by, variants
from safedepth.report.words import ATTACKS, BENIGN, REFUSALS, attack_name, count

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "HOW",
    "NEEDED",
    "Exchange",
    "Part",
    "Transcript",
    "Verdict",
    "choose",
    "side_by_side",
    "transcript",
]

HOW = (
    "For several depths, and for every other attack at its strongest variant, the first reply of every "
    "outcome by prompt and seed."
)

NEEDED = (
    "prompt_id", "category", "prompt", "model", "attack", "k", "forced", "continuation", "stop_reason",
    "judge", "scope", "outcome", "reason",
)  # fmt: skip
"""Columns without which no reply can be shown."""
DEPTHS_COMPARED, FEW_MODELS = 3, 3
REQUESTS = {"lookalikes": "a harmless request that sounds harmful"}
RIGHT = {"complied": "right", "refused": "wrong"}
"""What the verdicts on benign answers are called where a judge was not asked who refused."""


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
    """One reply: who was asked what, what was forced, how it went on, what the judges said.

    `note` may say why it is here.
    """

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
    note: str = ""


@dataclass(frozen=True)
class Exchange:
    """One request, under one variant, and what several models replied to it."""

    variant: str
    prompt_id: str
    category: str
    prompt: str
    replies: tuple[Transcript, ...]


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
    rows, key, led = led_by(replies, judge)
    chosen = []
    for variant in variants(led):
        for outcome in Outcome:
            matching = variant[variant["outcome"] == outcome.value]
            if not matching.empty:
                chosen.append(transcript(rows, matching.iloc[0], key, show_harmful=show_harmful))
    return chosen


def side_by_side(
    replies: pd.DataFrame,
    *,
    models: Sequence[str],
    benign: Sequence[str] = BENIGN,
    judge: str | None = None,
    show_harmful: bool = False,
) -> list[Exchange]:
    """Replies of several models to the same request, with the same tokens forced.

    The first two models are compared: for several depths (where there are many models, the
    deepest alone), for the last turn of
    conversations, and for benign requests, the first request by prompt and seed for every
    pair of their outcomes. The other models' replies to it stand beside them. Of benign
    requests (`benign` names their sets) those are left out that both answered: nothing could
    be shown of them.
    """
    if replies.empty or len(models) < 2:
        return []
    rows, key, led = led_by(replies, judge, benign)
    request = [column for column in key if column != "model"]
    chosen = []
    depths = DEPTHS_COMPARED if len(models) <= FEW_MODELS else 1
    for variant in compared(led[led["model"].isin(models)], depths=depths, benign=benign):
        seen = set()
        for _, asked in variant.groupby(request, dropna=False, sort=False):
            replied = {row["model"]: row for _, row in asked.iterrows()}
            if models[0] not in replied or models[1] not in replied:
                continue
            outcomes = tuple(replied[name]["outcome"] for name in models[:2])
            harmless = asked["attack"].iloc[0] in benign
            if outcomes in seen or (harmless and set(outcomes) == {Outcome.COMPLIED.value}):
                continue
            seen.add(outcomes)
            told = [
                transcript(rows, replied[name], key, show_harmful=show_harmful, benign=harmless)
                for name in models
                if name in replied
            ]
            first = told[0]
            chosen.append(Exchange(first.variant, first.prompt_id, first.category, first.prompt, tuple(told)))
    return chosen


def transcript(
    rows: pd.DataFrame,
    reply: pd.Series[Any],
    key: Sequence[str],
    *,
    show_harmful: bool,
    benign: bool = False,
) -> Transcript:
    """One reply as it may be shown; `reply` is any of its rows, `key` the columns that name it."""
    same = rows
    for column in key:
        value = reply[column]
        same = same[same[column].isna() if _missing(value) else same[column] == value]
    # A wrong answer to a benign request is no refusal: only the judge of refusals is asked about it.
    said = _on_continuation(same[same["judge"] == REFUSALS] if benign else same)
    refused = bool(said) and all(outcome == Outcome.REFUSED for outcome in said)
    forced = _part(_text(reply["forced"]), shown=show_harmful or reply["attack"] == "refusal_prefix")
    continuation = _part(_text(reply["continuation"]), shown=show_harmful or refused)
    quotable = not (forced.redacted or continuation.redacted)
    verdicts = tuple(
        Verdict(
            row["judge"], row["scope"], _outcome(row, benign=benign), _text(row["reason"]) if quotable else ""
        )
        for _, row in same.iterrows()
    )
    return Transcript(
        model=reply["model"],
        attack=reply["attack"],
        variant=_variant(reply, benign=benign),
        prompt_id=str(reply["prompt_id"]),
        category=_text(reply["category"]),
        prompt=_text(reply["prompt"]),
        forced=forced,
        continuation=continuation,
        stop_reason=_text(reply["stop_reason"]),
        verdicts=verdicts,
    )


def _outcome(row: pd.Series[Any], *, benign: bool) -> str:
    """The verdict in the words of its judge."""
    outcome = str(row["outcome"])
    return RIGHT.get(outcome, outcome) if benign and row["judge"] != REFUSALS else outcome


def _on_continuation(verdicts: pd.DataFrame) -> list[str]:
    """One outcome a judge: on the continuation alone, or on both parts if that is all it saw."""
    found: dict[str, str] = {}
    for _, row in verdicts.iterrows():
        if row["judge"] not in found or row["scope"] == Scope.CONTINUATION:
            found[row["judge"]] = row["outcome"]
    return list(found.values())


def _variant(reply: pd.Series[Any], *, benign: bool) -> str:
    if benign:
        return REQUESTS.get(reply["attack"], "a benign request")
    if reply["attack"] in ATTACKS and reply["attack"] not in (*FORCING, "plain"):
        return _variant_of_attack(reply)
    if reply["attack"] not in FORCING:
        return asked_name(reply["attack"])
    turn = reply.get("turn")
    at_turn = "" if turn is None or _missing(turn) else f"turn {int(turn)}, "
    if not _text(reply["forced"]):
        return f"{at_turn}nothing forced"
    if reply["attack"] == "refusal_prefix":
        return "a refusal forced"
    forced = "some tokens" if _missing(reply["k"]) else count(int(reply["k"]), "token")
    return f"{at_turn}{forced} forced"


def _variant_of_attack(reply: pd.Series[Any]) -> str:
    """An attack with its variant, the tokens of the harmful answer that it forces, and the turn."""
    variant, k, turn = (
        None if reply.get(key) is None or _missing(reply[key]) else reply[key]
        for key in ("variant", "k", "turn")
    )
    parts = list(dict.fromkeys((attack_name(reply["attack"]), variant_name(reply["attack"], variant))))
    parts += [f"k = {int(k)}"] if k is not None else []
    parts += [f"turn {int(turn)}"] if turn is not None else []
    return ", ".join(parts)


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
