"""The section on optimised suffixes: the loss of the search step by step, and what it broke.

One run may hold several searches, one a model; each has its own charts and tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report.attack_lines import LONG, is_number, rates_table, variant_name
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.style import Record
from safedepth.report.suffix_figures import LINES, curves, loss, mean_loss, success
from safedepth.report.tables import Table
from safedepth.report.topics_attacks import SUFFIX
from safedepth.report.words import MISSING, capital, count, how_many, named, number, share_estimate

__all__ = ["final_success", "search_names", "sections"]

BROKEN = {True: "broken", False: "held"}


def sections(summary: Record) -> list[Section]:
    """One section for all searches of a run (claim C5); none where nobody set out to make one."""
    blocks = summary.get("suffix") or []
    names = search_names(blocks)
    drawn: list[Figure] = []
    tabled: list[Table] = []
    beside: list[Table] = []
    for (name, slug), block in zip(slugs(names).items(), blocks, strict=True):
        several = f": {name}" if len(blocks) > 1 else ""
        slug = f"-{slug}" if len(blocks) > 1 else ""
        drawn += [*_loss(block, several, slug), *_success(block, several, slug)]
        tabled += [_searches(block, several), _steps(block, several)]
        beside.append(_facts(block, several))
    tabled.append(rates_table(summary, "suffix", "The suffixes sent to the models, as numbers"))
    section = topic_section(summary, SUFFIX, drawn, tabled, beside=beside, addition=_broken(blocks, names))
    return [] if section is None else [section]


def final_success(block: Record) -> Record | None:
    """The share of prompts broken at the last step that has one."""
    found = [row for row in block["success"] if row["value"] is not None and is_number(row["step"])]
    return max(found, key=lambda row: float(row["step"]), default=None)


def search_names(blocks: Sequence[Record]) -> list[str]:
    """Whose search each is and of what kind; searches of one name stay apart by their number."""
    found: list[str] = []
    for place, block in enumerate(blocks):
        parts = [str(block["model"])] if block["model"] else []
        parts += [variant_name("suffix", block["method"])] if block["method"] else []
        name = ", ".join(parts) or "search"
        found.append(f"{name} ({place + 1})" if name in found else name)
    return found


def _broken(blocks: Sequence[Record], names: Sequence[str]) -> str:
    told = []
    for name, block in zip(names, blocks, strict=True):
        last = final_success(block)
        if last is not None:
            whose = f"{name}: " if len(blocks) > 1 else ""
            told.append(f"{whose}{share_estimate(last)} by step {how_many(last['step'])}")
    return f"Prompts broken: {'; '.join(told)}." if told else ""


def _loss(block: Record, several: str, slug: str) -> list[Figure]:
    chart = loss(block)
    if chart is None:
        return []
    mean = mean_loss(block)
    all_of, drawn = len({str(row["prompt_id"]) for row in block["loss"]}), len(curves(block))
    caption = "Thin: a search. Thick: their mean; a search that has ended keeps its last loss."
    if all_of > drawn:
        caption += f" The first {LINES} of {all_of:,} searches are drawn; the mean is over all."
    first, last = mean[0], mean[-1]
    return [
        Figure(
            id=f"suffix-loss{slug}",
            title=f"Loss of the search{several}",
            full_title=f"Loss by step of the search{several}",
            caption=caption,
            spoken=f"Line chart, {count(drawn, 'search', 'searches')}. The mean loss is "
            f"{number(first['loss'])} at step {first['step']} and {number(last['loss'])} at step "
            f"{last['step']}.",
            chart=chart,
        )
    ]


def _success(block: Record, several: str, slug: str) -> list[Figure]:
    chart = success(block)
    if chart is None:
        return []
    rows = sorted(block["success"], key=lambda row: float(row["step"]))
    told = "; ".join(f"step {row['step']}: {share_estimate(row)}" for row in rows)
    return [
        Figure(
            id=f"suffix-success{slug}",
            title=f"Prompts broken{several}",
            full_title=f"Prompts broken by step of the search{several}",
            caption=f"The judge looks while the search runs; it stops where a prompt is broken. "
            f"{undrawn(rows)}".strip(),
            spoken=f"Line chart of the share of prompts broken. {told}.",
            chart=chart,
        )
    ]


def _facts(block: Record, several: str) -> Table:
    facts = [[named(name), named(value)] for name, value in block["facts"]]
    known = {name for name, _ in facts}
    own = {"model": block["model"], "method": block["method"] and variant_name("suffix", block["method"])}
    first = [[name, str(value)] for name, value in own.items() if value and name not in known]
    return Table(f"The search{several}", ["", "value"], [*first, *facts], words=2, open=True)


def _searches(block: Record, several: str) -> Table:
    rows = [
        [
            named(row["prompt_id"]), "not judged" if row["broken"] is None else BROKEN[bool(row["broken"])],
            how_many(row["steps"]), number(row["loss"]),
            MISSING if row["seconds"] is None else f"{row['seconds']:.1f}",
        ]
        for row in block["searches"]
    ]  # fmt: skip
    head = ["prompt", "judged", "steps", "loss", "seconds"]
    title = f"{capital(count(len(rows), 'search', 'searches'))}{several}"
    return Table(title, head, rows, words=2, open=len(rows) <= LONG)


def _steps(block: Record, several: str) -> Table:
    rows = [
        [how_many(row["step"]), share_estimate(row), how_many(row["n"]), how_many(row["unscored"])]
        for row in sorted(block["success"], key=lambda row: float(row["step"]))
    ]
    head = ["step", "prompts broken", "n", "unscored"]
    return Table(f"Prompts broken by step, as numbers{several}", head, rows, words=0)
