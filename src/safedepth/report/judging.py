"""The sections on judges: where they agree, what each says of the same replies, on what they differ.

A run that judged again is about nothing else; an audit by several judges has the agreement.
How often each is wrong against a truth is for `judging_errors` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safedepth.report import judging_errors
from safedepth.report import judging_figures as figures
from safedepth.report import judging_tables as tables
from safedepth.report.judging_rows import (
    KIND,
    agreed,
    judged_on,
    kappa,
    left_out,
    names,
    of_class,
    panels,
    scope_name,
)
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.style import Record
from safedepth.report.topics_trust import AGREEMENT, BY_JUDGE, CLASSES
from safedepth.report.words import capital, count, named, share, share_estimate

__all__ = ["agreement_words", "alone", "sections"]

PAIRS = 10
"""Pairs of judges that stand as bars; more become a map."""
TOLD = 4
"""Pairs of judges whose agreement an audit tells in words."""
PANELS = 8
"""Charts of one sort at most."""


def sections(summary: Record, scores: Sequence[Record] = ()) -> list[Section]:
    """The sections of a second judging in reading order; of any other run the agreement alone.

    `scores` are the means of the judges' own numbers, of those that give one.
    """
    found = [_agreement(summary)]
    if summary.get("kind") == KIND:
        found += [_by_judge(summary), _classes(summary, scores), *judging_errors.sections(summary)]
    return [section for section in found if section is not None]


def agreement_words(row: Record) -> str:
    """How far two judges agree, in half a sentence."""
    beyond = f" (κ\N{NO-BREAK SPACE}{kappa(row['kappa'])})" if row["kappa"]["value"] is not None else ""
    return f"{named(row['first'])} and {named(row['second'])} agree on {share(agreed(row))}{beyond}"


def alone(summary: Record) -> str:
    """That there is one judge only; empty where there are several, or none."""
    judges = names(summary)
    if len(judges) != 1:
        return ""
    return f"One judge alone, {judges[0]}: there is nothing to compare its verdicts with."


def _agreement(summary: Record) -> Section | None:
    rows = summary.get("agreement") or []
    if summary.get("kind") != KIND:
        known = [row for row in rows if agreed(row) is not None]
        told = [f"{agreement_words(row)}, {judged_on(row['scope'])}" for row in known]
        addition = f"Here the judges {'; '.join(told[:TOLD])}." if told else ""
        return topic_section(summary, AGREEMENT, [], [tables.agreement(rows)], addition=addition)
    drawn = []
    for (scope,), mine in panels(rows, "scope").items():
        many = len(mine) > PAIRS
        chart = figures.agreement_map(mine, names(summary)) if many else figures.agreement(mine)
        if chart is None:
            continue
        bars = "Of every two, the first is the one named first. Grey: they agree."
        stronger = "The stronger, the more they differ; the scale ends at the two that differ most."
        drawn.append(
            Figure(
                id=f"judges-agree-{slugs([named(scope)])[named(scope)]}",
                title=capital(judged_on(scope)),
                full_title=f"Verdicts of two judges on the same replies ({scope_name(scope)})",
                caption=stronger if many else bars,
                spoken=f"{'Heat map' if many else 'Bar chart'} of agreement. "
                f"{'; '.join(agreement_words(row) for row in mine[:PAIRS])}.",
                chart=chart,
            )
        )
    tabled = [tables.agreement(rows)]
    section = topic_section(summary, AGREEMENT, drawn, tabled, beside=[tables.judges(summary)])
    if section is not None and section.missing and alone(summary):
        return replace(section, missing=alone(summary))
    return section


def _by_judge(summary: Record) -> Section | None:
    drawn: list[Figure] = []
    found = panels([rate for rate in summary["rates"] if rate["model"] is not None], "model", "scope")
    keys = slugs([f"{model} {named(scope)}" for model, scope in found])
    for (model, scope), rates in found.items():
        where = f"{model}, {scope_name(scope)}"
        drawn += _of_panel(summary, rates, where, keys[f"{model} {named(scope)}"])
    left = len(drawn) - PANELS
    more = f"{count(left, 'more chart')} would be of the same sort; the table has all." if left > 0 else ""
    return topic_section(summary, BY_JUDGE, drawn[:PANELS], [tables.rates(summary)], addition=more)


def _of_panel(summary: Record, rates: Sequence[Record], where: str, slug: str) -> list[Figure]:
    """Of one model in one scope: lines by forced tokens, and the other attacks at their strongest."""
    judges = names(summary)
    drawn = []
    forced = [rate for rate in rates if rate["attack"] == "prefill"]
    chart = figures.lines(forced, judges)
    if chart is not None:
        told = "; ".join(
            f"{named(row['judge'])} with {count(int(row.get('k') or 0), 'token')}: {share_estimate(row)}"
            for row in forced
        )
        drawn.append(
            Figure(
                id=f"judged-prefill-{slug}",
                title=capital(where),
                full_title=f"Harmful replies by forced tokens, judge by judge ({where})",
                caption=f"{left_out(judges)} {undrawn(forced)}".strip(),
                spoken=f"Line chart of harmful replies. {told}.",
                chart=chart,
            )
        )
    others = figures.strongest(rates)
    chart = figures.dots(others, judges)
    if chart is not None:
        told = "; ".join(f"{row['group']}, {row['model']}: {share_estimate(row)}" for row in others)
        drawn.append(
            Figure(
                id=f"judged-attacks-{slug}",
                title=f"Other attacks: {where}",
                full_title=f"Harmful replies to other attacks, judge by judge ({where})",
                caption=f"Each at its strongest variant. {left_out(judges)} {undrawn(others)}".strip(),
                spoken=f"Dot plot of harmful replies. {told}.",
                chart=chart,
            )
        )
    return drawn


def _classes(summary: Record, scores: Sequence[Record]) -> Section | None:
    drawn = []
    judges = names(summary)
    for (scope,), rows in panels(summary["classes"], "scope").items():
        chart = figures.by_class(rows, judges)
        if chart is None:
            continue
        told = "; ".join(
            f"{row['group']}, {named(row['judge'])}: {share_estimate(row)}" for row in of_class(rows)
        )
        drawn.append(
            Figure(
                id=f"judged-classes-{slugs([named(scope)])[named(scope)]}",
                title=capital(judged_on(scope)),
                full_title=f"Replies called harmful by class, judge by judge ({scope_name(scope)})",
                caption=f"{left_out(judges)} {_empty(rows)}".strip(),
                spoken=f"Dot plot with intervals. {told}.",
                chart=chart,
            )
        )
    tabled = [tables.classes(summary["classes"]), tables.scores(scores)]
    return topic_section(summary, CLASSES, drawn, tabled)


def _empty(rows: Sequence[Record]) -> str:
    """Classes of which there is no reply."""
    known = {row["group"] for row in of_class(rows) if row["value"] is not None}
    none = [row["group"] for row in of_class(rows) if row["group"] not in known]
    return f"Without a scored reply, and not drawn: {', '.join(dict.fromkeys(none))}." if none else ""
