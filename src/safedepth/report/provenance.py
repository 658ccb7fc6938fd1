"""Where the numbers of a run came from, as tables of text for the page.

Models with revisions and hashes, the templates, the files of the configuration, the
versions of the software: enough to do the same again and to see what changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.words import FORMATS, MISSING, count
from safedepth.runs import RunDirectory

__all__ = ["UNFINISHED", "cost_rows", "notes", "provenance", "source_warnings"]

UNFINISHED = (
    "This page was made before the run’s manifest was written. If the run was interrupted, repeat the "
    "command that began it: it completes the run and does nothing twice."
)

NAMED = 8
"""Files that changed are named up to so many."""
FIELDS = {
    "name": "name",
    "revision": "revision",
    "weights_sha256": "SHA-256 of the weights",
    "dtype": "number format",
    "device": "device",
    "parameters": "parameters",
    "vocab_size": "vocabulary",
    "template_source": "chat template from",
    "template_sha256": "SHA-256 of the template",
}


def provenance(run: RunDirectory, summary: Record) -> list[Table]:
    """Tables of models, of prompts and other data, of hashes in the configuration, and of software."""
    tables = [_models(summary), *_sources(summary)]
    hashes = [[key, str(value)] for key, value in _leaves(run.config) if key.endswith("sha256") and value]
    if hashes:
        tables.append(Table("Files", ["setting", "value"], hashes, words=2))
    tables.append(_software(run, summary))
    return tables


def notes(run: RunDirectory, *, show_harmful: bool) -> list[str]:
    """What a reader must know before the numbers: files that changed, text that is not redacted."""
    found = []
    changed = [name for name in run.changed_files() if not _is_derived(name)]
    if changed:
        others = len(changed) - NAMED
        more = f" and {count(others, 'other file')}" if others > 0 else ""
        found.append(f"Changed since the run was finished: {', '.join(changed[:NAMED])}{more}.")
    if show_harmful:
        found.append("This page shows harmful text unredacted, as was asked for. Do not pass it on unread.")
    return found


def _is_derived(name: str) -> bool:
    return name == "report.html" or name.startswith("figures/")


def _models(summary: Record) -> Table:
    cards = {role: _in_words(card) for role, card in summary["models"].items() if card}
    rows = [
        [label, *(_cell(card.get(field)) for card in cards.values())]
        for field, label in FIELDS.items()
        if any(card.get(field) is not None for card in cards.values())
    ]
    extra = sorted({key for card in cards.values() for key in card.get("extra") or {}})
    rows += [[key, *(_cell((card.get("extra") or {}).get(key)) for card in cards.values())] for key in extra]
    return Table("Models", ["", *cards], rows, words=1 + len(cards))


def _in_words(card: Record) -> Record:
    return {**card, "dtype": FORMATS.get(str(card.get("dtype")), card.get("dtype"))}


def _sources(summary: Record) -> list[Table]:
    """Prompts and other data: which benchmark, which release of it, which bytes."""
    told = {name: _source(of) for name, of in summary["sources"].items()}
    labels = next(iter(told.values()), {})
    rows = [[label, *(_cell(of[label] or None) for of in told.values())] for label in labels]
    rows = [row for row in rows if any(cell != MISSING for cell in row[1:])]
    return [Table("Sources", ["", *told], rows, words=1 + len(told))] if rows else []


def _source(of: Record) -> dict[str, Any]:
    """One source, by what the page calls its parts."""
    more = " and others" if len(of["files"]) > NAMED else ""
    return {
        "benchmark": of["benchmark"],
        "release": _release(of),
        "location": of["location"],
        "revision": of["revision"],
        "files": ", ".join(of["files"][:NAMED]) + more,
        "SHA-256": of["sha256"],
        "warnings": " ".join(of["warnings"]),
    }


def _release(of: Record) -> str:
    """The known release that the bytes are those of, or that they are those of none."""
    if of["release"]:
        return str(of["release"])
    return "not one of the known releases" if of["benchmark"] and of["sha256"] else ""


def source_warnings(summary: Record) -> list[str]:
    """What was found odd about prompts and other data, as far as the run does not warn of it itself."""
    told = [
        f"{name}: {warning}"
        for name, of in summary["sources"].items()
        for warning in of["warnings"]
        if not any(warning in said for said in map(str, summary["warnings"]))
    ]
    return list(dict.fromkeys(told))


def _software(run: RunDirectory, summary: Record) -> Table:
    manifest = run.manifest() or {}
    begun = run.begun
    rows = [["begun", begun["created"]]]
    if manifest:
        results = sum(not _is_derived(name) for name in manifest["files"])
        rows += [["finished", manifest["finished"]], ["python", manifest["python"]]]
        rows += [
            ["platform", manifest["platform"]],
            ["files", f"{count(results, 'file')} hashed"],
        ]
    rows += cost_rows(summary.get("cost") or {})
    if summary["processes"] is not None:
        rows.append(["processes", _cell(summary["processes"])])
    rows.append(["seeds", ", ".join(str(seed) for seed in summary.get("seeds") or ()) or MISSING])
    ended = manifest.get("versions", {})
    for name, version in begun["versions"].items():
        later = ended.get(name, version)
        both = (
            _cell(version) if later == version else f"{_cell(version)} when begun, {_cell(later)} at the end"
        )
        rows.append([name, both])
    return Table("Run and software", ["", "value"], rows, words=2)


def cost_rows(cost: Record) -> list[list[str]]:
    """What the replies cost, in one line: as it was reckoned before the run, tokens and seconds at most."""
    units = {"replies": "reply", "tokens": "token", "seconds": "second"}
    told = [
        count(round(cost[key]), unit, key)
        for key, unit in units.items()
        if isinstance(cost.get(key), int | float) and not isinstance(cost[key], bool)
    ]
    return [["cost, reckoned beforehand, at most", ", ".join(told)]] if told else []


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
