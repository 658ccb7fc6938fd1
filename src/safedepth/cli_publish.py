"""The commands that hand results on: `safedepth push`, `bundle` and `export`.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safedepth.terminal import escaped, push_folder, quiet_libraries, say

__all__ = ["bundle", "export", "push"]

_Run = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
_Pushed = Annotated[Path, typer.Argument(help="What deepen or finetune wrote, or the folder of a run.")]
_To = Annotated[str, typer.Option(help="OWNER/NAME on the hub, or NAME under your own account.")]
_Public = Annotated[bool, typer.Option("--public", help="Let everybody see it; private otherwise.")]
_Base = Annotated[
    str | None, typer.Option(help="The hub's id of the model it was made from, where that was a folder.")
]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what somebody else put there; git keeps the old.")
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would leave, and end.")]
_Format = Annotated[str, typer.Option("--format", help="jailbreakbench or tamperbench.")]
_Requests = Annotated[bool, typer.Option("--requests", help="Write the texts of the prompts.")]
_Replies = Annotated[bool, typer.Option("--replies", help="Write what the models said.")]


def push(
    path: _Pushed,
    to: _To,
    public: _Public = False,
    revision: Annotated[str | None, typer.Option(help="A branch; main otherwise.")] = None,
    base: _Base = None,
    overwrite: _Overwrite = False,
    dry_run: _DryRun = False,
) -> None:
    """Push a trained model with its card and report, or a run without its texts, to the Hugging Face hub."""
    from safedepth.studies.publishing import Destination

    quiet_libraries()
    place = Destination(to, public=public, revision=revision, overwrite=overwrite)
    push_folder(path, place, base=base, dry_run=dry_run)


def bundle(
    run: _Run, out: Annotated[Path, typer.Option(help="The new folder; any web server can show it.")]
) -> None:
    """Put Inspect's log viewer with all logs of RUN, in full, into a folder."""
    from safedepth.studies.bundling import WARNING
    from safedepth.studies.bundling import bundle as run_bundle

    quiet_libraries()
    say(f"[yellow]Note:[/yellow] {escaped(WARNING)}")
    count = run_bundle(run, out)
    say(f"{count} logs: {escaped(str(out.resolve()))}")
    say(f"Look at it with: python -m http.server --directory {escaped(str(out))}")


def export(
    run: _Run,
    out: Annotated[Path, typer.Option(help="The new folder for the files.")],
    layout: _Format,
    judge: Annotated[str | None, typer.Option(help="Whose verdicts; the run's leading judge's.")] = None,
    requests: _Requests = False,
    replies: _Replies = False,
) -> None:
    """Write the judged replies of RUN in the layout of JailbreakBench or TamperBench."""
    from safedepth.errors import DataError
    from safedepth.studies.exports import Format
    from safedepth.studies.exports import export as run_export

    if layout not in list(Format):
        raise DataError(f"expected --format {' or '.join(Format)}, found {layout!r}")
    quiet_libraries()
    for file in run_export(run, out, Format(layout), judge=judge, requests=requests, replies=replies):
        say(escaped(str(file)))
    if not (requests and replies):
        say("Hashes stand for texts that were not asked for (--requests, --replies).")
