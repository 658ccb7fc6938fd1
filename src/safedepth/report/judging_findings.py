"""What a second judging found, in sentences and key figures: agreement, where it ends, and errors.

A sentence whose numbers are missing is not written.
"""

from __future__ import annotations

from typing import Any

from safedepth.report.attack_lines import rate_name
from safedepth.report.judging import agreement_words, alone
from safedepth.report.judging_rows import (
    ALL,
    KIND,
    agreed,
    calibration,
    class_name,
    judged_on,
    kappa,
    names,
    panels,
    truth_of,
    unlike,
    wrong,
)
from safedepth.report.style import Record
from safedepth.report.words import (
    Tile,
    count,
    how_many,
    named,
    share,
    share_estimate,
    tile,
)

__all__ = ["KIND", "headline", "tiles", "title"]

NOTHING = "This run holds no numbers that say how far its judges can be trusted; the sections below tell why."

TOLD = 4
"""Judges whose errors on recoveries are told."""
LEAST = 0.005


def title(summary: Record, name: str) -> str:
    """The heading of the page on the judges of the replies of this model."""
    if truth_of(summary):
        return f"How often are the judges of {name} wrong?"
    if alone(summary):
        return f"What one judge says of {name}"
    return f"Do the judges of {name} agree?"


def headline(summary: Record) -> list[str]:
    """What was found, the most important first."""
    found = [
        _agreement(summary),
        _unlike(summary),
        _wrong(summary),
        _recoveries(summary),
        _corrected(summary),
    ]
    return [sentence for sentence in found if sentence] or [NOTHING]


def tiles(summary: Record) -> list[Tile]:
    """The key figures: agreement, κ, how often the leading judge is wrong, and on recoveries."""
    found = []
    row = _leading_pair(summary)
    if row is not None:
        pair = f"{named(row['first'])} and {named(row['second'])}"
        found.append(tile(f"Same verdict from {pair}", share(agreed(row))))
        if row["kappa"]["value"] is not None:
            found.append(tile("Agreement beyond chance, κ", kappa(row["kappa"])))
    for of, label in ((ALL, "Wrong verdicts"), ("recovery", "Wrong on recoveries")):
        error = _error(summary, of)
        if error is not None:
            found.append(tile(f"{label}, {named(error['judge'])}", share_estimate(wrong(error))))
    return found


def _pairs(summary: Record) -> list[Record]:
    """Pairs of judges that share replies, in the first scope with any."""
    for rows in panels(summary["agreement"], "scope").values():
        known = [row for row in rows if agreed(row) is not None]
        if known:
            return known
    return []


def _leading_pair(summary: Record) -> Record | None:
    """The first judge of the run with the one that it agrees with least, and no truth."""
    pairs = _pairs(summary)
    truth, first = truth_of(summary), next(iter(names(summary)), None)
    mine = [row for row in pairs if first in (row["first"], row["second"])] or pairs
    others = [row for row in mine if truth not in (row["first"], row["second"])] or mine
    return min(others, key=lambda row: agreed(row) or 0.0, default=None)


def _agreement(summary: Record) -> str:
    truth, row = truth_of(summary), _leading_pair(summary)
    pairs = [pair for pair in _pairs(summary) if truth not in (pair["first"], pair["second"])]
    if row is None:
        return alone(summary)
    of = f"of {count(row['n'], 'reply', 'replies')}, {judged_on(row['scope'])}" if row["n"] else ""
    told = f"The judges {agreement_words(row)} {of}".strip()
    if len(pairs) < 2:
        return f"{told}."
    ends = sorted(pairs, key=lambda pair: agreed(pair) or 0.0)
    low, high = ends[0], ends[-1]
    return (
        f"{told}. Of {count(len(pairs), 'pair')} of judges, {named(low['first'])} and {named(low['second'])} "
        f"agree least ({share(agreed(low))}), {named(high['first'])} and {named(high['second'])} most "
        f"({share(agreed(high))})."
    )


def _unlike(summary: Record) -> str:
    found = unlike(summary)
    if found is None:
        return ""
    high, low = found
    of = "them" if high["n"] is None else f"{how_many(high['n'])} such replies"
    return (
        f"They differ most on {class_name(high['class'])}: {named(high['judge'])} calls "
        f"{share_estimate(high)} of {of} harmful, {named(low['judge'])} {share_estimate(low)} "
        f"({judged_on(high['scope'])})."
    )


def _error(summary: Record, of: str) -> Record | None:
    """The leading judge's errors on a class, in the first scope that has a value."""
    block, truth = summary.get("calibration"), truth_of(summary)
    if not truth or not block:
        return None
    judge = next((name for name in names(summary) if name != truth), None)
    for rows in panels(block["rows"], "scope").values():
        for row in rows:
            if (row["judge"], row["class"]) == (judge, of) and row["accuracy"]["value"] is not None:
                return row
    return None


def _wrong(summary: Record) -> str:
    row = _error(summary, ALL)
    if row is None:
        return ""
    n = f" of {count(row['n'], 'reply', 'replies')}" if row["n"] else ""
    told = (
        f"Held against {truth_of(summary)}, {named(row['judge'])} is wrong on {share_estimate(wrong(row))}{n}"
    )
    if None not in (row["fn"], row["fp"], row["tp"], row["tn"]):
        told += (
            f": it misses {how_many(row['fn'])} of {how_many(row['fn'] + row['tp'])} harmful ones and calls "
            f"{how_many(row['fp'])} of {how_many(row['fp'] + row['tn'])} harmless ones harmful"
        )
    return f"{told}."


def _recoveries(summary: Record) -> str:
    """Errors on recoveries, of the judges that err most there, in the scope in which they do."""
    truth = truth_of(summary)
    if not truth:
        return ""
    rows = [
        row
        for row in calibration(summary)["rows"]
        if row["class"] == "recovery" and row["accuracy"]["value"] is not None and row["judge"] != truth
    ]
    worst = max(rows, key=lambda row: _value(wrong(row)), default=None)
    if worst is None:
        return ""
    mine = sorted(
        (row for row in rows if row["scope"] == worst["scope"]), key=lambda row: -_value(wrong(row))
    )
    told = "; ".join(f"{named(row['judge'])} {share_estimate(wrong(row))}" for row in mine[:TOLD])
    return (
        f"On recoveries, which turn from harm to a refusal, the share of wrong verdicts is: {told} "
        f"({judged_on(worst['scope'])})."
    )


def _corrected(summary: Record) -> str:
    """The rate that correction moves most, of any judge; nothing where none moves by half a point."""
    truth = truth_of(summary)
    rows = [
        row
        for row in calibration(summary)["corrected"]
        if truth and row["judge"] != truth and None not in (row["value"], row["judged"]["value"])
    ]
    row = max(rows, key=_moved, default=None)
    if row is None or _moved(row) < LEAST:
        return ""
    which = f"{named(row['judge'])} on {named(row['model'])}, {rate_name(row)}, {judged_on(row['scope'])}"
    return (
        f"Corrected for its judge’s errors, the rate that moves most ({which}) goes from "
        f"{share_estimate(row['judged'])} to {share_estimate(row)}."
    )


def _moved(row: Record) -> float:
    return abs(float(row["value"]) - float(row["judged"]["value"]))


def _value(of: dict[str, Any]) -> float:
    return float(of["value"])
