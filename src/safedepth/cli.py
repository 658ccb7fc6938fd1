"""The command line: arguments to a study to the path of its report. The only place that prints.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from safedepth.cli_attack import attack_app
from safedepth.cli_audit import audit
from safedepth.cli_doctor import doctor
from safedepth.cli_dynamics import dynamics
from safedepth.cli_judge import judge, rejoin, share
from safedepth.cli_measure import measure
from safedepth.cli_publish import bundle, export, push
from safedepth.cli_utility import utility
from safedepth.cli_words import USER_ERROR, require_one_process
from safedepth.errors import SafedepthError
from safedepth.terminal import (
    asked_to_push,
    escaped,
    finish,
    print_finetune_help,
    print_training_help,
    progress_bars,
    push_folder,
    quiet_libraries,
    say,
)
from safedepth.terminal.console import speaker

__all__ = ["app", "main"]

app = typer.Typer(
    help="Measure, test, deepen and protect the depth of a language model's safety alignment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
testbed_app = typer.Typer(
    help="Tiny models of known alignment, trained in a toy language.", no_args_is_help=True
)
app.add_typer(testbed_app, name="testbed")
app.add_typer(attack_app, name="attack")
app.command()(audit)
app.command()(doctor)
app.command()(dynamics)
app.command()(measure)
app.command()(utility)
app.command()(judge)
app.command()(share)
app.command()(rejoin)
app.command()(push)
app.command()(bundle)
app.command()(export)


def main() -> None:
    """Entry point: a user's mistake prints one message and no traceback."""
    try:
        app()
    except SafedepthError as error:
        say(f"[red]Error:[/red] {speaker()}{escaped(str(error))}", error=True)
        sys.exit(USER_ERROR)


@app.callback()
def only_where_work_is_shared(context: typer.Context) -> None:
    """Refuse a launcher's processes where each would do all of the work."""
    if context.invoked_subcommand != "attack":  # which looks at its own commands
        require_one_process(str(context.invoked_subcommand))


@app.command()
def reproduce(
    out: Annotated[Path, typer.Option(help="Run directory; an interrupted run there is resumed.")] = Path(
        "runs/reproduce"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to train organisms with.")] = 1,
    prompts: Annotated[int, typer.Option(min=2, max=96, help="Held-out prompts to measure on.")] = 48,
    tokenizer: Annotated[str, typer.Option(help="word or bpe.")] = "word",
    quick: Annotated[
        bool, typer.Option(help="Fewer prompts and organisms: sooner done, and wider intervals.")
    ] = False,
    show_harmful: Annotated[bool, typer.Option(help="Do not redact harmful text in the report.")] = False,
    png: Annotated[bool, typer.Option(help="Also write the figures as PNG.")] = False,
) -> None:
    """Reproduce the paper's claims offline, on organisms trained before your eyes."""
    from safedepth.studies.reproduce import QUICK, ReproduceConfig
    from safedepth.studies.reproduce import reproduce as run

    quiet_libraries()
    chosen: dict[str, Any] = {"prompts": prompts, **(QUICK if quick else {})}
    config = ReproduceConfig(seeds=tuple(range(seeds)), tokenizer=tokenizer, **chosen)
    with progress_bars() as progress:
        run(config, out, progress=progress)
    finish(out, show_harmful=show_harmful, png=png)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def deepen(context: typer.Context) -> None:
    """Train MODEL to turn back in the middle of a harmful answer, and prove it (--help lists the options)."""
    words = context.args
    if not words or "--help" in words or "-h" in words:
        print_training_help()
        return
    from safedepth.studies.training_options import parse_deepen

    quiet_libraries()
    options, config, model = parse_deepen(words)
    place = asked_to_push(config)
    from safedepth.studies.deepen import deepen as run

    with progress_bars(shown=config.process_index == 0) as progress:
        out = run(options, config, model, progress=progress)
    if out is not None:
        finish(out, show_harmful=options.show_harmful, png=options.png)
        say(f"Model: {escaped(str(Path(str(config.output_dir)).resolve()))}")
        if place is not None:
            push_folder(Path(str(config.output_dir)), place)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def finetune(context: typer.Context) -> None:
    """Fine-tune MODEL as `trl sft` does, without losing its safety (--help lists the options)."""
    words = context.args
    if not words or "--help" in words or "-h" in words:
        print_finetune_help()
        return
    from safedepth.studies.training_options import parse_finetune

    quiet_libraries()
    options, config, model = parse_finetune(words)
    place = asked_to_push(config)
    from safedepth.studies.finetune import finetune as run

    with progress_bars(shown=config.process_index == 0) as progress:
        out = run(options, config, model, progress=progress)
    if out is not None:
        finish(out, show_harmful=options.show_harmful, png=options.png)
        say(f"Model: {escaped(str(Path(str(config.output_dir)).resolve()))}")
        if place is not None:
            push_folder(Path(str(config.output_dir)), place)


@app.command()
def compare(
    out: Annotated[Path, typer.Option(help="Run directory; an interrupted run there is resumed.")] = Path(
        "runs/compare"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to train organisms with.")] = 3,
    prompts: Annotated[int, typer.Option(min=2, max=48, help="Held-out prompts to measure on.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Updates of every variant.")] = 30,
    longest: Annotated[
        int, typer.Option(min=1, help="Tokens of the longest harmful prefix trained on.")
    ] = 15,
    tokenizer: Annotated[str, typer.Option(help="word or bpe.")] = "word",
    show_harmful: Annotated[bool, typer.Option(help="Do not redact harmful text in the report.")] = False,
    png: Annotated[bool, typer.Option(help="Also write the figures as PNG.")] = False,
) -> None:
    """Compare recovery policies and refusal styles at equal updates, offline, on organisms."""
    from safedepth.studies.compare import CompareConfig
    from safedepth.studies.compare import compare as run

    quiet_libraries()
    config = CompareConfig(
        seeds=tuple(range(seeds)), prompts=prompts, steps=steps, longest=longest, tokenizer=tokenizer
    )
    with progress_bars() as progress:
        run(config, out, progress=progress)
    finish(out, show_harmful=show_harmful, png=png)


@testbed_app.command("build")
def testbed_build(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and data files.")],
    organisms: Annotated[str | None, typer.Option(help="Comma-separated names; default all.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    tokenizer: Annotated[str, typer.Option(help="word or bpe.")] = "word",
) -> None:
    """Train the organisms (or take them from the cache) and write the testbed's data files."""
    from safedepth.testbed import ORGANISMS, build_testbed

    quiet_libraries()
    names = [name.strip() for name in organisms.split(",")] if organisms else ORGANISMS
    with progress_bars() as progress:
        testbed = build_testbed(out, organisms=names, seed=seed, tokenizer=tokenizer, progress=progress)
    for name in names:
        say(str(testbed.organism(name)))
    say(str(testbed.prompts))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    show_harmful: Annotated[bool, typer.Option(help="Do not redact harmful text.")] = False,
    png: Annotated[bool, typer.Option(help="Also write the figures as PNG.")] = False,
) -> None:
    """Build the page of a run again; needs no model."""
    finish(run, show_harmful=show_harmful, png=png)


if __name__ == "__main__":
    main()
