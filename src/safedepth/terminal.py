"""What the terminal shows: progress, tables, messages. With `cli` the only place that prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from safedepth.nouns import Progress
    from safedepth.studies.attack_cost import Cost
    from safedepth.studies.attack_plan import Plan

__all__ = [
    "INTERRUPTED",
    "console",
    "escaped",
    "finish",
    "print_attack",
    "print_attack_help",
    "print_claims",
    "print_depth",
    "print_dynamics",
    "print_finetune_help",
    "print_paired",
    "print_plan",
    "print_sweep",
    "print_training_help",
    "progress_bars",
    "quiet_libraries",
    "say",
]

INTERRUPTED = 130


def finish(out: Path, *, show_harmful: bool, png: bool) -> None:
    """Build the report, print what a person wants to see first, and end with the path of the page."""
    from safedepth.report import build_report
    from safedepth.runs import RunDirectory

    page = build_report(out, show_harmful=show_harmful, png=png)
    summary = RunDirectory.read(out).summary()
    print_depth(summary)
    if "claims" in summary:
        print_claims(summary["claims"])
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
    for name, entry in summary["depth"].items():
        value = "–" if entry["value"] is None else f"{entry['value']:.1f}"
        low, high = (("–" if entry[end] is None else f"{entry[end]:.1f}") for end in ("low", "high"))
        table.add_row(name, value, f"{low} to {high}")
    if summary["depth"]:
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
        table.add_row(statement, escaped(claim["paper"]), escaped(ours), words[claim["holds"]])
    console().print(table)


def print_plan(plan: Plan, cost: Cost) -> None:
    """What an audit is about to do and what it costs, before it does."""
    say(f"Attacks: {', '.join(plan.attacks) or 'none'}")
    for entry in plan.left_out:
        say(f"[yellow]Left out:[/yellow] {escaped(entry['what'])}: {escaped(entry['why'])}")
    say(f"Cost: {cost}.")
    if "suffix" in plan.attacks:
        say("A search of suffixes comes on top, unless suffixes were given.")


def print_paired(entries: list[dict[str, Any]]) -> None:
    """Before and after, one row a test."""
    from rich.table import Table

    from safedepth.report.words import share

    table = Table(
        "test", "model", "before", "after", "difference, points", "prompts", title="Before and after",
        title_justify="left",
    )  # fmt: skip
    for entry in entries:
        if entry["difference"] is None:
            continue
        change = f"{100 * entry['difference']:+.1f}"
        if entry["low"] is not None:
            change += f" [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]"
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


@contextmanager
def progress_bars(*, shown: bool = True) -> Iterator[Progress]:
    """A progress bar a kind of work; Ctrl-C under it ends the command and says how to go on."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console(error=True), disable=not shown) as bars:
        known: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        try:
            yield tell
        except KeyboardInterrupt:
            bars.stop()
            say("Interrupted. What is finished is kept; the same command goes on from there.", error=True)
            raise typer.Exit(INTERRUPTED) from None


def quiet_libraries() -> None:
    """Our own progress is enough; libraries keep their warnings and lose their bars."""
    import os
    import sys

    from transformers.utils import logging

    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when it is imported
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    logging.disable_progress_bar()


def console(*, error: bool = False) -> Any:
    """Where to print: standard output, or standard error."""
    from rich.console import Console

    return Console(stderr=error)


def say(text: str, *, error: bool = False) -> None:
    """Print one message, with Rich's markup."""
    console(error=error).print(text, soft_wrap=True)


def escaped(text: str) -> str:
    """Text in which nothing is markup."""
    from rich.markup import escape

    return escape(text)


def print_training_help() -> None:
    """Our options as a table; TRL's by reference, for there are hundreds and TRL documents them."""
    from safedepth.studies.deepen_options import DeepenOptions
    from safedepth.train.options import RecoveryOptions

    usage = "safedepth deepen MODEL --triplets FILE --anchors FILE|self --output_dir DIR"
    _print_options(usage, {"Data and tests": DeepenOptions, "Training": RecoveryOptions})
    say("On several GPUs: accelerate launch --config_file configs/fsdp2.yaml -m safedepth deepen ...")


def print_finetune_help() -> None:
    """The options of `finetune`."""
    from safedepth.studies.finetune_options import FinetuneOptions
    from safedepth.train.protect_options import ProtectOptions

    usage = "safedepth finetune MODEL --dataset_name FILE|HUB_ID --output_dir DIR [--objective constrained]"
    _print_options(usage, {"Data and tests": FinetuneOptions, "Protection": ProtectOptions})
    say(
        "What `trl sft` takes for its data is taken too. On several GPUs: accelerate launch --config_file "
        "configs/fsdp2.yaml -m safedepth finetune ..."
    )


def print_attack_help(command: str) -> None:
    """The options of `attack finetune` or `attack sweep`."""
    from safedepth.studies.attack_options import AttackOptions, SweepOptions
    from safedepth.train.protect_options import ProtectOptions

    usage = f"safedepth attack {command} MODEL --kind KIND --data FILE --prompts FILE --output_dir DIR"
    own = SweepOptions if command == "sweep" else AttackOptions
    usage += " --benign FILE" if command == "sweep" else ""
    _print_options(usage, {"Attack and tests": own, "Defence": ProtectOptions}, objective="sft")
    if command == "sweep":
        say("\nOf these, --defences and the lists decide objective, learning rate, passes, seed and LoRA.")


def _print_options(usage: str, kinds: Mapping[str, type], **other_defaults: str) -> None:
    """Usage, a table for each kind of options, and where the others are."""
    from dataclasses import fields

    from rich.table import Table

    terminal = console()
    terminal.print(f"Usage: {usage} [OPTIONS]\n", highlight=False, markup=False)
    for title, kind in kinds.items():
        table = Table("option", "default", "", title=title, title_justify="left", box=None)
        for option in fields(kind):
            default = "–" if option.default in (None, False) else str(option.default)
            default = other_defaults.get(option.name, default)
            table.add_row(f"--{option.name}", default, escaped(option.metadata["help"]))
        terminal.print(table)
    say(
        "\nBesides these, every option of TRL's SFTConfig and ModelConfig by its own name: --learning_rate, "
        "--max_steps, --num_train_epochs, --per_device_train_batch_size, --dtype, --use_peft, --lora_r, "
        "--gradient_checkpointing, --max_length, --report_to, --seed, ...; --config FILE.yaml holds any of "
        "them."
    )
