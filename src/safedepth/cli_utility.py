"""The command `safedepth utility`: what a model is worth, by the field's benchmarks and benign requests.

Heavy imports happen inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safedepth.cli_words import (
    ChatTemplate,
    Device,
    Dtype,
    Limit,
    MaxTokens,
    Model,
    Out,
    Png,
    Seed,
    Servers,
    ShowHarmful,
    names_of,
)
from safedepth.terminal import finish, progress_bars, quiet_libraries

__all__ = ["utility"]

_Tasks = Annotated[
    str | None,
    typer.Option(help="lm-eval's, with commas: mmlu, bbh, gsm8k, minerva_math, humaneval, ifeval, ..."),
]
_IncludePath = Annotated[str | None, typer.Option(help="A folder of lm-eval tasks of your own.")]
_Benign = Annotated[list[str] | None, typer.Option(help="Benign requests: FILE or NAME=FILE; repeatable.")]
_XSTest = Annotated[str | None, typer.Option(help="XSTest's file, or xstest for the hub's.")]
_Judge = Annotated[
    list[str] | None,
    typer.Option(help="Judges of benign replies; rules, which tell over-refusal, always; repeatable."),
]
_Metric = Annotated[
    str | None,
    typer.Option(help="Compare benign replies with their answers: rouge1, exact, gsm8k, final_answer."),
]
_TaskLimit = Annotated[
    int | None, typer.Option(min=1, help="Documents of each of lm-eval's tasks; default all.")
]
_FewShot = Annotated[
    int | None, typer.Option(min=0, help="Examples shown before each; default each task's own number.")
]
_AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Let tasks such as humaneval run what the model writes.")
]
_Format = Annotated[
    bool, typer.Option("--chat/--plain", help="Ask lm-eval's tasks in the chat format, or as bare text.")
]
_Alpaca = Annotated[str | None, typer.Option(help="AlpacaEval's file: instruction and output.")]
_Annotators = Annotated[str | None, typer.Option(help="AlpacaEval's annotators: a name or a folder.")]
_Batch = Annotated[int, typer.Option(min=1, help="Documents of lm-eval's tasks at once.")]


def utility(
    model: Model,
    tasks: _Tasks = None,
    include_path: _IncludePath = None,
    benign: _Benign = None,
    xstest: _XSTest = None,
    judge: _Judge = None,
    metric: _Metric = None,
    limit: Limit = None,
    task_limit: _TaskLimit = None,
    few_shot: _FewShot = None,
    allow_code: _AllowCode = False,
    chat: _Format = True,
    batch_size: _Batch = 8,
    alpaca: _Alpaca = None,
    annotators: _Annotators = None,
    out: Out = None,
    seed: Seed = 0,
    max_tokens: MaxTokens = None,
    server: Servers = None,
    chat_template: ChatTemplate = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    show_harmful: ShowHarmful = False,
    png: Png = False,
) -> None:
    """Measure what MODEL is worth: lm-eval's tasks, benign requests, over-refusal, AlpacaEval."""
    from safedepth.studies.utility_run import UtilityConfig
    from safedepth.studies.utility_run import utility as run
    from safedepth.utility import HarnessOptions

    quiet_libraries()
    harness = None
    if tasks:
        harness = HarnessOptions(
            names_of(tasks), include_path=include_path, limit=task_limit or limit, few_shot=few_shot,
            chat_template=chat, allow_code=allow_code, seed=seed, batch_size=batch_size,
        )  # fmt: skip
    config = UtilityConfig(
        model=model, harness=harness, benign=tuple(benign or ()), xstest=xstest,
        judges=tuple(judge or ["rules"]), metric=metric, alpaca=alpaca, annotators=annotators, limit=limit,
        seed=seed, max_tokens=max_tokens, servers=tuple(server or ()), chat_template=chat_template,
        dtype=dtype, device=device,
    )  # fmt: skip
    out = out or Path("runs") / f"utility-{Path(model).name}"
    with progress_bars() as progress:
        run(config, out, progress=progress)
    finish(out, show_harmful=show_harmful, png=png)
