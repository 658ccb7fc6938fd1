"""Where prompts come from: a file, a benchmark's file or folder (`NAME:PATH`), or the hub (`NAME@REVISION`).

A source is found, hashed and compared with the releases that are known; what a reader of
the results should be told about it becomes a warning, never an error. It refuses to know
what a row says: see `benchmarks` and `prompts`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safedepth.data.benchmarks import BENCHMARKS, said_of
from safedepth.data.fields import cells_of
from safedepth.data.hub import from_hub
from safedepth.data.layouts import HEX_PHI, Said, category_name, category_number
from safedepth.data.releases import RELEASES, release_of
from safedepth.data.rows import Row, read_bytes, read_rows
from safedepth.errors import DataError

__all__ = ["Place", "Source", "file_sha256", "files_sha256", "place_of", "resolved", "source_of"]

NAMED = 3
"""Repeated rows, or files of a folder, that a message names."""

EACH = 30
"""Prompts in a category of HEx-PHI."""


class Place(NamedTuple):
    """A source found: the benchmark it was named as, its files, and its hub data set and commit, if any."""

    benchmark: str | None
    files: tuple[Path, ...]
    location: str
    revision: str | None = None
    pinned: bool = True


@dataclass(frozen=True)
class Source:
    """What prompts were read from, for the record of a run.

    `sha256` is that of the file's bytes, or, of several files, of their sorted lines
    "<name> <SHA-256>". `release` names the known release with this hash, `revision` is the
    commit of the hub's data set; both are None where there is none. `warnings` never quote
    a prompt.
    """

    benchmark: str | None
    location: str
    files: tuple[Path, ...]
    sha256: str
    release: str | None
    revision: str | None
    warnings: tuple[str, ...]

    @property
    def entry(self) -> dict[str, Any]:
        """The source as `summary.json` holds it."""
        return {
            "benchmark": self.benchmark,
            "location": self.location,
            "files": [path.name for path in self.files],
            "sha256": self.sha256,
            "release": self.release,
            "revision": self.revision,
            "warnings": list(self.warnings),
        }


def source_of(spec: str | Path) -> Source:
    """What a source is, read once: its files, hash, release and warnings.

    Raises DataError where nothing can be read there: no such file, benchmark or revision, no
    access, a folder where a file is meant, or a file that is no table of rows.
    """
    place = place_of(spec)
    sha256 = _sha256(place.files)
    known = release_of(sha256)
    return Source(
        benchmark=place.benchmark,
        location=place.location,
        files=place.files,
        sha256=sha256,
        release=known.label if known else None,
        revision=place.revision,
        warnings=tuple(_warnings(place, sha256)),
    )


def resolved(spec: str | Path) -> str:
    """The source in words that mean the same in any folder and at any time, for a task's arguments.

    A path becomes absolute, and a name of the hub gets the commit it stands for now; what is
    resolved stays as it is. Raises DataError as `place_of` does where a hub name has no commit yet.
    """
    name, revision, path = _parts(spec)
    if name is None:
        return str(Path(spec).expanduser().resolve())
    if path is not None:
        return f"{name}:{Path(path).expanduser().resolve()}"
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return f"{name}@{revision}"
    return f"{name}@{place_of(spec).revision}"


def file_sha256(spec: str | Path) -> str:
    """SHA-256 of a source, as in `Source`. Raises DataError as `place_of` does."""
    return _sha256(place_of(spec).files)


def place_of(spec: str | Path) -> Place:
    """Find the files of a source, fetching them from the hub where that is what it says.

    Raises DataError, saying what to do, where there are none.
    """
    name, revision, path = _parts(spec)
    if name is None:
        plain = Path(spec).expanduser()
        if not plain.exists():
            _refuse_unknown_name(str(spec))
        return Place(None, (plain,), str(plain.resolve()))
    known = BENCHMARKS[name]
    if path is not None:
        local = Path(path).expanduser()
        return Place(name, _files(name, local), str(local.resolve()))
    if known.hub is None:
        raise DataError(
            f"expected a path after the name ({name}:PATH), found {str(spec)!r}: no place of {known.title} "
            f"on the hub is known here. {known.origin}"
        )
    folder, commit = from_hub(name, revision)
    files = _named(folder, known.hub.files)
    if not files:
        raise DataError(
            f"expected {', '.join(known.hub.files)} in the hub's {known.hub.repository} at {commit}, found "
            f"none. Name another revision ({name}@REVISION), or give your copy: {name}:PATH"
        )
    return Place(name, files, f"hub:{known.hub.repository}", commit, pinned=revision == commit)


def _parts(spec: str | Path) -> tuple[str | None, str | None, str | None]:
    """Name, revision and path of a source; no name where it is a plain path."""
    found = re.fullmatch(r"([a-z-]+)(?:@([^:]*))?(?::(.*))?", str(spec), re.DOTALL)
    if not found or found[1] not in BENCHMARKS:
        return None, None, None
    name, revision, path = found.groups()
    if (revision is not None and path is not None) or "" in (revision, path):
        raise DataError(
            f"expected {name}:PATH (your copy), {name} or {name}@REVISION (the hub), found {str(spec)!r}"
        )
    return name, revision, path


def _refuse_unknown_name(spec: str) -> None:
    """Raise DataError for what looks like a benchmark's name and is none."""
    found = re.match(r"([A-Za-z][A-Za-z-]+)(?:@|:|$)", spec)
    if found:
        raise DataError(
            f"expected a file or a benchmark, found neither under {spec!r}. The benchmarks are "
            f"{', '.join(BENCHMARKS)}; write NAME:PATH for your copy"
        )


def _files(name: str, path: Path) -> tuple[Path, ...]:
    known = BENCHMARKS[name]
    if not path.is_dir():
        read_bytes(path)  # Raises where there is no file.
        return (path,)
    if not known.folder:
        raise DataError(
            f"expected the file of {known.title}, found the folder {path}. Name the file in it: "
            f"{known.layout}"
        )
    files = _named(path, known.folder)
    if not files:
        there = sorted(entry.name for entry in path.iterdir())
        held = f"{', '.join(there[:NAMED])}{', ...' if len(there) > NAMED else ''}" if there else "nothing"
        raise DataError(
            f"expected {', '.join(known.folder)} in the folder {path}, found {held}. {known.origin}; a "
            f"bundle in one file is named itself: {name}:{path}/FILE"
        )
    return files


def _named(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The files of a folder under these names, in their order; category files by number."""
    found = [path for name in names for path in sorted(folder.glob(name)) if path.is_file()]
    return tuple(sorted(found, key=lambda path: category_number(path) or 0))


def _sha256(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return _bytes_sha256(files[0])
    return files_sha256({path.name: path for path in files})


def files_sha256(files: Mapping[str, Path]) -> str:
    """SHA-256 of several files under their names: of the lines "NAME SHA256", sorted."""
    hashes = sorted((name, _bytes_sha256(path)) for name, path in files.items())
    return hashlib.sha256("".join(f"{name} {sha}\n" for name, sha in hashes).encode()).hexdigest()


def _bytes_sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _warnings(place: Place, sha256: str) -> Iterator[str]:
    name = place.benchmark
    if name is None:
        rows = [(_where(row, place.files[0]), _without_id(row.value)) for row in read_rows(place.files[0])]
    else:
        told = list(said_of(name, place.files))
        yield from _of_release(place, sha256)
        if name == "hex-phi":
            yield from _of_categories(told)
        if name == "harmbench":
            yield from _of_copyright(told)
        rows = [(_where(row, path), repr(said.messages)) for path, row, said in told]
    yield from _of_repeats(rows)


def _of_release(place: Place, sha256: str) -> Iterator[str]:
    name = str(place.benchmark)
    title = BENCHMARKS[name].title
    known = release_of(sha256)
    if place.revision is not None:
        if not place.pinned:
            yield (
                f"No commit of {title} was named: it was read at {place.revision}. To read the same again, "
                f"name it: {name}@{place.revision}."
            )
    elif all(one.benchmark != name for one in RELEASES.values()):
        yield (
            f"No release of {title} is known by its hash here, so this copy could not be compared with the "
            f"published one. Report its SHA-256 with the numbers: {sha256}."
        )
    elif known is None or known.benchmark != name:
        yield (
            f"This copy of {title} (SHA-256 {sha256}) is none of the releases known here: its numbers may "
            "not compare with published ones."
        )


def _of_categories(told: Sequence[tuple[Path, Row, Said]]) -> Iterator[str]:
    counts = Counter(said.category for _, _, said in told)
    missing = [group for group in HEX_PHI.values() if not counts[group]]
    if any(group in counts for group in HEX_PHI.values()) and missing:
        yield f"Of HEx-PHI's ten categories these are missing: {'; '.join(missing)}."
    if counts[category_name(2)]:
        yield "These prompts hold HEx-PHI's category 2, which its authors withdrew."
    odd = [f"{group}: {count}" for group, count in counts.items() if count != EACH]
    if odd:
        yield f"HEx-PHI has {EACH} prompts a category; these have other numbers: {'; '.join(odd)}."


def _of_copyright(told: Sequence[tuple[Path, Row, Said]]) -> Iterator[str]:
    count = sum(cells_of(row).get("FunctionalCategory") == "copyright" for _, row, _ in told)
    if count:
        yield (
            f"{count} of {len(told)} rows are HarmBench's copyright behaviours. HarmBench compares replies "
            "to them with hashes of the texts; no judge here does."
        )


def _of_repeats(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    first: dict[str, str] = {}
    again = [(where, first[told]) for where, told in rows if first.setdefault(told, where) != where]
    if again:
        named = "; ".join(f"{where} repeats {before}" for where, before in again[:NAMED])
        more = "; and so on" if len(again) > NAMED else ""
        yield f"{len(again)} of {len(rows)} rows repeat an earlier one ({named}{more})."


def _where(row: Row, path: Path) -> str:
    """The place of a row without the folders of its file."""
    return row.where.replace(str(path), path.name)


def _without_id(value: object) -> str:
    cells = {name: cell for name, cell in value.items() if name != "id"} if isinstance(value, dict) else value
    return repr(cells)
