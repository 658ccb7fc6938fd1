"""The command `safedepth dynamics`: a fine-tuning watched token by token.

Heavy imports happen inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safedepth.cli_words import Grader, Judges, judges_of
from safedepth.errors import DataError
from safedepth.terminal import finish, progress_bars, quiet_libraries
from safedepth.terminal.console import is_main_process

__all__ = ["dynamics"]


def dynamics(
    model: Annotated[str, typer.Argument(help="A folder or hub id; it stays as it is.")],
    data: Annotated[str, typer.Option(help="Conversations to fine-tune on, with answers: CSV or JSONL.")],
    prompts: Annotated[str | None, typer.Option(help="Harmful requests to ask at every step.")] = None,
    steps: Annotated[str, typer.Option(help="After how many optimiser steps to look.")] = "0,2,4,6",
    objective: Annotated[str, typer.Option(help="sft, constrained or kl.")] = "sft",
    beta: Annotated[str, typer.Option(help="With constrained: how strongly tokens are held.")] = "paper",
    learning_rate: Annotated[float, typer.Option("--learning_rate", "--learning-rate")] = 2e-5,
    batch: Annotated[int, typer.Option(help="Conversations a step.")] = 10,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.")] = 0,
    first: Annotated[int, typer.Option(help="Response tokens to look at.")] = 20,
    limit: Annotated[int, typer.Option(min=1, help="Measure the first N conversations; all train.")] = 100,
    directions: Annotated[int, typer.Option(help="Estimate gradient norms along so many; 0: exact.")] = 0,
    judge: Judges = None,
    grader: Grader = None,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Ask the first N prompts alone.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="New tokens a reply.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training, sampling and directions.")] = 0,
    chat_template: Annotated[str | None, typer.Option(help="File, or model that lends its template.")] = None,
    dtype: Annotated[str, typer.Option(help="Of what is measured; 16 bits round norms.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Run directory; an interrupted run is resumed.")] = None,
    show_harmful: Annotated[bool, typer.Option(help="Do not redact harmful text in the report.")] = False,
    png: Annotated[bool, typer.Option(help="Also write the figures as PNG.")] = False,
) -> None:
    """Watch a fine-tuning token by token: loss, gradient norm, KL, and when the safety goes.

    On several GPUs: accelerate launch -m safedepth dynamics ...
    """
    quiet_libraries()
    from safedepth.studies.dynamics import DynamicsConfig
    from safedepth.studies.dynamics import dynamics as run

    config = DynamicsConfig(
        model=model, data=data, prompts=prompts, steps=_steps(steps), objective=objective, beta=beta,
        learning_rate=learning_rate, batch=batch, warmup=warmup, first=first, limit=limit,
        directions=directions, judges=judges_of(judge, grader), test_limit=test_limit, seed=seed,
        max_tokens=max_tokens, chat_template=chat_template, dtype=dtype, device=device,
    )  # fmt: skip
    out = out or Path("runs") / f"dynamics-{Path(model).name}"
    with progress_bars(shown=is_main_process()) as progress:
        done = run(config, out, progress=progress)
    if done is not None:
        finish(done, show_harmful=show_harmful, png=png)


def _steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(
            f"expected steps as numbers with commas between, such as 0,2,4,6; found {text!r}"
        ) from error
