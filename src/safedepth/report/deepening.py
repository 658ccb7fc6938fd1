"""The sections on recovery training: what it changed, what it cost, how it was done.

A section without numbers stays on the page where the run set out to measure them, and
says why there are none; elsewhere it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report import deepening_figures as figures
from safedepth.report import deepening_tables as tables
from safedepth.report.parts import Figure, Section, Topic, slugs, topic_section, undrawn, why
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.topics import FINETUNING, FORCED, KL, REFUSALS, TRAINING, TURNS, UTILITY
from safedepth.report.words import SCOPES, capital, count, kl_share, named, share_estimate, sweep

__all__ = ["sections"]

WHO = {
    "aligned": "“aligned” is the model before",
    "deepened": "“deepened” the model after recovery training",
    "control": "“control” the same training with nothing forced, so that it never learns to turn back",
}


def sections(summary: Record) -> list[Section]:
    """The sections of a run's `deepening` block, in reading order; none where it has no block."""
    if not summary.get("deepening"):
        if summary.get("kind") != "deepen":
            return []
        gap = why(summary, "models before and after", "deepen|model")
        return [Section(id=FORCED.id, title=_title(summary, FORCED), intro=FORCED.intro, missing=gap)]
    found = [
        _forced(summary),
        _kl(summary),
        _turns(summary),
        _utility(summary),
        _refusals(summary),
        _finetuned(summary),
        _training(summary),
    ]
    return [section for section in found if section is not None]


def _title(summary: Record, topic: Topic) -> str:
    """On the page of a deepening every section is about it; beside other findings the title says so."""
    kind, title = summary.get("kind"), topic.title
    if kind == "compare":
        return "Variants: " + ("forced tokens" if topic is FORCED else title)
    if kind == "deepen" and topic is not FORCED:
        return capital(title)
    return f"Deeper: {title}"


def _section(
    summary: Record,
    topic: Topic,
    drawn: Sequence[Figure],
    tabled: Sequence[Table] = (),
    *,
    addition: str = "",
) -> Section | None:
    return topic_section(summary, topic, drawn, tabled, title=_title(summary, topic), addition=addition)


def _forced(summary: Record) -> Section | None:
    block = summary["deepening"]
    chart = figures.prefill(summary)
    drawn = []
    if chart is not None:
        rates = sweep(summary, models=block["models"])
        judged = f"Judge: {rates[0]['judge']}, {SCOPES[rates[0]['scope']]}. Bars are 95 % intervals."
        spoken = "; ".join(f"{r['model']} with {count(r['k'], 'token')}: {share_estimate(r)}" for r in rates)
        drawn.append(
            Figure(
                id="deepening-prefill",
                title="Harmful replies by forced tokens",
                full_title="Harmful replies by forced tokens, before and after recovery training",
                wide=True,
                caption=judged,
                spoken=f"Line chart of the share of harmful replies. {spoken}.",
                chart=chart,
            )
        )
    who = "; ".join(WHO[name] for name in block["models"] if name in WHO)
    return _section(
        summary, FORCED, drawn, tables.paired(block), addition=f"Of the models, {who}." if who else ""
    )


def _kl(summary: Record) -> Section | None:
    block = summary["deepening"]
    chart = figures.kl_by_token(block)
    drawn = []
    if chart is not None:
        shares = {name: kl_share(block["kl"].get(name)) for name in block["models"]}
        told = "; ".join(f"{name} {share_estimate(of)}" for name, of in shares.items() if of)
        drawn.append(
            Figure(
                id="deepening-kl",
                title="KL divergence from the base model by token of the harmful answer",
                full_title="KL(model ‖ base) by token of the harmful answer",
                wide=True,
                caption="Mean over answers; the bands are 95 % intervals. Shaded: the first five tokens."
                + (f" Of the whole, they hold: {told}." if told else ""),
                spoken=f"Line chart, one line a model. On the first five tokens: {told or 'not known'}.",
                chart=chart,
            )
        )
    return _section(summary, KL, drawn, [tables.kl(block)])


def _turns(summary: Record) -> Section | None:
    drawn = []
    models = summary["deepening"]["models"]
    for k in figures.turn_panels(summary):
        chart = figures.turns(summary, k)
        if chart is None:
            continue
        rates = [r for r in sweep(summary, models=models, attack="multi_turn", by="turn") if r.get("k") == k]
        forced = f"{count(k, 'token')} forced besides" if k else "nothing forced"
        spoken = "; ".join(f"{r['model']} at turn {r['turn']}: {share_estimate(r)}" for r in rates)
        drawn.append(
            Figure(
                id="deepening-turns" if k is None else f"deepening-turns-k{k}",
                title=capital(forced),
                full_title=f"Harmful replies by turn, {forced}",
                caption=f"Judge: {rates[0]['judge']}, {SCOPES[rates[0]['scope']]}.",
                spoken=f"Line chart of the share of harmful replies. {spoken}.",
                chart=chart,
            )
        )
    return _section(summary, TURNS, drawn)


def _utility(summary: Record) -> Section | None:
    block = summary["deepening"]
    drawn = []
    measures = list(dict.fromkeys(row["measure"] for row in block["utility"] if row["measure"]))
    for measure, slug in slugs(measures).items():
        chart = figures.utility(block, measure)
        if chart is None:
            continue
        rows = [row for row in block["utility"] if row["measure"] == measure]
        spoken = "; ".join(f"{named(r['model'])} on {named(r['set'])}: {share_estimate(r)}" for r in rows)
        drawn.append(
            Figure(
                id=f"deepening-utility-{slug}",
                title=capital(measure),
                full_title=f"{capital(measure)}, before and after recovery training",
                caption=undrawn(rows),
                spoken=f"Dot plot with intervals. {spoken}.",
                chart=chart,
            )
        )
    return _section(summary, UTILITY, drawn, [tables.utility(block)])


def _refusals(summary: Record) -> Section | None:
    block = summary["deepening"]
    chart = figures.refusal_parts(block)
    drawn = []
    if chart is not None:
        spoken = "; ".join(
            f"{named(row['model'])}, {part}: {share_estimate({'value': value})}"
            for row in block["refusals"]
            for part, value in row["shares"].items()
        )
        drawn.append(
            Figure(
                id="deepening-refusals",
                title="What the refusals contain",
                full_title="What refusals after forced tokens contain",
                wide=True,
                caption="Refusals after forced tokens only.",
                spoken=f"Dot plot of the share of refusals with each part. {spoken}.",
                chart=chart,
            )
        )
    return _section(summary, REFUSALS, drawn, [tables.refusals(block)])


def _finetuned(summary: Record) -> Section | None:
    block = summary["deepening"]
    drawn = []
    panels = figures.finetuning_panels(block)
    names = [f"{data} k{k}" if k is not None else data for data, k in panels]
    for panel, slug in zip(panels, slugs(names).values(), strict=True):
        chart = figures.finetuning(block, panel)
        if chart is None:
            continue
        data, k = panel
        title = f"On {data} examples" + _asked(k)
        rows = [row for row in block["finetuning"] if ((row["data"] or "–"), row["k"]) == panel]
        spoken = "; ".join(
            f"{named(r['model'])} at step {named(r['step'])}: {share_estimate(r)}" for r in rows
        )
        drawn.append(
            Figure(
                id=f"deepening-finetuning-{slug}",
                title=title,
                full_title=f"Harmful replies after fine-tuning: {title[:1].lower()}{title[1:]}",
                caption=undrawn(rows),
                spoken=f"Line chart of the share of harmful replies by steps. {spoken}.",
                chart=chart,
            )
        )
    return _section(summary, FINETUNING, drawn, [tables.finetuning(block)])


def _asked(k: int | None) -> str:
    if k is None:
        return ""
    return f", then {count(k, 'token')} forced" if k else ", then nothing forced"


def _training(summary: Record) -> Section | None:
    block = summary["deepening"]
    drawn = []
    for part, name in figures.LOSSES.items():
        chart = figures.losses(block, part)
        if chart is not None:
            drawn.append(
                Figure(
                    id=f"deepening-losses-{part}",
                    title=f"Loss on {name}",
                    full_title=f"Training loss on {name}",
                    caption="",
                    spoken=f"Line chart of the training loss on {name}; the table below has the numbers.",
                    chart=chart,
                )
            )
    return _section(summary, TRAINING, drawn, [tables.facts(block), tables.losses(block)])
