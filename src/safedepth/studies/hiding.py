"""Texts taken out of strings and put back: hashes for whole texts, references for quotations.

A whole text becomes its SHA-256 and length, mixed with a key where the text alone would be
easy to guess. A run of words that another string quotes from it becomes a reference to it, so
that both come back from the text. Pure: strings in, strings out; which strings a run has is
`sharing`'s business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    "RUN",
    "SHORTEST",
    "Quotations",
    "hashed",
    "local_path",
    "looked_up",
    "names_only",
    "revealed",
    "sha256_of",
    "word_count",
]

RUN = 5
"""Words in a row that count as a quotation."""

SHORTEST = 3
"""Words that a text must have for its mention in another string to count as a quotation of it."""

_HASHED = re.compile(r"\[not shared: sha256 ([0-9a-f]{64}), ([0-9]+) characters\]")
_QUOTED = re.compile(r"\[not shared: sha256 ([0-9a-f]{64}), characters ([0-9]+) to ([0-9]+)(?:, ([a-z]+))?\]")
_UNNAMED = "[not shared: a word]"
_CASES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"lower": str.lower, "upper": str.upper, "capital": str.capitalize}
)

# Letters and digits in a row; Chinese and Japanese, which have no spaces, sign by sign.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")

# A URL, which stays; or a path, of which the last name stays: one that begins at a known place, or has two
# folders at least, so that "and/or" is none.
_NAME = r"[\\/][^\s\\/:'\"`,;()\[\]]+"
_PATH = re.compile(
    r"(?P<url>(?!file:)[A-Za-z][\w+.-]+://\S+)"
    rf"|(?<![\w.~/\\])(?:(?:file://|~|\.{{1,2}}|[A-Za-z]:)(?:{_NAME})+|(?:{_NAME}){{2,}})[\\/]?"
)


def sha256_of(text: str, key: str = "") -> str:
    """SHA-256 of a text as UTF-8, in hexadecimal; with a key, of both: neither can be guessed alone."""
    return hashlib.sha256(f"{key}\x1f{text}".encode() if key else text.encode()).hexdigest()


def hashed(text: str, key: str = "") -> str:
    """The hash and length that stand for a text; an empty one stays empty."""
    return f"[not shared: sha256 {sha256_of(text, key)}, {len(text)} characters]" if text else ""


def looked_up(text: str) -> tuple[str, int] | None:
    """The hash and the number of characters of what `hashed` left, or None for any other string."""
    found = _HASHED.fullmatch(text)
    return (found[1], int(found[2])) if found else None


def revealed(text: str, known: Mapping[str, str]) -> str:
    """The string with all that `known` (SHA-256 to text) can restore in its place again."""
    whole = looked_up(text)
    if whole is not None:
        return known.get(whole[0], text)

    def quotation(found: re.Match[str]) -> str:
        source = known.get(found[1])
        if source is None:
            return found[0]
        said = source[int(found[2]) : int(found[3])]
        return _CASES[found[4]](said) if found[4] in _CASES else said

    return _QUOTED.sub(quotation, text)


def local_path(text: str) -> str | None:
    """The absolute path, or one from the home folder, that a string is, also after `NAME:` or `NAME=`."""
    found = re.fullmatch(r"(?:[\w.+-]{2,}[:=](?!//))?((?:[\\/]|~[\\/]|[A-Za-z]:[\\/]).*)", text)
    return found[1] if found else None


def names_only(text: str, paths: Iterable[str] = ()) -> str:
    """The string with the folders of every local path taken out: names of files stay, URLs stay.

    Inside a sentence a path ends at the first space, unless it is one of `paths`.
    """
    whole = local_path(text)
    for path in [*paths] if whole is None else [whole]:
        text = text.replace(path, _last(path))
    return _PATH.sub(lambda found: found["url"] or _last(found[0]), text) if whole is None else text


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


class _At(NamedTuple):
    """A word of a text to hide: the text and its hash, its words with their places, and which word it is."""

    text: str
    sha256: str
    words: tuple[tuple[str, int, int], ...]
    place: int


def _words(text: str) -> tuple[tuple[str, int, int], ...]:
    return tuple((found[0].lower(), found.start(), found.end()) for found in _WORD.finditer(text))


def word_count(text: str) -> int:
    """How many words a text has, as quotations count them."""
    return len(_words(text))


class Quotations:
    """What is quoted from `texts`, found in any string: five words in a row, or a whole shorter text.

    `texts` maps each to the SHA-256 that stands for it; a quotation refers to the one
    quoted longest, of several the first. Words are compared without case and punctuation.
    Quotations from `allowed` texts, said by us and not by the prompts, are none.
    """

    def __init__(self, texts: Mapping[str, str], allowed: Iterable[str] = ()) -> None:
        said = {run for text in allowed for run, _ in _runs(_words(text))}
        self._runs: dict[tuple[str, ...], list[_At]] = {}
        self._lengths: set[int] = set()
        for text in texts:
            words = _words(text)
            for run, index in _runs(words):
                if run not in said:
                    self._runs.setdefault(run, []).append(_At(text, texts[text], words, index))
                    self._lengths.add(len(run))

    def hidden(self, text: str) -> str:
        """The string with a reference in place of every quotation."""
        words = _words(text)
        parts: list[str] = []
        at, position = 0, 0
        while position < len(words):
            source = self._found(words, position)
            if source is None:
                position += 1
                continue
            length = _common(words, position, source)
            for start, end, reference in _pieces(text, words[position : position + length], source):
                parts += [text[at:start], reference]
                at = end
            position += length
        return "".join([*parts, text[at:]])

    def _found(self, words: tuple[tuple[str, int, int], ...], position: int) -> _At | None:
        """The text that is quoted longest from here on; of several the first."""
        for length in sorted(self._lengths, reverse=True):
            run = tuple(word for word, _, _ in words[position : position + length])
            if run in self._runs:
                return max(self._runs[run], key=lambda source: _common(words, position, source))
        return None


def _runs(words: tuple[tuple[str, int, int], ...]) -> list[tuple[tuple[str, ...], int]]:
    """Every run of a text with the word it begins at; a short text is one run."""
    length = min(RUN, len(words))
    if length < SHORTEST:
        return []
    plain = [word for word, _, _ in words]
    return [(tuple(plain[index : index + length]), index) for index in range(len(words) - length + 1)]


def _common(words: tuple[tuple[str, int, int], ...], position: int, source: _At) -> int:
    """How many words from `position` on are those of the source from its place on."""
    length = 0
    for (mine, _, _), (theirs, _, _) in zip(words[position:], source.words[source.place :], strict=False):
        if mine != theirs:
            break
        length += 1
    return length


def _pieces(
    text: str, words: tuple[tuple[str, int, int], ...], source: _At
) -> Iterator[tuple[int, int, str]]:
    """A quotation as (start, end, reference) of its pieces: exact as far as it goes, else word by word."""
    theirs = source.words[source.place : source.place + len(words)]
    index = 0
    while index < len(words):
        (_, start, end), (_, first, last) = words[index], theirs[index]
        index += 1
        said = source.text[first:last]
        if said == text[start:end]:
            while (
                index < len(words) and text[start : words[index][2]] == source.text[first : theirs[index][2]]
            ):
                end, last = words[index][2], theirs[index][2]
                index += 1
            yield start, end, f"[not shared: sha256 {source.sha256}, characters {first} to {last}]"
            continue
        case = next((name for name, change in _CASES.items() if change(said) == text[start:end]), None)
        place = f"[not shared: sha256 {source.sha256}, characters {first} to {last}, {case}]"
        yield start, end, place if case else _UNNAMED
