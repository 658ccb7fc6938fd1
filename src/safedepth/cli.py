"""The command line: arguments to a study to the path of its report. The only place that prints.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from safedepth.cli_attack import attack_app
from safedepth.cli_dynamics import dynamics
from safedepth.errors import DataError, SafedepthError
from safedepth.terminal import (
    console,
    escaped,
    finish,
    print_finetune_help,
    print_training_help,
    progress_bars,
    quiet_libraries,
    say,
)

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
app.command()(dynamics)

USER_ERROR = 2


def main() -> None:
    """Entry point: a user's mistake prints one message and no traceback."""
    try:
        app()
    except SafedepthError as error:
        say(f"[red]Error:[/red] {escaped(str(error))}", error=True)
        sys.exit(USER_ERROR)


@app.command()
def reproduce(
    out: Annotated[Path, typer.Option(help="Run directory; an interrupted run there is resumed.")] = Path(
        "runs/reproduce"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to train organisms with.")] = 1,
    prompts: Annotated[int, typer.Option(min=2, max=96, help="Held-out prompts to measure on.")] = 48,
    tokenizer: Annotated[str, typer.Option(help="word or bpe.")] = "word",
    show_harmful: Annotated[bool, typer.Option(help="Do not redact harmful text in the report.")] = False,
    png: Annotated[bool, typer.Option(help="Also write the figures as PNG.")] = False,
) -> None:
    """Reproduce the paper's claims offline, on organisms trained before your eyes."""
    from safedepth.studies.reproduce import ReproduceConfig
    from safedepth.studies.reproduce import reproduce as run

    quiet_libraries()
    config = ReproduceConfig(seeds=tuple(range(seeds)), prompts=prompts, tokenizer=tokenizer)
    with progress_bars() as progress:
        run(config, out, progress=progress)
    finish(out, show_harmful=show_harmful, png=png)


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="A path, a hub id, or an Inspect model name (vllm/...).")],
    prompts: Annotated[
        str, typer.Option(help="CSV or JSONL with prompt and harmful, AdvBench's columns, or chats.")
    ],
    base: Annotated[
        str | None, typer.Option(help="The unaligned base model, for the KL and refusal prefixes.")
    ] = None,
    depths: Annotated[str, typer.Option(help="Numbers of harmful tokens to force.")] = "0,1,2,5,10,20,40",
    judge: Annotated[
        list[str] | None, typer.Option(help="rules, oracle, package/scorer or file.py@name; repeatable.")
    ] = None,
    refusal_prefix: Annotated[
        list[str] | None, typer.Option(help="A refusal prefix to force; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; an interrupted run there is resumed.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N prompts alone.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Sampled replies per prompt and variant.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all sampling.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 decodes greedily.")] = 0.9,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.6,
    top_k: Annotated[int, typer.Option(min=1)] = 50,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="New tokens a reply; default up to 512.")
    ] = None,
    chat_template: Annotated[str | None, typer.Option(help="File, or model that lends its template.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Counts tokens for a model behind a server.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    show_harmful: Annotated[bool, typer.Option(help="Do not redact harmful text in the report.")] = False,
    png: Annotated[bool, typer.Option(help="Also write the figures as PNG.")] = False,
) -> None:
    """Measure how many tokens deep the safety of MODEL goes."""
    from safedepth.studies.audit import AuditConfig
    from safedepth.studies.audit import audit as run

    quiet_libraries()
    chosen: dict[str, Any] = {"prefixes": tuple(refusal_prefix)} if refusal_prefix else {}
    config = AuditConfig(
        model=model, prompts=prompts, base=base, depths=_depths(depths), judges=tuple(judge or ["rules"]),
        limit=limit, repeats=repeats, seed=seed, temperature=temperature, top_p=top_p, top_k=top_k,
        max_tokens=max_tokens, chat_template=chat_template, tokenizer=tokenizer, dtype=dtype, device=device,
        **chosen,
    )  # fmt: skip
    out = out or Path("runs") / f"audit-{Path(model).name}"
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
    from safedepth.studies.deepen import deepen as run

    with progress_bars(shown=config.process_index == 0) as progress:
        out = run(options, config, model, progress=progress)
    if out is not None:
        finish(out, show_harmful=options.show_harmful, png=options.png)
        say(f"Model: {escaped(str(Path(str(config.output_dir)).resolve()))}")


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
    from safedepth.studies.finetune import finetune as run

    with progress_bars(shown=config.process_index == 0) as progress:
        out = run(options, config, model, progress=progress)
    if out is not None:
        finish(out, show_harmful=options.show_harmful, png=options.png)
        say(f"Model: {escaped(str(Path(str(config.output_dir)).resolve()))}")


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


@app.command()
def doctor() -> None:
    """Say what works on this machine."""
    from rich.table import Table

    from safedepth.studies.doctor import examine

    quiet_libraries()
    table = Table("check", "found", "", box=None)
    findings = examine()
    for finding in findings:
        table.add_row(finding.check, finding.found, "[green]ok[/green]" if finding.ok else "[red]no[/red]")
    console().print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _depths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(
            f"Expected depths as numbers with commas between, such as 0,5,10; found {text!r}."
        ) from error


if __name__ == "__main__":
    main()
