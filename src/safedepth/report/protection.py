"""The sections on constrained fine-tuning: of one model, or of a reproduction's runs and tasks."""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report import protection_figures as figures
from safedepth.report import protection_tables as tables
from safedepth.report import tested
from safedepth.report.deepening_tables import paired
from safedepth.report.objectives import CONSTRAINED, attack_name, beta_words, last_steps
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.reading_finetuning import protection
from safedepth.report.style import Chart, Record
from safedepth.report.tables import Table
from safedepth.report.topics_finetuning import BETAS, DIAGNOSTICS, OBJECTIVE, PROTECTED, RUNS, TASKS
from safedepth.report.words import capital, count, named, number, share_estimate

__all__ = ["sections"]

READ = {
    "nll": "Where it falls, the data are learnt.",
    "weight": "How much of plain fine-tuning’s gradient is left, 2σ(β · log(reference / π)): 1 at the start "
    "(dashed), towards 0 as the model goes beyond the reference.",
    "kl": "How far the model’s distribution has moved, position by position.",
    "advantage": "The advantage for which the model is already the optimum: 0 at the start (dashed).",
}
STARTS = {
    "in": "answers begin as the model’s own would",
    "out": "answers begin otherwise",
    None: "beginning of the answers not told",
}
RUNS_DRAWN = 3
"""Runs whose diagnostics are drawn; of the others there are tables."""


def sections(summary: Record) -> list[Section]:
    """The sections of a run's `protection` block, in reading order; none where nobody meant to measure it."""
    kind = summary.get("kind")
    if not summary.get("protection") and kind != "finetune":
        return []
    block = summary.get("protection") or protection({})
    if kind == "finetune":
        found = [_before_after(summary, block)]
    else:
        found = [_runs(summary, block), _tasks(summary, block), _betas(summary, block)]
    found.append(_diagnostics(summary, block))
    return [section for section in found if section is not None]


def _before_after(summary: Record, block: Record) -> Section | None:
    asr = tested.measured(block["asr"], tested.HARMFUL)
    utility = tested.measured(block["utility"])
    drawn = [
        *tested.figures(asr, prefix="protection-asr"),
        *tested.figures(utility, prefix="protection-utility"),
    ]
    tabled = [*paired(block), tested.table([*asr, *utility], "Before and after, as numbers")]
    return topic_section(summary, PROTECTED, drawn, tabled, beside=[tables.facts(block)])


def _points(id_: str, title: str, full: str, rows: Sequence[Record], spoken: str, chart: Chart) -> Figure:
    return Figure(
        id=id_,
        title=title,
        full_title=full,
        caption=undrawn(rows),
        spoken=f"Dot plot with intervals. {spoken}.",
        chart=chart,
    )


def _runs(summary: Record, block: Record) -> Section | None:
    drawn = []
    chart = figures.runs(block)
    if chart is not None:
        rows = last_steps(figures.scheduled(block, "runs"), by=("attack", "model"))
        spoken = "; ".join(f"{attack_name(r['attack'])}, {r['model']}: {share_estimate(r)}" for r in rows)
        steps = sorted({row["step"] for row in rows if row["step"] is not None})
        after = f" ({', '.join(map(str, steps))})" if steps else ""
        drawn.append(
            Figure(
                id="protection-runs",
                title="Harmful replies by what was fine-tuned on",
                full_title="Harmful replies after fine-tuning, by objective",
                wide=True,
                caption=f"After the last step of each{after}.",
                spoken=f"Dot plot with intervals. {spoken}.",
                chart=chart,
            )
        )
    attacks = slugs(figures.attacks_with_steps(block))
    for attack, slug in attacks.items():
        chart = figures.curve(block, attack)
        if chart is None:
            continue
        title = capital(attack_name(attack))
        rows = [row for row in figures.scheduled(block, "runs") if named(row["attack"]) == attack]
        spoken = "; ".join(f"{r['model']} after step {named(r['step'])}: {share_estimate(r)}" for r in rows)
        drawn.append(
            Figure(
                id=f"protection-steps-{slug}",
                title=f"{title}, by steps",
                full_title=f"Harmful replies by steps of fine-tuning: {attack_name(attack)}",
                wide=len(attacks) == 1,
                caption=undrawn(rows),
                spoken=f"Line chart of the share of harmful replies. {spoken}.",
                chart=chart,
            )
        )
    return topic_section(summary, RUNS, drawn, [tables.runs(block)])


def _tasks(summary: Record, block: Record) -> Section | None:
    drawn = []
    starts = dict.fromkeys(row["start"] for row in block["tasks"])
    known = [start for start in STARTS if start in starts]
    for start in [*known, *(start for start in starts if start not in STARTS)]:
        for measure, heading in (("utility", "Utility"), ("asr", "Harmful replies")):
            chart = figures.tasks(block, start, measure)
            if chart is None:
                continue
            rows = figures.task_rows(block, start, measure)
            told = STARTS.get(start) or f"start: {start}"
            spoken = "; ".join(f"{row['task']}, {row['model']}: {share_estimate(row)}" for row in rows)
            slug = next(iter(slugs([named(start)]).values()))
            drawn.append(
                _points(
                    f"protection-tasks-{slug}-{measure}",
                    f"{heading}: {told}",
                    f"{heading} after fine-tuning on tasks: {told}",
                    rows, spoken, chart,
                )
            )  # fmt: skip
    return topic_section(summary, TASKS, drawn, [tables.tasks(block)])


def _betas(summary: Record, block: Record) -> Section | None:
    return topic_section(summary, BETAS, _schedules(block["betas"]), [tables.betas(block)])


def _schedules(tables_of: Record) -> list[Figure]:
    chart = figures.betas(tables_of)
    if chart is None:
        return []
    told = "; ".join(f"{name}: {beta_words(table)}" for name, table in tables_of.items())
    return [
        Figure(
            id="protection-betas-by-token",
            title="β by token of the response",
            full_title="β by token of the response",
            wide=True,
            caption="The larger, the nearer the token is held to the reference.",
            spoken=f"Step chart. {told}.",
            chart=chart,
        )
    ]


def _diagnostics(summary: Record, block: Record) -> Section | None:
    runs: dict[str, list[Record]] = {}
    for row in block["diagnostics"]:
        runs.setdefault("" if row["run"] is None else str(row["run"]), []).append(row)
    drawn: list[Figure] = _schedules({"β": block["beta"]}) if block["beta"] else []
    for run, slug in list(slugs(list(runs)).items())[:RUNS_DRAWN]:
        drawn += _of_run(runs[run], run, f"-{slug}" if run else "")
    left = list(runs)[RUNS_DRAWN:]
    addition = f"Not drawn, and only in the tables: {', '.join(left)}. " if left else ""
    if summary.get("kind") == "finetune" and block["objective"] in (CONSTRAINED, None):
        addition += OBJECTIVE
    tabled: list[Table] = [tables.diagnostics(rows, run) for run, rows in runs.items()]
    return topic_section(summary, DIAGNOSTICS, drawn, tabled, addition=addition)


def _of_run(rows: Sequence[Record], run: str, slug: str) -> list[Figure]:
    drawn = []
    last = max(row["step"] for row in rows)
    groups = count(len(figures.groups_of(rows)), "group")
    for measure, (heading, axis, _) in figures.DIAGNOSED.items():
        chart = figures.diagnostics(rows, measure)
        if chart is None:
            continue
        ends = [row for row in rows if row["step"] == last and row[measure] is not None]
        told = "; ".join(f"from token {row['position']} on: {number(row[measure])}" for row in ends)
        of = f" ({run})" if run else ""
        drawn.append(
            Figure(
                id=f"protection-{measure}{slug}",
                title=f"{heading}{of}",
                full_title=f"{heading} by position while training{of}",
                caption=READ[measure],
                spoken=f"Line chart of {axis}, one line for each of {groups} of positions. "
                f"At step {last}, {told or 'no value'}.",
                chart=chart,
            )
        )
    return drawn
