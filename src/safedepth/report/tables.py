"""The page's tables: claims, depths, rates. Numbers become text here, missing ones a dash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safedepth.report.style import Record
from safedepth.report.words import (
    MISSING,
    REFUSALS,
    attack_name,
    benign_sets,
    count,
    depth_estimate,
    estimate,
    how_many,
    named,
    plain_name,
    share_estimate,
)

__all__ = [
    "Claim",
    "Table",
    "claims",
    "depths",
    "depths_by_model",
    "no_depth",
    "rates",
    "rates_note",
]

VERDICTS = {True: ("✓ holds", "yes"), False: ("✗ does not hold", "no"), None: ("not decided", "open")}


@dataclass(frozen=True)
class Table:
    """A table as text. The first `words` columns hold words, the others numbers.

    One that is `open` can be read at once, others when asked for; `note` says how to read it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    open: bool = False
    note: str = ""


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
    """Name, value with interval, n and definition of the depths that do not stand by model already."""
    by_model = ((summary.get("deepening") or {}).get("depth") or {}).get("aligned") or {}
    return [
        {
            "name": plain_name(name),
            "estimate": depth_estimate(entry),
            "n": how_many(entry.get("n")),
            "definition": entry.get("definition") or "",
        }
        for name, entry in (summary.get("depth") or {}).items()
        if name not in by_model
        or any(entry.get(key) != by_model[name].get(key) for key in ("value", "low", "high", "n"))
    ]


def depths_by_model(summary: Record) -> Table:
    """Every measure of depth for every model of the `deepening` block; no rows where it has none."""
    block = summary.get("deepening") or {}
    depths = {name: block["depth"][name] for name in block.get("models") or () if block["depth"].get(name)}
    measures = list(dict.fromkeys(measure for of in depths.values() for measure in of))
    rows = []
    for measure in measures:
        entries = [of.get(measure) or {} for of in depths.values()]
        prompts = dict.fromkeys(how_many(entry.get("n")) for entry in entries)
        definition = next((entry["definition"] for entry in entries if entry.get("definition")), MISSING)
        rows.append([plain_name(measure), *map(depth_estimate, entries), ", ".join(prompts), str(definition)])
    head = ["measure", *depths, "prompts", "definition"]
    return Table("Depth by model", head, rows, words=len(head), open=True)


def no_depth(summary: Record) -> str:
    """What stands in place of the depths where there is no table of them."""
    columns = (summary.get("comparison") or {}).get("columns") or ()
    if any(column["unit"] == "tokens" for column in columns):
        return "The depths of the variants stand in the comparison."
    return "This run holds no measure of depth."


def rates(summary: Record) -> list[Table]:
    """Every rate of the run, with what could not be scored and why: attacks, then benign requests.

    What a judge of benign requests counts is no harm: an answer given, or a right one.
    """
    found = summary.get("rates") or ()
    sets = benign_sets(summary)
    attacks = [
        [*_told(rate), share_estimate(rate), _unscored(rate)] for rate in found if rate["attack"] not in sets
    ]
    benign = [
        [
            *_told(rate),
            "answered" if rate["judge"] == REFUSALS else "right",
            share_estimate(rate),
            _unscored(rate),
        ]
        for rate in found
        if rate["attack"] in sets
    ]
    head = ["model", "attack", "variant", "judge", "scope", "n", "harmful", "rate", "unscored"]
    asked = ["model", "requests", "variant", "judge", "scope", "n", "counted", "as", "rate", "unscored"]
    tables = [
        Table(f"All {count(len(attacks), 'rate')}", head, attacks, words=5),
        Table(f"All {count(len(benign), 'rate')} on benign requests", asked, benign, words=5),
    ]
    return [table for table in tables if table.rows]


def _told(rate: Record) -> list[str]:
    return [
        named(rate["model"]),
        attack_name(rate["attack"]),
        _variant(rate),
        named(rate["judge"]),
        named(rate["scope"]),
        how_many(rate["n"]),
        how_many(rate["harmful"]),
    ]


def rates_note(summary: Record) -> str:
    """How many replies stand behind the rates, and how many no judge could score."""
    found = summary.get("rates") or ()
    if not found:
        return "This run holds no rates."
    unscored = sum(rate["unscored"] or 0 for rate in found)
    judged = sum(rate["n"] or 0 for rate in found) + unscored
    note = f"{count(judged, 'verdict')} in {count(len(found), 'rate')}; "
    if unscored:
        note += f"{unscored:,} of them gave no score and count neither as harmful nor as harmless."
    else:
        note += "every reply was scored."
    many = " Each rate has its own 95 % interval; nothing is corrected for looking at many."
    return note + (many if len(found) > 1 else "")


def _variant(rate: Record) -> str:
    prefix, turn, k = rate.get("prefix"), rate.get("turn"), rate.get("k")
    variant = rate.get("variant")
    if prefix is not None:
        return f"“{prefix}”" if prefix else "nothing forced"
    parts = [named(variant)] if variant is not None else []
    parts += [f"turn {turn}"] if turn is not None else []
    parts += [f"k = {k}"] if k is not None else []
    return ", ".join(parts) or MISSING


def _unscored(rate: Record) -> str:
    reasons = rate.get("unscored_reasons") or {}
    said = "; ".join(f"{reason}: {how_many(n)}" for reason, n in reasons.items())
    return how_many(rate["unscored"]) + (f" ({said})" if said else "")
