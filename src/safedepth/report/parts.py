"""What an illustrated section is made of: figures with their words, tables, ids, reasons for a gap.

Knows nothing of what is measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from safedepth.report.style import Chart, Record
from safedepth.report.tables import Table
from safedepth.report.words import count

__all__ = ["NOT_MEASURED", "Figure", "Section", "Topic", "slugs", "topic_section", "undrawn", "why"]

NOT_MEASURED = "Not measured."


@dataclass(frozen=True)
class Figure:
    """A chart with its words; `id` names its element on the page and its PNG file.

    `title` stands beneath the section's heading; `full_title` on the PNG, which stands alone.
    """

    id: str
    title: str
    full_title: str
    caption: str
    spoken: str
    chart: Chart
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, what is shown and how to read it, charts, tables; `missing` says why there is none."""

    id: str
    title: str
    intro: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = field(default=())
    missing: str = ""


@dataclass(frozen=True)
class Topic:
    """A section to be: its id and heading, how to read it, and how the study may call its absence.

    `pattern` finds the entries of `not_measured` that are about it. Without numbers it stays
    on the page of the kind of run where it is `expected`, and is left out elsewhere.
    """

    id: str
    title: str
    intro: str
    what: str
    pattern: str
    expected: str = ""


def topic_section(
    summary: Record,
    topic: Topic,
    drawn: Sequence[Figure],
    tabled: Sequence[Table] = (),
    *,
    beside: Sequence[Table] = (),
    title: str = "",
    addition: str = "",
) -> Section | None:
    """A section, or None where it has nothing to show and nobody set out to measure it.

    Tables that stand `beside` say how something was done, which is no measurement.
    """
    tabled = [table for table in tabled if table.rows]
    missing = "" if drawn or tabled else why(summary, topic.what, topic.pattern)
    expected = topic.expected and summary.get("kind") == topic.expected
    if missing and not expected and not missing.startswith(NOT_MEASURED):
        return None
    return Section(
        id=topic.id,
        title=title or topic.title,
        intro=f"{topic.intro} {addition}".strip(),
        figures=drawn,
        tables=[*tabled, *(table for table in beside if table.rows)],
        missing=missing,
    )


def why(summary: Record, what: str, pattern: str) -> str:
    """Why a section has no chart: what the study said about it."""
    reasons = [
        f"{entry['what']}: {entry['why']}"
        for entry in summary.get("not_measured") or ()
        if re.search(pattern, entry["what"], re.IGNORECASE)
    ]
    return f"{NOT_MEASURED} {' '.join(reasons)}" if reasons else f"This run holds no numbers for {what}."


def undrawn(rates: Sequence[Record]) -> str:
    """How many points a chart leaves out because they have no value."""
    empty = sum(rate["value"] is None for rate in rates)
    if not empty:
        return ""
    return f"{count(empty, 'point')} without a scored reply {'is' if empty == 1 else 'are'} not drawn."


def slugs(names: Sequence[str]) -> dict[str, str]:
    """A part of an id for every name: plain letters and digits, no two the same."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
        taken, slug, number = set(found.values()), plain, 1
        while slug in taken:
            number += 1
            slug = f"{plain}-{number}"
        found[name] = slug
    return found
