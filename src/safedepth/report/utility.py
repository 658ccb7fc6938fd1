"""The sections on what a model is worth: benchmarks, right answers, what it refuses of harmless requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safedepth.report.attack_lines import LONG
from safedepth.report.judging_tables import MANY
from safedepth.report.marks import grouped_points, interval_tooltip
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.style import Chart, Record
from safedepth.report.tables import Table
from safedepth.report.topics_trust import ALPACA, BENCHMARKS, BY_TYPE, REQUESTS
from safedepth.report.words import capital, count, how_many, named, number, plain_name, share, share_estimate

__all__ = ["KIND", "alpaca_words", "benchmark_name", "is_share", "sections", "set_name"]

KIND = "utility"
"""The kind of run that measures what a model is worth."""
BETTER = {True: "higher", False: "lower"}


def sections(summary: Record) -> list[Section]:
    """The sections of a run on utility in reading order; none of any other run."""
    if summary.get("kind") != KIND:
        return []
    found = [_benchmarks(summary), _requests(summary), _by_type(summary), _alpaca(summary)]
    return [section for section in found if section is not None]


def benchmark_name(row: Record) -> str:
    """A benchmark with its metric, and which way is better where that is not upwards."""
    lower = ", lower is better" if row["higher_is_better"] is False else ""
    metric = f" ({named(row['metric'])}{lower})" if row["metric"] or lower else ""
    return f"{named(row['task'])}{metric}"


def is_share(row: Record) -> bool:
    """Whether a score lies on the axis of shares, interval and all."""
    known = [row[key] for key in ("value", "low", "high") if row[key] is not None]
    return bool(known) and row["value"] is not None and all(0 <= one <= 1 for one in known)


def _score(row: Record) -> str:
    """A score as a share, or as the number it is."""
    if row["value"] is None or is_share(row):
        return share_estimate(row)
    ends = [number(row[key], like=row["value"]) for key in ("low", "high")]
    interval = "" if row["low"] is None and row["high"] is None else f" [{', '.join(ends)}]"
    return number(row["value"], like=row["value"]) + interval


def set_name(row: Record, among: Sequence[Record]) -> str:
    """A set of requests; with the judge where another one has judged the same by the same measure."""
    of = (row["set"], row["measure"])
    judges = {other["judge"] for other in among if (other["set"], other["measure"]) == of}
    return f"{named(row['set'])} ({named(row['judge'])})" if len(judges) > 1 else named(row["set"])


def _points(rows: Sequence[Record], group: str, title: str, models: Sequence[str]) -> Chart | None:
    """A dot with its interval for each row, in a band for each `group`; one model needs no legend."""
    shown = [
        {
            "model": named(row["model"]),
            group: row[group],
            **{k: row[k] for k in ("value", "low", "high", "n")},
        }
        for row in rows
        if row["value"] is not None
    ]
    told = interval_tooltip(("model:N", "model"), (f"{group}:N", "of"), value=title, n="requests")
    apart = len({row["model"] for row in shown}) > 1
    return grouped_points(shown, models, group=group, title=title, tooltip=told, apart=apart)


def _models(summary: Record) -> list[str]:
    rows = [*summary["harness"], *summary["requests"], *summary["by_type"]]
    return [named(name) for name in dict.fromkeys([*summary["models"], *(row["model"] for row in rows)])]


def _benchmarks(summary: Record) -> Section | None:
    rows = [{**row, "benchmark": benchmark_name(row)} for row in summary["harness"]]
    drawn = []
    chart = _points([row for row in rows if is_share(row)], "benchmark", "score", _models(summary))
    if chart is not None:
        told = "; ".join(f"{row['benchmark']}, {named(row['model'])}: {_score(row)}" for row in rows)
        others = [row["benchmark"] for row in rows if row["value"] is not None and not is_share(row)]
        caption = f"No share, and so not drawn: {', '.join(dict.fromkeys(others))}. " if others else ""
        drawn.append(
            Figure(
                id="benchmarks-scores",
                title="Scores",
                full_title="Benchmark scores",
                wide=True,
                caption=f"{caption}{undrawn(rows)}".strip(),
                spoken=f"Dot plot with intervals. {told}.",
                chart=chart,
            )
        )
    return topic_section(summary, BENCHMARKS, drawn, [_benchmark_table(rows)])


def _benchmark_table(rows: Sequence[Record]) -> Table:
    told = [
        [
            named(row["task"]), named(row["metric"]), named(row["model"]), _score(row),
            BETTER.get(row["higher_is_better"], "–"), how_many(row["n"]), how_many(row["unscored"]),
            how_many(row["few_shot"]), named(row["version"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = [
        "task",
        "metric",
        "model",
        "score",
        "better",
        "n",
        "unscored",
        "examples shown",
        "version of the task",
    ]
    note = MANY.format(count(len(told), "score")) if len(told) > 1 else ""
    return Table("Scores as numbers", head, told, words=3, open=len(told) <= LONG, note=note)


def _measured(rows: Sequence[Record], *, by_type: bool) -> list[dict[str, Any]]:
    return [
        {
            **row,
            "group": plain_name(named(row["type"])) if by_type else set_name(row, rows),
            "measure": plain_name(named(row["measure"])),
        }
        for row in rows
    ]


def _by_measure(rows: Sequence[Record], prefix: str, title: str, models: Sequence[str]) -> list[Figure]:
    drawn = []
    for measure, slug in slugs(list(dict.fromkeys(row["measure"] for row in rows))).items():
        mine = [row for row in rows if row["measure"] == measure]
        chart = _points(mine, "group", measure, models)
        if chart is None:
            continue
        told = "; ".join(f"{row['group']}, {named(row['model'])}: {share_estimate(row)}" for row in mine)
        drawn.append(
            Figure(
                id=f"{prefix}-{slug}",
                title=capital(measure),
                full_title=f"{capital(measure)}{title}",
                caption=undrawn(mine),
                spoken=f"Dot plot with intervals. {told}.",
                chart=chart,
            )
        )
    return drawn


def _table(rows: Sequence[Record], keys: Sequence[str], title: str, *, open_: bool) -> Table:
    told = [
        [
            *(named(row[key]) for key in keys), share_estimate(row), how_many(row["n"]),
            how_many(row["unscored"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = [*keys, "share", "n", "unscored"]
    note = MANY.format(count(len(told), "share")) if len(told) > 1 else ""
    return Table(title, head, told, words=len(keys), open=open_ and len(told) <= LONG, note=note)


def _requests(summary: Record) -> Section | None:
    rows = _measured(summary["requests"], by_type=False)
    drawn = _by_measure(rows, "requests", "", _models(summary))
    keys = ("measure", "set", "model", "judge")
    return topic_section(summary, REQUESTS, drawn, [_table(rows, keys, "The same as numbers", open_=True)])


def _by_type(summary: Record) -> Section | None:
    rows = _measured(summary["by_type"], by_type=True)
    drawn = _by_measure(rows, "by-type", " by type of request", _models(summary))
    keys = ("measure", "set", "type", "model")
    return topic_section(summary, BY_TYPE, drawn, [_table(rows, keys, "By type, as numbers", open_=False)])


def alpaca_words(of: Record) -> str:
    """How often the annotator preferred the model's answers, in a sentence; empty where it is not known."""
    if of.get("value") is None:
        return ""
    by = f"{named(of['annotator'])} preferred the model’s answers to those of {named(of['reference'])}"
    controlled = of.get("length_controlled")
    fair = f"; {share(controlled)} with the length of answers taken out" if controlled is not None else ""
    return f"AlpacaEval: {by} in {share_estimate(of)} of {count(of['n'] or 0, 'comparison')}{fair}."


def _alpaca(summary: Record) -> Section | None:
    of = summary["alpaca"]
    facts = [
        ["annotator", named(of["annotator"])],
        ["reference", named(of["reference"])],
        ["preferred", share_estimate(of)],
        ["preferred, length-controlled", share(of["length_controlled"])],
        ["comparisons", how_many(of["n"])],
        ["unscored", how_many(of["unscored"])],
    ] if of else []  # fmt: skip
    tabled = [Table("AlpacaEval as numbers", ["", "value"], facts, words=2, open=True)]
    return topic_section(summary, ALPACA, [], tabled)
