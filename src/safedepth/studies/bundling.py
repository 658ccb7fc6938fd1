"""Inspect's log viewer with a run's logs in it: a folder of files that any web server can show.

The viewer is Inspect's own; here is only what a run's folder needs around it. Logs hold
everything in full: prompts, forced tokens, replies and the folders of the machine.
"""

from __future__ import annotations

import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from inspect_ai.log import bundle_log_dir

from safedepth.errors import RunError
from safedepth.runs import RunDirectory
from safedepth.runs.files import explained

__all__ = ["WARNING", "bundle"]

WARNING = (
    "These logs hold the prompts, what was forced and what the models said, in full and with nothing "
    "redacted. Whoever may open the folder can read it all: see that these are the right people, and that "
    "the prompts may be handed on. 'safedepth share' makes a copy without them."
)


def bundle(run: Path, out: Path) -> int:
    """Put Inspect's viewer and all logs of `run` into the new folder `out`; how many logs there are.

    Raises RunError where there is no run or it has no logs, and where `out` is there already or
    lies within the run's logs.
    """
    source = RunDirectory.read(run)
    count = sum(1 for _ in source.logs.rglob("*.eval"))
    if not count:
        raise RunError(
            f"Expected a run with Inspect's logs in {source.logs}, found none there. Runs that were shared, "
            "and those that only judge again or measure divergences, have no logs."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"Expected a new or empty folder for --out, found files in {out}. Choose another.")
    if out.resolve().is_relative_to(source.logs.resolve()):
        raise RunError(f"Expected --out outside of the run's logs, found {out}. Choose another.")
    try:
        # Inspect says on standard output what it does; what is said there is the command's to decide.
        with explained(out, "write"), redirect_stdout(StringIO()):
            bundle_log_dir(str(source.logs.resolve()), str(out.resolve()), overwrite=True)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # it was empty or not there
        raise
    return count
