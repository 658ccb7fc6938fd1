"""The sections on what fine-tuning does: harmful replies by step, then by position, then by layer."""

from __future__ import annotations

from safedepth.report import dynamics_figures as figures
from safedepth.report.objectives import forced, objective_name, stepped_names
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.reading_finetuning import dynamics
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.topics_finetuning import BY_LAYER, BY_POSITION, BY_STEP
from safedepth.report.words import (
    MISSING,
    capital,
    count,
    estimate,
    how_many,
    named,
    share,
    share_estimate,
)

__all__ = ["harmful_table", "sections", "spread_of", "spread_table", "steps_table"]

ESTIMATED = "Gradient norms are estimates here, not exact; how they were made stands among the facts above."
NO_LAYERS = "Not measured: the gradient norms of this run were estimated, for the whole model alone."
LONG = 24
"""Rows beyond which a table waits to be asked for."""


def sections(summary: Record) -> list[Section]:
    """The sections of a run's `dynamics` block, in reading order; none where nobody set out to measure it."""
    if not summary.get("dynamics") and summary.get("kind") != "dynamics":
        return []
    block = summary.get("dynamics") or dynamics({})
    found = [_by_step(summary, block), _by_position(summary, block), _by_layer(summary, block)]
    return [section for section in found if section is not None]


def _by_step(summary: Record, block: Record) -> Section | None:
    drawn = []
    for panel, slug in slugs(figures.panels(block)).items():
        chart = figures.harmful(block, panel)
        if chart is None:
            continue
        rows = [row for row in stepped_names(block["asr"]) if named(row["data"]) == panel]
        title = f"On {panel} examples" if panel != MISSING else "Harmful replies by optimiser steps"
        spoken = "; ".join(f"{r['model']} after step {named(r['step'])}: {share_estimate(r)}" for r in rows)
        drawn.append(
            Figure(
                id=f"dynamics-harmful-{slug}",
                title=title,
                full_title="Harmful replies by optimiser steps"
                + (f", {panel} examples" if panel != MISSING else ""),
                caption=undrawn(rows),
                spoken=f"Line chart of the share of harmful replies. {spoken}.",
                chart=chart,
            )
        )
    facts = [[named(name), named(value)] for name, value in block["facts"]]
    done = Table("What was done", ["", "value"], facts, words=2, open=True)
    return topic_section(summary, BY_STEP, drawn, [harmful_table(block)], beside=[done])


def _by_position(summary: Record, block: Record) -> Section | None:
    drawn = []
    for measure, (heading, _, unit) in figures.MEASURES.items():
        chart = figures.positions(block, measure)
        if chart is None:
            continue
        steps = figures.steps_of(block, measure)
        told = "; ".join(f"step {row['step']}: {held}" for row, held in spread_of(block, measure))
        first = _first_tokens(block)
        caption = f"Bands are 95 % intervals. Shaded: {first}."
        caption += f" Of the whole, they hold: {told}." if told else ""
        caption += f" {ESTIMATED}" if measure == "gradient" and block["estimated"] else ""
        rows = [r for r in block["positions"] if r["measure"] == measure and r["step"] == steps[0]]
        ends = "; ".join(
            f"at token {row['position']}: {estimate(row, unit=unit)}" for row in (rows[0], rows[-1])
        )
        drawn.append(
            Figure(
                id=f"dynamics-{measure}",
                title=f"{heading} by token of the response",
                full_title=f"{heading} by token of the response",
                wide=True,
                caption=caption,
                spoken=f"Line chart, one line for each of {count(len(steps), 'step')}. "
                f"After step {steps[0]}, {ends}. {capital(first)} hold: {told or 'not known'}.",
                chart=chart,
            )
        )
    return topic_section(summary, BY_POSITION, drawn, [spread_table(block), *_positions(block)])


def _by_layer(summary: Record, block: Record) -> Section | None:
    drawn = []
    steps = figures.looked_at(block)
    for step in steps:
        chart = figures.layers(block, step)
        if chart is None:
            continue
        rows = [r for r in block["layers"] if r["step"] == step and r["value"] is not None]
        most = max(rows, key=lambda row: float(row["value"]))
        drawn.append(
            Figure(
                id=f"dynamics-layers-{step}",
                title="Before the first step" if step == 0 else f"After step {step}",
                full_title="Gradient norm by layer and token, "
                + ("before the first step" if step == 0 else f"after step {step}"),
                wide=len(steps) == 1,
                caption="",
                spoken="Heat map of gradient norms, one row a layer, one column a token. The largest, "
                f"{estimate({'value': most['value']})}, is in layer {named(most['layer'])} at token "
                f"{most['position']}.",
                chart=chart,
            )
        )
    if not drawn and block["estimated"]:
        return Section(BY_LAYER.id, BY_LAYER.title, BY_LAYER.intro, missing=NO_LAYERS)
    addition = ESTIMATED if block["estimated"] else ""
    return topic_section(summary, BY_LAYER, drawn, addition=addition)


def spread_of(block: Record, measure: str) -> list[tuple[Record, str]]:
    """The share of a measure that falls on the first tokens by step, as rows and in words."""
    rows = [row for row in block["spread"] if row["measure"] == measure and row["share_first"] is not None]
    return [
        (row, share_estimate({**row, "value": row["share_first"]})) for row in rows if row["step"] is not None
    ]


def _first_tokens(block: Record) -> str:
    firsts = {row["first"] for row in block["spread"] if row["first"]}
    return f"the first {count(firsts.pop(), 'token')}" if len(firsts) == 1 else "the first five tokens"


def spread_table(block: Record) -> Table:
    """How much of each measure falls on the first tokens, a row a step."""
    measures = list(dict.fromkeys(row["measure"] for row in block["spread"]))
    rows = [
        [
            figures.MEASURES[row["measure"]][0]
            if row["measure"] in figures.MEASURES
            else named(row["measure"]),
            how_many(row["step"]),
            share_estimate({**row, "value": row["share_first"]}),
            how_many(row["n"]),
        ]
        for row in sorted(block["spread"], key=lambda row: measures.index(row["measure"]))
    ]
    title = f"How much falls on {_first_tokens(block)}"
    return Table(title, ["measure", "after step", "share", "answers"], rows, open=len(rows) <= LONG)


def harmful_table(block: Record) -> Table:
    """Harmful replies by optimiser steps."""
    rows = [
        [
            named(row["data"]),
            named(row["model"]),
            objective_name(row["objective"]) if row["objective"] else MISSING,
            forced(row["k"]),
            how_many(row["step"]),
            share_estimate(row),
            how_many(row["n"]),
            how_many(row["unscored"]),
        ]
        for row in block["asr"]
    ]
    head = ["examples", "model", "objective", "forced", "after step", "harmful", "n", "unscored"]
    return Table("Harmful replies by optimiser steps, as numbers", head, rows, words=4)


def steps_table(block: Record) -> Table:
    """The same shares, one row a line of the chart and one column a step: what the terminal shows."""
    rows = stepped_names([row for row in block["asr"] if row["step"] is not None])
    steps = sorted({row["step"] for row in rows})
    at = {(named(row["data"]), row["model"], row["step"]): share(row["value"]) for row in rows}
    lines = dict.fromkeys((data, name) for data, name, _ in at)
    told = [[*line, *(at.get((*line, step), MISSING) for step in steps)] for line in lines]
    head = ["examples", "which", *(f"step {step}" for step in steps)]
    return Table("Harmful replies by optimiser steps", head, told, words=2)


def _positions(block: Record) -> list[Table]:
    """A table a measure: one row a position, one column a step."""
    found = []
    for measure, (heading, _, unit) in figures.MEASURES.items():
        steps = figures.steps_of(block, measure)
        at = {(r["step"], r["position"]): r for r in block["positions"] if r["measure"] == measure}
        rows = [
            [str(position), *(estimate(at.get((step, position)) or {}, unit="") for step in steps)]
            for position in sorted({position for step, position in at if step in steps})
        ]
        head = ["token", *(f"after step {step}" + (f", {unit}" if unit else "") for step in steps)]
        found.append(Table(f"{heading} by token, as numbers", head, rows, words=0))
    return found
