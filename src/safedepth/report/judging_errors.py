"""The sections on judges against a truth: how often each is wrong, and rates corrected for that."""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report import judging_figures as figures
from safedepth.report import judging_tables as tables
from safedepth.report.attack_lines import is_number
from safedepth.report.judging_rows import (
    calibration,
    judged_on,
    left_out,
    names,
    of_class,
    panels,
    scope_name,
    truth_of,
)
from safedepth.report.parts import Figure, Section, slugs, topic_section
from safedepth.report.style import Record
from safedepth.report.topics_trust import CORRECTED, TRUTH
from safedepth.report.words import capital, count, named, share_estimate

__all__ = ["sections"]

MEASURES = {"recall": "recall", "precision": "precision", "accuracy": "right verdicts"}
PANELS = 8
"""Charts of corrected rates at most."""


def sections(summary: Record) -> list[Section | None]:
    """How often each judge is wrong, and what that does to the rates."""
    block, truth = calibration(summary), truth_of(summary)
    return [_errors(summary, block, truth), _corrected(summary, block, truth)]


def _errors(summary: Record, block: Record, truth: str) -> Section | None:
    judges = names(summary)
    rows = [row for row in block["rows"] if named(row["judge"]) != truth]
    drawn = []
    for (scope,), mine in panels(rows, "scope").items():
        where = scope_name(scope)
        for measure, title in MEASURES.items():
            chart = figures.errors(mine, judges, measure, title=title)
            if chart is None:
                continue
            told = "; ".join(
                f"{row['group']}, {named(row['judge'])}: {share_estimate(row[measure])}"
                for row in of_class(mine)
            )
            drawn.append(
                Figure(
                    id=f"judged-{measure}-{slugs([named(scope)])[named(scope)]}",
                    title=f"{capital(title)}, {where}",
                    full_title=f"{capital(title)} of the judges by class of reply ({where})",
                    caption=left_out(judges),
                    spoken=f"Dot plot with intervals. {told}.",
                    chart=chart,
                )
            )
    return topic_section(summary, TRUTH, drawn, [tables.errors(rows)], addition=_against(block, truth))


def _against(block: Record, truth: str) -> str:
    """What the truth is, and how much of it could be used."""
    if not truth:
        return ""
    told = f"The truth here: {truth}"
    told += f", {count(block['n'], 'known verdict')}" if is_number(block["n"]) else ""
    left = f"; {count(block['unlabelled'], 'label')} not filled in" if block["unlabelled"] else ""
    left += f"; {count(block['unmatched'], 'label')} of no reply in this run" if block["unmatched"] else ""
    return f"{told}{left}."


def _corrected(summary: Record, block: Record, truth: str) -> Section | None:
    rows = [row for row in block["corrected"] if named(row["judge"]) != truth]
    first = next((row["model"] for row in rows), None)
    order = {name: place for place, name in enumerate(names(summary))}
    rows = sorted(rows, key=lambda row: order.get(named(row["judge"]), len(order)))
    mine = panels([row for row in rows if row["model"] == first], "judge", "scope")
    keys = slugs([f"{named(judge)} {named(scope)}" for judge, scope in mine])
    drawn = []
    for (judge, scope), of in list(mine.items())[:PANELS]:
        place = (first, truth, scope)
        known = [rate for rate in summary["rates"] if (rate["model"], rate["judge"], rate["scope"]) == place]
        shown = figures.asked(of)
        chart = figures.corrected(shown, known)
        if chart is None:
            continue
        told = "; ".join(
            f"{share_estimate(row['judged'])} as judged, {share_estimate(row)} corrected" for row in shown
        )
        where = f"{named(judge)}, {scope_name(scope)}"
        drawn.append(
            Figure(
                id=f"judged-corrected-{keys[f'{named(judge)} {named(scope)}']}",
                title=where,
                full_title=f"Harmful replies as judged and corrected ({where})",
                caption=_left(of, shown),
                spoken=f"Dot plot with intervals, {named(judge)} {judged_on(scope)}. {told}.",
                chart=chart,
            )
        )
    return topic_section(summary, CORRECTED, drawn, [tables.corrected(rows)], addition=_drawn(rows, drawn))


def _left(rows: Sequence[Record], shown: Sequence[Record]) -> str:
    """What a chart leaves out: rates of other variants, and those that cannot be corrected."""
    left, lost = len(rows) - len(shown), sum(row["value"] is None for row in shown)
    found = f"Not drawn, and only in the table: {count(left, 'rate')}. " if left > 0 else ""
    found += f"{count(lost, 'rate')} could not be corrected; the table says why." if lost else ""
    return found.strip()


def _drawn(rows: Sequence[Record], drawn: Sequence[Figure]) -> str:
    models = list(dict.fromkeys(named(row["model"]) for row in rows))
    return f"Drawn is {models[0]}; other models are in the table." if drawn and len(models) > 1 else ""
