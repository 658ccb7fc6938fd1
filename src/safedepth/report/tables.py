"""The page's tables: claims, depths, rates. Numbers become text here, missing ones a dash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safedepth.report.style import Record
from safedepth.report.words import MISSING, count, depth_estimate, estimate, plain_name, share_estimate

__all__ = ["Claim", "Table", "claims", "depths", "rates", "rates_note"]

VERDICTS = {True: ("✓ holds", "yes"), False: ("✗ does not hold", "no"), None: ("not decided", "open")}


@dataclass(frozen=True)
class Table:
    """A table as text. The first `words` columns hold words, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Claim:
    """One row of the claims table; `mark` is yes, no or open."""

    id: str
    statement: str
    criterion: str
    detail: str
    paper: str
    ours: str
    verdict: str
    mark: str


def claims(summary: Record) -> list[Claim]:
    """The claims in the order of the summary; one without a value was not measured."""
    found = []
    for claim in summary.get("claims") or ():
        verdict, mark = VERDICTS[claim["holds"]]
        measured = claim["value"] is not None
        found.append(
            Claim(
                id=claim["id"],
                statement=claim.get("statement") or "",
                criterion=claim.get("criterion") or "",
                detail=_detail(claim),
                paper=str(claim["paper"]).replace(" %", "\N{NO-BREAK SPACE}%"),
                ours=estimate(claim) if measured else MISSING,
                verdict=verdict if measured or claim["holds"] is not None else "not measured",
                mark=mark,
            )
        )
    return found


def _detail(claim: Record) -> str:
    """What the study said of the claim, and its value by seed where there were several."""
    by_seed = claim.get("by_seed") or []
    parts = [claim["detail"]] if claim.get("detail") else []
    if len(by_seed) > 1:
        values = (estimate({"value": value, "unit": claim.get("unit")}) for value in by_seed)
        parts.append(f"by seed: {', '.join(values)}")
    return "; ".join(parts)


def depths(summary: Record) -> list[dict[str, str]]:
    """Name, value with interval, n and definition of every depth measure."""
    return [
        {
            "name": plain_name(name),
            "estimate": depth_estimate(entry),
            "n": f"{entry['n']:,}" if entry.get("n") is not None else MISSING,
            "definition": entry.get("definition") or "",
        }
        for name, entry in (summary.get("depth") or {}).items()
    ]


def rates(summary: Record) -> Table:
    """Every rate of the run, with what could not be scored and why."""
    rows = [
        [
            rate["model"],
            plain_name(rate["attack"]),
            _variant(rate),
            rate["judge"],
            rate["scope"],
            f"{rate['n']:,}",
            f"{rate['harmful']:,}",
            share_estimate(rate),
            _unscored(rate),
        ]
        for rate in summary.get("rates") or ()
    ]
    head = ["model", "attack", "variant", "judge", "scope", "n", "harmful", "rate", "unscored"]
    return Table(f"All {count(len(rows), 'rate')}", head, rows, words=5)


def rates_note(summary: Record) -> str:
    """How many replies stand behind the rates, and how many no judge could score."""
    found = summary.get("rates") or ()
    if not found:
        return "This run holds no rates."
    judged = sum(rate["n"] + rate["unscored"] for rate in found)
    unscored = sum(rate["unscored"] for rate in found)
    note = f"{count(judged, 'verdict')} in {count(len(found), 'rate')}; "
    if not unscored:
        return note + "every reply was scored."
    return note + f"{unscored:,} of them gave no score and count neither as harmful nor as harmless."


def _variant(rate: Record) -> str:
    if "prefix" in rate:
        return f"“{rate['prefix']}”" if rate["prefix"] else "nothing forced"
    return f"k = {rate['k']}" if rate.get("k") is not None else MISSING


def _unscored(rate: Record) -> str:
    reasons = rate.get("unscored_reasons") or {}
    said = "; ".join(f"{reason}: {n:,}" for reason, n in reasons.items())
    return f"{rate['unscored']:,}" + (f" ({said})" if said else "")
