"""The section on log-probabilities: how likely each model holds a harmful answer, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from safedepth.report.band_lines import page_models
from safedepth.report.marks import token_bands
from safedepth.report.parts import Figure, Section, topic_section
from safedepth.report.style import Chart, Record, model_colour, model_shape
from safedepth.report.tables import Table
from safedepth.report.topics_measured import ANSWERS
from safedepth.report.words import estimate, how_many, named

__all__ = ["by_token", "chart", "ends", "sections"]

FAR = 20
"""The token that stands for later ones in a sentence, where answers are that long."""


def sections(summary: Record) -> list[Section]:
    """The section of an `answers` block; none where nobody set out to measure it."""
    drawn = []
    found = chart(summary)
    if found is not None:
        drawn.append(
            Figure(
                id="answers-by-position",
                title="Log-probability by token of the harmful answer",
                full_title="Log-probability of harmful answers by token",
                wide=True,
                caption="Mean over answers; bands are 95 % intervals. Shaded: the first five tokens. Later "
                "tokens have fewer answers, because answers end.",
                spoken=f"Line chart. {ends(summary)}".strip(),
                chart=found,
            )
        )
    section = topic_section(summary, ANSWERS, drawn, [by_token(summary)])
    return [] if section is None else [section]


def chart(summary: Record) -> Chart | None:
    """Mean log-probability in nats against the answer token, one line a model with its 95 % band."""
    rows = _rows(summary)
    if not rows:
        return None
    models = _models(summary, rows)
    return token_bands(
        rows,
        models,
        by="model",
        y=alt.Y("value:Q", title="log-probability, nats").scale(zero=True),
        colour=model_colour(models),
        shape=model_shape(models),
        title="token of the harmful answer",
    )


def ends(summary: Record) -> str:
    """The log-probability of the first token and of a later one, by model; empty where it is not known."""
    rows = _rows(summary)
    models = _models(summary, rows)
    at = {(row["model"], row["position"]): row for row in rows}
    places = [place for name, place in at if all((model, place) in at for model in models)]
    if not places:
        return ""
    first, later = min(places), max((place for place in places if place <= FAR), default=max(places))

    def told(place: int) -> str:
        return " and ".join(
            f"{estimate(at[name, place], unit='nats')} for the {name} model" for name in models
        )

    sentence = f"The log-probability of token {first} of a harmful answer is {told(first)}"
    return sentence + (f"; of token {later}, {told(later)}." if later > first else ".")


def _rows(summary: Record) -> list[Record]:
    return [
        {**row, "model": named(row["model"])}
        for row in summary.get("answers") or ()
        if row["value"] is not None and row["position"] is not None
    ]


def _models(summary: Record, rows: Sequence[Record]) -> list[str]:
    found = {row["model"] for row in rows}
    return [name for name in page_models(summary, rows) if name in found]


def by_token(summary: Record) -> Table:
    """The lines of the figure as numbers, a column each."""
    rows = _rows(summary)
    models = _models(summary, rows)
    at = {(row["model"], row["position"]): row for row in rows}
    told = [
        [
            str(place),
            *(estimate(at.get((name, place)) or {}, unit="") for name in models),
            ", ".join(dict.fromkeys(how_many(row["n"]) for row in rows if row["position"] == place)),
        ]
        for place in sorted({place for _, place in at})
    ]
    head = ["token", *models, "answers"]
    return Table("Mean log-probability by token, nats", head, told, words=0)
