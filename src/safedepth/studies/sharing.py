"""Results shared without the prompts, and the prompts put back by whoever may have them.

`share` writes a run with hashes where its prompts, forced tokens and replies stood; `rejoin`
fills a shared run from the reader's own copy of the prompts. Both are run directories a
report is built from. What is not known to be harmless is left out: logs, files with texts,
and every column that nobody has named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.data import read_prompts, read_requests, source_of
from safedepth.errors import DataError, RunError
from safedepth.nouns import Prompt
from safedepth.runs import RunDirectory
from safedepth.runs.files import to_json
from safedepth.studies.shared_tables import Cleaner, Known

__all__ = ["cleaner_of", "rejoin", "share"]

NOTE = "Shared without the texts of prompts and harmful answers: hashes stand for them."


def share(run: Path, out: Path, *, replies: bool = False) -> Path:
    """Write the run into `out` with no text of a prompt or a harmful answer in it; returns `out`.

    Numbers, names, categories, verdicts and the files' hashes stay. The texts of prompts,
    forced tokens and replies become hashes; with `replies` what models said stays, but for
    its quotations from the other two. Of local paths the last name stays. Logs, searches and
    lists of prompts are left out. An answer of the file beyond its forced tokens is not known
    here: a model that recites it is quoted when replies are shared.

    Raises RunError where there is no run with a summary, it is a shared one already, a table is
    damaged, or `out` holds something.
    """
    source = RunDirectory.read(run)
    if "shared" in source.config:
        raise RunError(f"Expected a run with its texts, found one that was shared already in {run}. Copy it.")
    tables = _tables(source)
    summary = source.summary()
    cleaner = cleaner_of(source, tables, replies=replies)
    config = cleaner.clean(source.config) | {"shared": {"replies": replies}}
    summary = cleaner.clean(summary)
    summary["warnings"] = [*summary.get("warnings", []), NOTE]
    shared = {name: cleaner.table(table) for name, table in tables.items()}
    return _written(out, config, cleaner.clean(source.begun), shared, summary)


def cleaner_of(
    run: RunDirectory, tables: Mapping[str, pd.DataFrame] | None = None, *, replies: bool = False
) -> Cleaner:
    """What takes the texts of a run out of its tables and of what is told of it. Raises as `share`."""
    return Cleaner(_tables(run) if tables is None else tables, run.config, replies=replies)


def rejoin(shared: Path, prompts: str, out: Path) -> Path:
    """Write the shared run into `out` with the texts that `prompts` (any source) can restore; returns `out`.

    A prompt comes back where its hash is that of a prompt there, forced tokens where that
    prompt's harmful answer begins with them. What does not match stays hashed, and the
    summary's warnings say how much. Tokens of the KL table, paths, and replies that were not
    shared do not come back.

    Raises DataError where no prompt of the run is among them, or they cannot be read; RunError
    where `shared` is not a shared run or `out` holds something.
    """
    source = RunDirectory.read(shared)
    if "shared" not in source.config:
        raise RunError(f"Expected a run that 'safedepth share' wrote, found another run in {shared}.")
    given = source_of(prompts)
    tables = _tables(source)
    known = Known.of(_given(prompts), tables)
    if known.prompts and len(known.missing) == len(known.prompts):
        raise DataError(
            f"expected the prompts of {shared} in {prompts}, found none of the {len(known.prompts)}. "
            f"The run was made with {_made_with(source)}; give that file"
        )
    config = known.restored(source.config) | {"rejoined": {"prompts": given.sha256}}
    summary = known.restored(source.summary())
    summary["warnings"] = [line for line in summary["warnings"] if line != NOTE] + known.warnings
    del config["shared"]
    rejoined = {name: known.table(table) for name, table in tables.items()}
    return _written(out, config, source.begun, rejoined, summary)


def _tables(run: RunDirectory) -> dict[str, pd.DataFrame]:
    found: dict[str, pd.DataFrame] = {}
    for path in sorted((run.path / "measurements").glob("*.parquet")):
        table = run.load(path.stem)
        if table is None:
            raise RunError(f"Expected whole tables in {run.path}, found {path.name} damaged. Run it again.")
        found[path.stem] = table
    return found


def _written(
    out: Path,
    config: Mapping[str, Any],
    begun: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"Expected a new or empty folder for --out, found files in {out}. Choose another.")
    with RunDirectory.open(out, config) as run:
        run.rewrite({"run.json": to_json(begun).encode()})
        for name, table in tables.items():
            run.measurement(name, lambda table=table: table)  # type: ignore[misc]
        run.write_summary(summary)
        run.finish()
    return out


def _given(prompts: str) -> list[Prompt]:
    """The harmful prompts and the benign requests of a source, as far as it has both."""
    found: list[Prompt] = []
    errors: list[DataError] = []
    for read in (read_prompts, read_requests):
        try:
            found += read(prompts)
        except DataError as error:
            errors.append(error)  # most sources have one of the two
    if not found:
        raise errors[0]
    return found


def _made_with(run: RunDirectory) -> str:
    told = run.summary().get("sources", {}).get("prompts", {})
    what = told.get("release") or told.get("benchmark") or run.config.get("prompts", "another file")
    return f"{what} (SHA-256 {told.get('sha256') or run.config.get('prompts_sha256', 'not recorded')})"
