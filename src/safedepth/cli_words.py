"""How lists are written on the command line."""

from __future__ import annotations

from safedepth.errors import DataError

__all__ = ["depths_of", "names_of"]


def depths_of(text: str) -> tuple[int, ...]:
    """The numbers of "0,5,10". Raises DataError for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(
            f"Expected depths as numbers with commas between, such as 0,5,10; found {text!r}."
        ) from error


def names_of(text: str) -> tuple[str, ...]:
    """The names of "prefill,decoding", in their order, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
