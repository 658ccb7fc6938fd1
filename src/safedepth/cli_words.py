"""What commands share: options with their help, and how lists are written on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from safedepth.errors import DataError, RunError
from safedepth.terminal.console import process_of

__all__ = [
    "USER_ERROR",
    "ChatTemplate",
    "Device",
    "Dtype",
    "Grader",
    "Judges",
    "Limit",
    "MaxTokens",
    "Model",
    "Out",
    "Png",
    "Prompts",
    "Repeats",
    "Seed",
    "Servers",
    "ShowHarmful",
    "Tokenizer",
    "Turns",
    "depths_of",
    "judges_of",
    "names_of",
    "require_one_process",
]

Model = Annotated[str, typer.Argument(help="A path, a hub id, or an Inspect model name (vllm/...).")]
Out = Annotated[Path | None, typer.Option(help="Run directory; an interrupted run there is resumed.")]
Prompts = Annotated[
    str,
    typer.Option(help="A file (CSV, JSONL: prompt and harmful, chats), or a benchmark as NAME:PATH."),
]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        help="rules, keywords, rubric, strongreject, harmbench, llama-guard, wildguard, oracle, "
        "package/scorer or file.py@name; NAME=MODEL says which model judges; repeatable."
    ),
]
Grader = Annotated[str | None, typer.Option(help="An Inspect model that judges by rubric and strongreject.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use the first N prompts alone.")]
Repeats = Annotated[int, typer.Option(min=1, help="Sampled replies per prompt and variant.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all choices and sampling.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="New tokens a reply; default up to 512.")]
Turns = Annotated[int, typer.Option(min=1, help="Turns of a conversation that the attacker leads.")]
ChatTemplate = Annotated[str | None, typer.Option(help="File, or model that lends its template.")]
Tokenizer = Annotated[str | None, typer.Option(help="Counts tokens for a model behind a server.")]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", help="Where the model is served (http://.../v1), or NAME=URL; repeatable."),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8 or int4.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
ShowHarmful = Annotated[bool, typer.Option(help="Do not redact harmful text in the report.")]
Png = Annotated[bool, typer.Option(help="Also write the figures as PNG.")]


USER_ERROR = 2

TOGETHER = ("measure", "dynamics", "deepen", "finetune", "attack finetune")
"""Commands whose work several processes share."""


def require_one_process(command: str) -> None:
    """Refuse the processes of a launcher for a command of which each would do all of the work.

    Raises RunError in the main process; the others end without a word.
    """
    rank, count = process_of()
    if count == 1 or command in TOGETHER:
        return
    if rank:
        raise typer.Exit(USER_ERROR)
    raise RunError(
        f"safedepth {command} runs in one process, found {count} of a launcher. Start it without. "
        f"{', '.join(TOGETHER)} share work among processes; for an audit serve the model on all GPUs (vLLM "
        "with tensor parallelism, or several servers) and name them with --server."
    )


def depths_of(text: str) -> tuple[int, ...]:
    """The numbers of "0,5,10". Raises DataError for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(
            f"Expected depths as numbers with commas between, such as 0,5,10; found {text!r}."
        ) from error


def judges_of(named: Sequence[str] | None, grader: str | None) -> tuple[str, ...]:
    """The judges that were named, or the default two, with the grader where one needs a model."""
    from safedepth.judges import default_judges, with_grader

    return with_grader(tuple(named) if named else default_judges(grader), grader)


def names_of(text: str) -> tuple[str, ...]:
    """The names of "prefill,decoding", in their order, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
