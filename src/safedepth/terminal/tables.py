"""Results as tables: what a person wants to see first when a command is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedepth.terminal.console import console, escaped, say
from safedepth.terminal.trust import print_judging, print_trade_off, print_utility

if TYPE_CHECKING:
    from safedepth.studies.attack_cost import Cost
    from safedepth.studies.attack_plan import Plan

__all__ = [
    "finish",
    "print_adaptive",
    "print_attack",
    "print_claims",
    "print_depth",
    "print_dynamics",
    "print_measured",
    "print_overview",
    "print_paired",
    "print_plan",
    "print_sweep",
]

TOKENS = ("1", "2", "5", "10", "20", "40")
"""Tokens of an answer at which a terminal shows what was measured."""


def finish(out: Path, *, show_harmful: bool, png: bool) -> None:
    """Build the report, print what a person wants to see first, and end with the path of the page."""
    from safedepth.report import build_report
    from safedepth.runs import RunDirectory

    page = build_report(out, show_harmful=show_harmful, png=png)
    summary = RunDirectory.read(out).summary()
    print_depth(summary)
    if summary.get("adaptive"):
        print_adaptive(summary["adaptive"])
    elif summary.get("attacks") and "claims" not in summary:
        print_overview(summary["attacks"])
    if "claims" in summary:
        print_claims(summary["claims"])
    elif summary.get("trade_off"):
        print_trade_off(summary["trade_off"])
    elif summary.get("protection"):
        print_paired(summary["protection"].get("paired") or [])
    elif summary.get("attack"):
        print_attack(summary["attack"])
    elif summary.get("sweep"):
        print_sweep(summary["sweep"])
    elif summary.get("dynamics"):
        print_dynamics(summary)
    elif summary.get("deepening"):
        print_paired(summary["deepening"].get("paired") or [])
    if summary["kind"] == "measure":
        print_measured(summary)
    elif summary["kind"] == "judge":
        print_judging(summary)
    elif summary["kind"] == "utility":
        print_utility(summary)
    for note in summary["not_measured"]:
        say(f"[yellow]Not measured:[/yellow] {escaped(note['what'])}: {escaped(note['why'])}")
    for warning in summary["warnings"]:
        say(f"[yellow]Note:[/yellow] {escaped(warning)}")
    say("Report:")
    console().print(str(page.resolve()), soft_wrap=True, highlight=False, markup=False)


def print_depth(summary: dict[str, Any]) -> None:
    """The depth measures of a summary, where it has any."""
    from rich.table import Table

    table = Table("depth", "tokens", "95 % interval", title="How deep the safety goes", title_justify="left")
    depths = summary.get("depth", {})
    for name, entry in depths.items():
        value = "–" if entry["value"] is None else f"{entry['value']:.1f}"
        low, high = (("–" if entry[end] is None else f"{entry[end]:.1f}") for end in ("low", "high"))
        table.add_row(name, value, f"{low} to {high}")
    if depths:
        console().print(table)


def print_claims(claims: list[dict[str, Any]]) -> None:
    """The paper's claims: its numbers, ours, whether they hold."""
    from rich.table import Table

    from safedepth.report.words import estimate

    table = Table("claim", "paper", "ours", "holds", title="The paper's claims", title_justify="left")
    words = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "not measured"}
    for claim in claims:
        ours = "–" if claim["value"] is None else estimate(claim)
        statement = f"[bold]{claim['id']}[/bold] {escaped(claim['statement'])}"
        undecided = claim["holds"] is None and claim["value"] is not None
        verdict = "[yellow]undecided[/yellow]" if undecided else words[claim["holds"]]
        table.add_row(statement, escaped(claim["paper"]), escaped(ours), verdict)
    console().print(table)


def print_plan(plan: Plan, cost: Cost) -> None:
    """What an audit is about to do and what it costs, before it does."""
    say(f"Attacks: {', '.join(plan.attacks) or 'none'}")
    for entry in plan.left_out:
        say(f"[yellow]Left out:[/yellow] {escaped(entry['what'])}: {escaped(entry['why'])}")
    say(f"Cost: {cost}.")
    if "suffix" in plan.attacks:
        say("A search of suffixes comes on top, unless suffixes were given.")


def print_overview(block: dict[str, Any]) -> None:
    """Every attack at its strongest, and the prompts that any of them broke."""
    from rich.table import Table

    from safedepth.report.words import attack_name, share_estimate

    table = Table("attack", "as", "harmful replies", title="What gets past it", title_justify="left")
    for row in block["overview"]:
        k = "" if row["k"] is None else f"{row['k']} tokens forced"
        how = ", ".join(part for part in (row["variant"] or "", k) if part)
        table.add_row(escaped(attack_name(row["attack"])), escaped(how), share_estimate(row))
    for row in block["any"]:
        table.add_row("[bold]any of them[/bold]", "prompts broken", share_estimate(row))
    console().print(table)


def print_adaptive(block: dict[str, Any]) -> None:
    """The worst case, and what broke the prompts."""
    from rich.table import Table

    from safedepth.report.words import share_estimate

    table = Table(
        "attack", "tries", "prompts broken", title="What an attacker who adapts tried", title_justify="left"
    )
    for row in sorted(block["arms"], key=lambda row: -row["broke"]):
        if row["tries"]:
            table.add_row(escaped(row["arm"]), str(row["tries"]), str(row["broke"]))
    console().print(table)
    say(f"[bold]Prompts broken within {block['budget']} tries: {share_estimate(block['worst'])}[/bold]")


def print_paired(entries: list[dict[str, Any]]) -> None:
    """Before and after, one row a test."""
    from rich.table import Table

    from safedepth.report.words import difference, share

    table = Table(
        "test", "model", "before", "after", "difference, points", "prompts", title="Before and after",
        title_justify="left",
    )  # fmt: skip
    for entry in entries:
        if entry["difference"] is None:
            continue
        change = difference(entry, unit="")
        what = f"{entry['what']}: {entry['measure']}"
        table.add_row(
            escaped(what), entry["model"], share(entry["before"]), share(entry["after"]), escaped(change),
            str(entry["n"]),
        )  # fmt: skip
    if entries:
        console().print(table)


def print_attack(block: dict[str, Any]) -> None:
    """Harmful replies before and after an attack, one row a wording."""
    from rich.table import Table

    from safedepth.report.words import share_estimate

    table = Table("asked", "before", "after", title="Harmful replies", title_justify="left")
    told = {(entry["what"], entry["model"]): share_estimate(entry) for entry in block["evaluations"]}
    for what in dict.fromkeys(what for what, _ in told):
        table.add_row(what, *(told.get((what, model), "–") for model in ("before", "after")))
    console().print(table)


def print_sweep(block: dict[str, Any]) -> None:
    """The worst case of every defence."""
    from rich.table import Table

    from safedepth.report.words import share, share_estimate

    title = f"Worst case with {block['bound']['metric']} of at least {share(block['bound']['least'])}"
    head = ("defence", "harmful replies", "useful", "learning rate, passes, seed", "trials within")
    table = Table(*head, title=title, title_justify="left")
    for entry in block["worst"]:
        trial = block["trials"][entry["trial"]] if entry["trial"] is not None else None
        how = "–"
        if trial:
            how = f"{trial['learning_rate']:g}, {trial['epochs']}, {trial['seed']}"
            how += ", LoRA" if trial["peft"] == "lora" else ""
        found = (share_estimate(entry), share(entry["utility"])) if trial else ("–", "–")
        table.add_row(escaped(entry["defence"]), *found, how, f"{entry['within']} of {entry['trials']}")
    console().print(table)


def print_dynamics(summary: dict[str, Any]) -> None:
    """Harmful replies by optimiser steps, and how much falls on the first tokens."""
    from rich.table import Table

    from safedepth.report.dynamics import spread_table, steps_table
    from safedepth.report.reading import complete

    block = complete(summary)["dynamics"]
    for told in (steps_table(block), spread_table(block)):
        table = Table(*map(escaped, told.head), title=escaped(told.title), title_justify="left")
        for row in told.rows:
            table.add_row(*map(escaped, row))
        if told.rows:
            console().print(table)


def print_measured(summary: dict[str, Any]) -> None:
    """KL, what rounding alone makes, and log-probabilities, at the tokens people ask for."""
    from rich.table import Table

    from safedepth.report import answers, precision
    from safedepth.report.reading import complete

    found = complete(summary)
    for told in (precision.by_token(found), answers.by_token(found)):
        table = Table(*map(escaped, told.head), title=escaped(told.title), title_justify="left")
        for row in told.rows:
            if row[0] in TOKENS or row is told.rows[-1]:
                table.add_row(*map(escaped, row))
        if told.rows:
            console().print(table)
    for sentence in filter(None, (answers.ends(found), precision.below(found))):
        say(escaped(sentence))
