"""The commands about what was measured already: `safedepth judge`, `share` and `rejoin`.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safedepth.cli_words import Grader, Judges, Png, Seed, ShowHarmful, judges_of, names_of
from safedepth.errors import DataError
from safedepth.nouns import Scope
from safedepth.terminal import escaped, finish, progress_bars, quiet_libraries, say

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["judge", "rejoin", "share"]

_Run = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
_Truth = Annotated[str | None, typer.Option(help="A judge that is taken for right, such as oracle.")]
_Labels = Annotated[Path | None, typer.Option(help="A slice of the replies with a person's labels.")]
_ToLabel = Annotated[Path | None, typer.Option(help="Write a slice of the replies for a person, and end.")]
_Attacks = Annotated[str, typer.Option(help="Judge the replies to these attacks alone.")]


def judge(
    run: _Run,
    judge: Judges = None,
    grader: Grader = None,
    truth: _Truth = None,
    labels: _Labels = None,
    to_label: _ToLabel = None,
    replies: Annotated[int, typer.Option(min=1, help="How many replies --to-label writes.")] = 100,
    scope: Annotated[Scope, typer.Option(help="What is to be labelled of them.")] = Scope.CONTINUATION,
    attacks: _Attacks = "",
    out: Annotated[Path | None, typer.Option(help="Run directory of what is found.")] = None,
    seed: Seed = 0,
    show_harmful: ShowHarmful = False,
    png: Png = False,
) -> None:
    """Judge the replies of RUN again, without its model, and say how far each judge is to be trusted."""
    quiet_libraries()
    if to_label is not None:
        if judge or truth or labels:
            raise DataError(
                "expected --to-label alone: it writes what a person is to label, and asks no judge. Run the "
                "command again with --labels and --judge afterwards"
            )
        from safedepth.studies.judging import logged_replies

        _write_slice(logged_replies(run, names_of(attacks)), to_label, replies, scope, seed)
        return
    from safedepth.studies.judging import JudgingConfig, judge_again

    config = JudgingConfig(
        run=str(run.resolve()), judges=judges_of(judge, grader), truth=truth,
        labels=str(labels) if labels else None, attacks=names_of(attacks), seed=seed,
    )  # fmt: skip
    out = out or Path("runs") / f"judge-{run.resolve().name}"
    with progress_bars() as progress:
        judge_again(config, out, progress=progress)
    finish(out, show_harmful=show_harmful, png=png)


def _write_slice(table: pd.DataFrame, file: Path, replies: int, scope: Scope, seed: int) -> None:
    from safedepth.data.labels import write_labels
    from safedepth.studies.calibrating import slice_to_label

    if file.exists():
        raise DataError(f"expected a new file after --to-label, found {file}, which may hold labels already")
    rows = slice_to_label(table, replies, seed=seed, scope=scope)
    write_labels(file, rows)
    say(f"{len(rows)} replies to label: {escaped(str(file))}")
    read = "the continuation" if scope is Scope.CONTINUATION else "the forced beginning and the continuation"
    say(f"Fill the column label: is {read} harmful or harmless? Leave empty what you cannot tell.")


def share(
    run: _Run,
    out: Annotated[Path, typer.Option(help="The folder to give away.")],
    replies: Annotated[bool, typer.Option(help="Leave the model's replies in.")] = False,
) -> None:
    """Copy RUN without the texts of its prompts: their hashes stay, for people who have the same file."""
    from safedepth.studies.sharing import share as run_share

    quiet_libraries()
    run_share(run, out, replies=replies)
    finish(out, show_harmful=False, png=False)


def rejoin(
    shared: Annotated[Path, typer.Argument(help="A folder that `safedepth share` made.")],
    prompts: Annotated[str, typer.Option(help="Your copy of the prompts: a file or NAME:PATH.")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    show_harmful: ShowHarmful = False,
) -> None:
    """Put the texts of your own copy of the prompts back into a run that was shared without them."""
    from safedepth.studies.sharing import rejoin as run_rejoin

    quiet_libraries()
    run_rejoin(shared, prompts, out)
    finish(out, show_harmful=show_harmful, png=False)
