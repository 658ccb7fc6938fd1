"""What a run on utility found, in sentences and key figures.

A sentence whose numbers are missing is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from safedepth.report.style import Record
from safedepth.report.utility import alpaca_words, benchmark_name, is_share, set_name
from safedepth.report.words import Tile, capital, count, named, plain_name, share_estimate, tile

__all__ = ["headline", "tiles", "title"]

NOTHING = "This run holds no numbers on utility; the sections below tell what is missing, and why."
TOLD, TILES = 6, 6
ORDER = ("over-refusal", "refusals of unsafe requests", "right answers")


def title(name: str) -> str:
    """The heading of the page on what the model of this name is worth."""
    return f"What is {name} worth to its users?"


def headline(summary: Record) -> list[str]:
    """What was found: benchmarks, refusals, right answers, AlpacaEval."""
    found = [_benchmarks(summary), *_requests(summary), alpaca_words(summary["alpaca"])]
    return [sentence for sentence in found if sentence] or [NOTHING]


def tiles(summary: Record) -> list[Tile]:
    """Key figures: over-refusal first, then benchmarks."""
    several, sets = _several(summary), summary["requests"]
    found = []
    for row in sorted(_known(sets), key=lambda row: _place(row["measure"])):
        measure = capital(plain_name(named(row["measure"])))
        found.append(tile(f"{measure}, {set_name(row, sets)}{several(row)}", share_estimate(row)))
    scores = [row for row in _known(summary["harness"]) if is_share(row)]
    found = found[: TILES - min(len(scores), TILES // 2)]
    found += [tile(f"Benchmark {benchmark_name(row)}{several(row)}", share_estimate(row)) for row in scores]
    return found[:TILES]


def _benchmarks(summary: Record) -> str:
    rows = [row for row in _known(summary["harness"]) if is_share(row)]
    if not rows:
        return ""
    several = _several(summary)
    told = "; ".join(f"{benchmark_name(row)} {share_estimate(row)}{several(row)}" for row in rows[:TOLD])
    left = len(rows) - TOLD
    more = f"; the table has {count(left, 'more', 'more')}" if left > 0 else ""
    return f"Benchmarks: {told}{more}."


def _requests(summary: Record) -> list[str]:
    several = _several(summary)
    found = []
    known = sorted(_known(summary["requests"]), key=lambda row: _place(row["measure"]))
    for measure in dict.fromkeys(named(row["measure"]) for row in known):
        rows = [row for row in known if named(row["measure"]) == measure]
        told = "; ".join(
            f"{set_name(row, rows)} {share_estimate(row)} of {count(row['n'] or 0, 'request')}{several(row)}"
            for row in rows[:TOLD]
        )
        found.append(f"{capital(plain_name(measure))}: {told}.")
    return found


def _several(summary: Record) -> Callable[[Record], str]:
    """Says of a row whose it is, where there are several models."""
    rows = [*summary["harness"], *summary["requests"]]
    several = len({row["model"] for row in rows}) > 1
    return lambda row: f" ({named(row['model'])})" if several else ""


def _place(measure: object) -> int:
    return ORDER.index(str(measure)) if measure in ORDER else len(ORDER)


def _known(rows: Sequence[Record]) -> list[Record]:
    return [row for row in rows if row["value"] is not None]
