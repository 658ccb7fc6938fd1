"""What the terminal shows: progress, tables, messages. With `cli` the only place that prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from safedepth.nouns import Progress

__all__ = [
    "INTERRUPTED",
    "console",
    "escaped",
    "print_claims",
    "print_depth",
    "print_paired",
    "print_training_help",
    "progress_bars",
    "quiet_libraries",
    "say",
]

INTERRUPTED = 130


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
    from transformers.utils import logging

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
    from dataclasses import fields

    from rich.table import Table

    from safedepth.studies.deepen_options import DeepenOptions
    from safedepth.train.options import RecoveryOptions

    terminal = console()
    usage = "Usage: safedepth deepen MODEL --triplets FILE --anchors FILE|self --output_dir DIR [OPTIONS]\n"
    terminal.print(usage, highlight=False, markup=False)
    for title, kind in (("Data and tests", DeepenOptions), ("Training", RecoveryOptions)):
        table = Table("option", "default", "", title=title, title_justify="left", box=None)
        for option in fields(kind):
            default = "–" if option.default in (None, False) else str(option.default)
            table.add_row(f"--{option.name}", default, escaped(option.metadata["help"]))
        terminal.print(table)
    say(
        "\nBesides these, every option of TRL's SFTConfig and ModelConfig by its own name: --learning_rate, "
        "--max_steps, --num_train_epochs, --per_device_train_batch_size, --dtype, --use_peft, --lora_r, "
        "--gradient_checkpointing, --max_length, --report_to, --seed, ...; --config FILE.yaml holds any of "
        "them. On several GPUs: accelerate launch --config_file configs/fsdp2.yaml -m safedepth deepen ..."
    )
