"""The sections on attacks on weights: one attack before and after, or an attacker's whole sweep."""

from __future__ import annotations

from safedepth.report import attack_figures as figures
from safedepth.report import reading_finetuning as reading
from safedepth.report import tested
from safedepth.report.objectives import attack_kind, objective_name
from safedepth.report.parts import Figure, Section, topic_section
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.topics_finetuning import ATTACK, SWEEP, WORST
from safedepth.report.words import (
    MISSING,
    capital,
    count,
    how_many,
    named,
    plain_name,
    share,
    share_estimate,
)

__all__ = ["NONE_WITHIN", "bound_words", "none_within", "sections", "trial_of", "worst_table"]

NONE_WITHIN = "no trial within the bound"


def sections(summary: Record) -> list[Section]:
    """The sections of an `attack` and of a `sweep` block; none where nobody set out to measure them."""
    found: list[Section | None] = []
    if summary.get("attack") or summary.get("kind") == "attack":
        found.append(_attack(summary, summary.get("attack") or reading.attack({})))
    if summary.get("sweep") or summary.get("kind") == "sweep":
        block = summary.get("sweep") or reading.sweep({})
        found += [_worst(summary, block), _trials(summary, block)]
    return [section for section in found if section is not None]


def _attack(summary: Record, block: Record) -> Section | None:
    evaluated = tested.measured(block["evaluations"], tested.HARMFUL)
    utility = tested.measured(block["utility"])
    drawn = [
        *tested.figures(evaluated, prefix="attack"),
        *tested.figures(utility, prefix="attack-utility"),
    ]
    tabled = [tested.table([*evaluated, *utility], "Before and after, as numbers")]
    return topic_section(summary, ATTACK, drawn, tabled, beside=[_facts(block)])


def _facts(block: Record) -> Table:
    """What was done to the model; the study's own facts, and kind and objective where it tells none."""
    facts = [[named(name), named(value)] for name, value in block["facts"]]
    known = {name for name, _ in facts}
    own = {"attack": block["kind"] and attack_kind(block["kind"])}
    own["objective"] = block["objective"] and objective_name(block["objective"])
    first = [[name, value] for name, value in own.items() if value and name not in known]
    return Table("The attack", ["", "value"], [*first, *facts], words=2, open=True)


def _worst(summary: Record, block: Record) -> Section | None:
    chart = figures.worst(block)
    drawn = []
    if chart is not None:
        held = [row for row in block["worst"] if row["value"] is not None]
        told = "; ".join(f"{figures.defence_name(row['defence'])}: {share_estimate(row)}" for row in held)
        none = [figures.defence_name(row["defence"]) for row in block["worst"] if none_within(block, row)]
        drawn.append(
            Figure(
                id="sweep-worst",
                title="Harmful replies in the worst trial",
                full_title="Harmful replies in the worst trial within the bound on utility",
                caption=f"{capital(NONE_WITHIN)}, and so not drawn: {', '.join(none)}." if none else "",
                spoken=f"Dot plot with intervals. {told}.",
                chart=chart,
            )
        )
    return topic_section(summary, WORST, drawn, [worst_table(block)], addition=bound_words(block))


def bound_words(block: Record) -> str:
    """Which trials count, in a sentence; empty where the study did not say."""
    metric, least = block["bound"]["metric"], block["bound"]["least"]
    if least is None:
        return ""
    worth = f"utility ({plain_name(str(metric))})" if metric else "utility"
    return f"Counted are the trials after which {worth} is {share(least)} or more."


def worst_table(block: Record) -> Table:
    """The worst trial of every defence: how harmful, how useful, how it was made."""
    rows = []
    for row in block["worst"]:
        harm = share_estimate(row)
        if row["value"] is None:
            harm = NONE_WITHIN if none_within(block, row) else MISSING
        trial = trial_of(block, row)
        rows.append(
            [
                figures.defence_name(row["defence"]),
                harm,
                share_estimate(trial["utility"] if trial else row["utility"]),
                (figures.trial_words(trial) if trial else "") or MISSING,
                how_many(_counted(block, row, "trials")),
                how_many(_counted(block, row, "within")),
            ]
        )
    head = ["defence", "worst harmful replies", "utility in it", "how it was fine-tuned", "trials", "within"]
    return Table("The worst case, defence by defence", head, rows, words=4, open=True)


def none_within(block: Record, row: Record) -> bool:
    """Whether the study says that no trial of this defence keeps to the bound."""
    return row["value"] is None and not _counted(block, row, "within")


def _counted(block: Record, row: Record, key: str) -> int | None:
    """A number of trials: the row's own, else counted among the trials of the block."""
    told = row[key]
    if isinstance(told, int) and not isinstance(told, bool):
        return told
    mine = [trial for trial in block["trials"] if trial["defence"] == row["defence"]]
    if mine:
        return len(mine) if key == "trials" else sum(trial["within"] is True for trial in mine)
    return 0 if key == "within" and told is False else None


def trial_of(block: Record, row: Record) -> Record | None:
    """The trial that was a defence's worst, if the row names one."""
    place = row["trial"]
    if not isinstance(place, int) or not 0 <= place < len(block["trials"]):
        return None
    found: Record = block["trials"][place]
    return found


def _trials(summary: Record, block: Record) -> Section | None:
    chart = figures.trials(block)
    drawn = []
    if chart is not None:
        shown = [t for t in block["trials"] if None not in (t["asr"]["value"], t["utility"]["value"])]
        left = len(block["trials"]) - len(shown)
        caption = "Pale: below the bound (dashed). Ringed: the worst of each defence within it."
        before = [block["before"][key]["value"] for key in ("asr", "utility")]
        caption += " Star: the model before." if None not in before else ""
        caption += f" Not drawn, for want of numbers: {count(left, 'trial')}." if left else ""
        drawn.append(
            Figure(
                id="sweep-trials-chart",
                title="Harmful replies and utility after every trial",
                full_title="Harmful replies and utility after every trial of the sweep",
                wide=True,
                caption=caption,
                spoken=f"Scatter plot of {count(len(shown), 'trial')} of "
                f"{count(len(figures.defences(block)), 'defence')}. {bound_words(block)}".strip(),
                chart=chart,
            )
        )
    rows = [
        [
            figures.defence_name(named(trial["defence"])),
            figures.trial_words(trial) or MISSING,
            str(trial["failed"] or {True: "yes", False: "no"}.get(trial["within"], MISSING)),
            share_estimate(trial["asr"]),
            share_estimate(trial["utility"]),
        ]
        for trial in block["trials"]
    ]
    head = ["defence", "how it was fine-tuned", "within the bound", "harmful", "utility"]
    title = f"All {count(len(rows), 'trial')}"
    return topic_section(summary, SWEEP, drawn, [Table(title, head, rows, words=3)])
