"""What log-probabilities and rounding add to the findings of a run: sentences and key figures.

A sentence whose numbers are missing is not written.
"""

from __future__ import annotations

from safedepth.report.answers import ends
from safedepth.report.precision import below
from safedepth.report.style import Record
from safedepth.report.words import Tile, estimate, named, share_estimate, tile

__all__ = ["KIND", "headline", "tiles", "title"]

KIND = "measure"
FIRST = 1


def title(name: str) -> str:
    """The heading of the page on the model of this name and its base model."""
    return f"Where does {name} differ from its base model?"


def headline(summary: Record) -> list[str]:
    """How likely harmful answers are, where the KL is no more than rounding, how often a token changed."""
    return [sentence for sentence in (ends(summary), below(summary), _changed(summary)) if sentence]


def tiles(summary: Record) -> list[Tile]:
    """The log-probability of the first token of a harmful answer, by model."""
    return [
        tile(f"Log-probability of the first harmful token, {row['model']}", estimate(row, unit="nats"))
        for row in summary.get("answers") or ()
        if row["position"] == FIRST and row["value"] is not None and row["model"] is not None
    ]


def _changed(summary: Record) -> str:
    """How often rounding alone changed which token is likeliest."""
    told = [
        f"{share_estimate(row['argmax_changed'])} of the tokens of the {named(row['model'])} model in "
        f"{named(row['dtype'])}"
        for row in summary.get("precision") or ()
        if row["argmax_changed"]["value"] is not None
    ]
    return f"Rounding alone changes which token is likeliest at {' and '.join(told)}." if told else ""
