"""What is about to leave the machine, listed before it does; and the push at the end of a training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedepth.terminal.console import console, escaped, say

if TYPE_CHECKING:
    from safedepth.studies.parcel import Parcel
    from safedepth.studies.publishing import Destination

__all__ = ["asked_to_push", "push_folder"]


def asked_to_push(config: Any, *, attacked: bool = False) -> Destination | None:
    """Where TRL's `--push_to_hub` sends a training's model at its end, None where it is not asked for.

    The main process asks the hub whether it would take it, before anything is trained. Raises
    DataError and HubError as `destination_of` and `require_pushable`.
    """
    if not config.push_to_hub and config.hub_model_id is None:
        return None
    from safedepth.runs.files import read_json
    from safedepth.studies.places import REPORT
    from safedepth.studies.publishing import destination_of, require_pushable

    place = destination_of(config, attacked=attacked)
    if place is not None and config.process_index == 0:
        begun = Path(str(config.output_dir)) / REPORT / "run.json"
        place = require_pushable(place, "model", begun=read_json(begun) if begun.is_file() else None)
    return place


def push_folder(
    path: Path, place: Destination, *, base: str | None = None, dry_run: bool = False
) -> None:  # fmt: skip
    """List what leaves of a folder and what stays, then push it unless `dry_run`.

    Raises as `parcel_of` and `push`.
    """
    from safedepth.report import build_report
    from safedepth.studies.parcel import parcel_of
    from safedepth.studies.publishing import push

    with tempfile.TemporaryDirectory() as work:
        parcel = parcel_of(
            path, Path(work), page=lambda run: build_report(run, show_harmful=False), base=base
        )
        _list(parcel, place)
        if dry_run:
            say("Nothing was pushed (--dry-run).")
            return
        url = push(parcel, place)
    say(f"Pushed: {escaped(url)}")


def _list(parcel: Parcel, place: Destination) -> None:
    """The table of files with their sizes, what stays and why, and what kind of repository it is."""
    from rich.table import Table

    kind = "a model" if parcel.repo_type == "model" else "a data set"
    who = "public: everybody may see it" if place.public else "private"
    at = f" at {place.revision}" if place.revision else ""
    say(f"To {escaped(place.to)}{escaped(at)}, {kind}, {who}, as one commit:")
    table = Table("file", "size", box=None)
    for item in sorted(parcel.items):
        table.add_row(escaped(item.path), _size(item.size))
    table.add_row(f"{len(parcel.items)} files", _size(sum(item.size for item in parcel.items)))
    console().print(table)
    for name, why in parcel.stays:
        say(f"Stays here: {escaped(name)} ({escaped(why)})")
    for note in parcel.notes:
        say(f"[yellow]Note:[/yellow] {escaped(note)}")


def _size(count: int) -> str:
    """Bytes as people read them."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
