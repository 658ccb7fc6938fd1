"""How a refusal speaks: refusal styles, functions of a triplet and of where it turns back.

A style is a function of the triplet and the recovery point k and returns the refusal's
text. The parts a longer refusal is made of come with the user's triplets; nothing is
written here. It refuses to know tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from safedepth.errors import DataError
from safedepth.nouns import Triplet

__all__ = ["STYLES", "RefusalStyle", "escalating", "escalation_level", "full", "given", "style_named"]

RefusalStyle = Callable[[Triplet, int], str]
"""(triplet, recovery point k) -> the refusal's text."""

PARTS = 3
FULL_DEPTH = 30
"""Forced tokens from which an escalating refusal says everything it has."""


def given(triplet: Triplet, _k: int) -> str:
    """The triplet's refusal as it stands (the paper's)."""
    return triplet.refusal


def full(triplet: Triplet, _k: int) -> str:
    """Refusal, explanation, ethical reason and safe redirection, wherever the model turns back."""
    return _with_parts(triplet, PARTS)


def escalating(triplet: Triplet, k: int) -> str:
    """A refusal that says more the later the model turns back: see `escalation_level`."""
    return _with_parts(triplet, escalation_level(k, triplet.turn))


def escalation_level(k: int, turn: int = 1) -> int:
    """How many parts follow the refusal: min(3, (turn - 1) + ceil(3 k / 30)).

    0 refusal alone; 1 with an explanation; 2 with an ethical reason; 3 with a safe redirection.
    """
    return min(PARTS, (turn - 1) + -(-PARTS * k // FULL_DEPTH))


STYLES: Mapping[str, RefusalStyle] = MappingProxyType(
    {"given": given, "full": full, "escalating": escalating}
)
"""The names that `--refusal_style` takes."""


def style_named(name: str, triplets: Sequence[Triplet]) -> RefusalStyle:
    """The style of that name, once it is known that every triplet has the parts it speaks of.

    Raises DataError for an unknown name, and for the first triplet without parts.
    """
    if name not in STYLES:
        raise DataError(f"expected a refusal style out of {', '.join(STYLES)}, found {name!r}")
    bare = [triplet for triplet in triplets if len(triplet.escalation) != PARTS]
    if name != "given" and bare:
        raise DataError(
            f"expected `explanation`, `reason` and `redirection` in every triplet for --refusal_style "
            f"{name}, found {len(bare)} of {len(triplets)} without, the first {bare[0].id!r}. Add the three "
            "fields, or use --refusal_style given"
        )
    return STYLES[name]


def _with_parts(triplet: Triplet, level: int) -> str:
    return " ".join((triplet.refusal, *triplet.escalation[:level]))
