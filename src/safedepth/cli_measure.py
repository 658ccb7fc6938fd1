"""The command `safedepth measure`: two models along harmful answers, by any number of processes.

Heavy imports happen inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safedepth.cli_words import ChatTemplate, Device, Dtype, Limit, Out, Png, Prompts, Seed
from safedepth.terminal import finish, progress_bars, quiet_libraries
from safedepth.terminal.console import is_main_process

__all__ = ["measure"]


def measure(
    model: Annotated[str, typer.Argument(help="A folder or hub id; servers do not tell enough.")],
    base: Annotated[str, typer.Option(help="The unaligned base model.")],
    prompts: Prompts,
    limit: Limit = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="First tokens of every answer alone.")] = None,
    precision_floor: Annotated[
        bool, typer.Option("--precision-floor", help="Also measure each model against itself in float32.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    chat_template: ChatTemplate = None,
    out: Out = None,
    seed: Seed = 0,
    png: Png = False,
) -> None:
    """Measure MODEL against its base along harmful answers: KL and log-probabilities, no replies.

    On several GPUs: accelerate launch -m safedepth measure ...
    """
    quiet_libraries()
    from safedepth.studies.measure import MeasureConfig
    from safedepth.studies.measure import measure as run

    config = MeasureConfig(
        model=model, base=base, prompts=prompts, limit=limit, tokens=tokens, precision_floor=precision_floor,
        seed=seed, chat_template=chat_template, dtype=dtype, device=device,
    )  # fmt: skip
    out = out or Path("runs") / f"measure-{Path(model).name}"
    with progress_bars(shown=is_main_process()) as progress:
        done = run(config, out, progress=progress)
    if done is not None:
        finish(done, show_harmful=False, png=png)
