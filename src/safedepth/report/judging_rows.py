"""Verdicts of several judges as rows that belong together: which judges, which rates, which classes.

Takes a summary made whole by `reading`; knows neither charts nor sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safedepth.report.attack_lines import rate_name
from safedepth.report.marks import SCOPE_NAMES
from safedepth.report.style import Record
from safedepth.report.words import MINUS, SCOPES, count, estimate, judges, named

__all__ = [
    "ALL",
    "DRAWN",
    "KIND",
    "agreed",
    "calibration",
    "class_name",
    "compared",
    "judged_on",
    "kappa",
    "left_out",
    "names",
    "of_class",
    "panels",
    "scope_name",
    "truth_of",
    "unlike",
    "wrong",
]

ALL = "all"
KIND = "judge"
"""The kind of run that judged another run's replies again."""
DRAWN = 8
"""Judges that a chart shows at most: as many as there are colours."""
CLASSES = {
    ALL: "all replies", "answer": "answers", "recovery": "recoveries", "refusal": "refusals",
    "empty": "empty replies",
}  # fmt: skip


def names(summary: Record) -> list[str]:
    """All judges of the run, the one that the study relies on first."""
    told = [row["name"] for row in summary["judges"]]
    told += judges(summary)
    told += [row[key] for row in summary["agreement"] for key in ("first", "second")]
    told += [row["judge"] for row in (*summary["classes"], *calibration(summary)["rows"])]
    first = [summary["judge"]] if summary.get("judge") in told else []
    return [str(name) for name in dict.fromkeys([*first, *told]) if name is not None]


def left_out(found: Sequence[str]) -> str:
    """Which judges a chart leaves out, in a sentence; empty where it shows all."""
    if len(found) <= DRAWN:
        return ""
    return f"Drawn are the first {DRAWN} of {count(len(found), 'judge')}; the table has them all."


def scope_name(scope: Any) -> str:
    """What a judge was shown, in words."""
    return SCOPE_NAMES.get(str(scope), named(scope))


def judged_on(scope: Any) -> str:
    """The same within a sentence: `judged on the continuation alone`."""
    return f"judged {SCOPES.get(str(scope), f'on {named(scope)}')}"


def kappa(of: Record) -> str:
    """κ with its interval."""
    return estimate(of, unit="").replace("-", MINUS)


def class_name(name: Any) -> str:
    """A class of replies in words."""
    return CLASSES.get(str(name), named(name))


def of_class(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """The rows with `group`, their class in words, in the order of CLASSES."""
    order = {name: place for place, name in enumerate(CLASSES)}
    known = sorted(rows, key=lambda row: order.get(str(row["class"]), len(order)))
    return [{**row, "group": class_name(row["class"])} for row in known]


def panels(rows: Sequence[Record], *by: str) -> dict[tuple[Any, ...], list[Record]]:
    """Rows by the fields `by`; of scopes, the continuation alone first."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in by), []).append(row)
    if "scope" not in by:
        return found
    place, scopes = by.index("scope"), [*SCOPE_NAMES]
    rank = {scope: number for number, scope in enumerate(scopes)}
    return dict(sorted(found.items(), key=lambda pair: rank.get(str(pair[0][place]), len(scopes))))


def compared(summary: Record) -> dict[tuple[str, str, str], dict[str, Record]]:
    """By model, scope and what was asked: the rate of every judge."""
    found: dict[tuple[str, str, str], dict[str, Record]] = {}
    for rate in summary["rates"]:
        asked = (named(rate["model"]), named(rate["scope"]), rate_name(rate))
        found.setdefault(asked, {})[named(rate["judge"])] = rate
    return found


def agreed(row: Record) -> float | None:
    """The share of replies on which two judges agree."""
    counts = [row[key] for key in ("both", "only_first", "only_second", "neither")]
    if None in counts or not sum(counts):
        return None
    return float((row["both"] + row["neither"]) / sum(counts))


def unlike(summary: Record) -> tuple[Record, Record] | None:
    """Two verdicts on one class of replies that lie furthest apart: the higher and the lower share.

    Those whose intervals do not overlap come first; a truth is no judge. None where no two judges differ.
    """
    found = []
    truth = truth_of(summary)
    for rows in panels(summary["classes"], "scope", "class").values():
        known = [row for row in rows if row["value"] is not None and row["judge"] != truth]
        known.sort(key=lambda row: float(row["value"]))
        if len(known) > 1 and known[0]["class"] != ALL and known[-1]["value"] > known[0]["value"]:
            found.append((known[-1], known[0]))
    return max(found, key=lambda pair: _gap(*pair), default=None)


def _gap(high: Record, low: Record) -> tuple[bool, float]:
    apart = None not in (high["low"], low["high"]) and high["low"] > low["high"]
    return apart, float(high["value"]) - float(low["value"])


def calibration(summary: Record) -> Record:
    """The judges against the truth, all its parts empty where there is none."""
    found = summary.get("calibration") if summary.get("kind") == KIND else None
    return found or {**dict.fromkeys(("truth", "n", "unlabelled", "unmatched")), "rows": [], "corrected": []}


def truth_of(summary: Record) -> str:
    """What the judges were held against; empty where nothing was."""
    return str(calibration(summary)["truth"] or "")


def wrong(row: Record) -> dict[str, Any]:
    """The share of wrong verdicts with its interval: what accuracy leaves."""
    of = row["accuracy"]
    ends = {"value": of["value"], "low": of["high"], "high": of["low"]}
    return {key: None if value is None else 1 - value for key, value in ends.items()} | {"n": of["n"]}
