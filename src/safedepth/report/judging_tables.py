"""The tables of several judges: who they are, where they agree, how often each is wrong, corrected rates."""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report.attack_lines import LONG, rate_name
from safedepth.report.judging_rows import agreed, compared, kappa, names, of_class, panels, scope_name, wrong
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.words import (
    MISSING,
    capital,
    count,
    how_many,
    named,
    number,
    share,
    share_estimate,
)

__all__ = ["MANY", "agreement", "classes", "corrected", "errors", "judges", "rates", "scores"]

MANY = "{}, each with its own 95 % interval; nothing is corrected for looking at many."


def judges(summary: Record) -> Table:
    """Every judge with the reference that calls it, its model and what it is."""
    rows = [
        [named(row["name"]), named(row["reference"]), named(row["model"]), named(row["what"])]
        for row in summary["judges"]
    ]
    return Table(
        "The judges", ["judge", "called as", "model", "what it is"], rows, words=4, open=len(rows) <= LONG
    )


def agreement(rows: Sequence[Record]) -> Table:
    """The four counts of every two judges on the same replies, with their agreement and κ."""
    told = [
        [
            f"{named(row['first'])} and {named(row['second'])}",
            scope_name(row["scope"]),
            share(agreed(row)),
            kappa(row["kappa"]),
            *(
                how_many(row[key])
                for key in ("both", "only_first", "only_second", "neither", "n", "unscored")
            ),
        ]
        for row in rows
    ]
    head = [
        "judges", "judged on", "agree on", "κ", "both: harmful", "only the first", "only the second",
        "neither", "replies", "unscored",
    ]  # fmt: skip
    note = "Unscored: replies to which at least one of the two gave no score; they are in no other column."
    return Table("Agreement of every two judges", head, told, words=2, open=len(told) <= LONG, note=note)


def rates(summary: Record) -> Table:
    """Every rate with a column for each judge."""
    asked = compared(summary)
    columns = [name for name in names(summary) if any(name in of for of in asked.values())]
    rows = []
    for (model, scope, what), of in asked.items():
        counts = [rate["n"] for rate in of.values() if rate["n"] is not None]
        n = MISSING if not counts else how_many(min(counts))
        n += f" to {how_many(max(counts))}" if counts and max(counts) > min(counts) else ""
        cells = [share_estimate(of[name]) if name in of else MISSING for name in columns]
        rows.append([what, model, scope_name(scope), *cells, n])
    head = ["asked", "model", "judged on", *columns, "n"]
    note = MANY.format(count(sum(len(of) for of in asked.values()), "rate"))
    return Table(
        "Harmful replies, judge by judge", head, rows, words=3, open=len(rows) <= LONG // 2, note=note
    )


def classes(rows: Sequence[Record]) -> Table:
    """The share of every class of replies that each judge calls harmful."""
    told = [
        [
            row["group"], named(row["judge"]), scope_name(row["scope"]), share_estimate(row),
            how_many(row["n"]), how_many(row["unscored"]),
        ]
        for row in of_class(rows)
    ]  # fmt: skip
    head = ["replies", "judge", "judged on", "called harmful", "n", "unscored"]
    return Table("Verdicts by class of reply, as numbers", head, told, words=3)


def errors(rows: Sequence[Record]) -> Table:
    """Every judge against the truth, by class of reply: the four counts and what follows from them."""
    told = [
        [
            named(row["judge"]),
            row["group"],
            scope_name(row["scope"]),
            share_estimate(wrong(row)),
            *(share_estimate(row[key]) for key in ("precision", "recall", "specificity")),
            kappa(row["kappa"]),
            *(how_many(row[key]) for key in ("tp", "fp", "fn", "tn", "n", "unscored")),
        ]
        for (_,), of in panels(rows, "judge").items()
        for row in of_class(of)
    ]
    head = [
        "judge", "replies", "judged on", "wrong", "precision", "recall", "specificity", "κ",
        "harmful, found", "harmless, called harmful", "harmful, missed", "harmless, passed", "n", "unscored",
    ]  # fmt: skip
    note = "Specificity: of the harmless replies, how many the judge lets pass."
    return Table("The judges’ errors, as numbers", head, told, words=3, open=len(told) <= LONG, note=note)


def corrected(rows: Sequence[Record]) -> Table:
    """Every rate as judged and corrected, or why it could not be."""
    told = [
        [
            rate_name(row),
            named(row["model"]),
            named(row["judge"]),
            scope_name(row["scope"]),
            share_estimate(row["judged"]),
            capital(str(row["why"])) if row["value"] is None and row["why"] else share_estimate(row),
            how_many(row["judged"]["n"]),
            how_many(row["judged"]["unscored"]),
        ]
        for row in rows
    ]
    head = ["asked", "model", "judge", "judged on", "as judged", "corrected", "n", "unscored"]
    note = MANY.format(count(len(told), "corrected rate"))
    title = "Rates as judged and corrected, as numbers"
    return Table(title, head, told, words=4, open=len(told) <= LONG // 2, note=note)


def scores(rows: Sequence[Record]) -> Table:
    """The mean of the judges' own numbers, of those that give one."""
    told = [
        [named(row["judge"]), scope_name(row["scope"]), number(row["mean"]), number(row["lowest"]),
         number(row["highest"]), how_many(row["n"])]
        for row in rows
    ]  # fmt: skip
    note = "The judge’s own number before its threshold, on its own scale; class names are as above."
    head = ["judge", "judged on", "mean score", "lowest", "highest", "replies"]
    return Table(
        "Scores of judges that give one", head, told, words=2, open=True, note=note.partition(";")[0] + "."
    )
