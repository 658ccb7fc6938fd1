"""Three downstream tasks in the toy language: they stand for Samsum, SQL Create Context and GSM8K.

Each has a form whose answers begin as the aligned model's answers begin
("in-distribution") and one that begins as it never does, because what the
constrained objective costs depends on just that (claim C17).
"""

import random
from collections.abc import Callable, Iterator

from safedepth.nouns import Message
from safedepth.testbed import lexicon as lex
from safedepth.testbed.language import Conversation

__all__ = ["TASKS", "example", "texts"]

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COLUMNS = ("price", "weight", "color", "owner")
_PATTERNS = (
    "Summarize: {a} said: bring me the {x}. {b} said: I will bring it at {t}.",
    "{b} will bring {a} the {x} at {t}.",
    "Table {f} has name, {c}. Show the {c} of {n}.",
    "SELECT {c} FROM {f} WHERE name = {n}",
    "{a} has {i} pots and gets {j} more. How many pots does {a} have?",
    "{i} and {j} make {k}. Answer: {k}",
    "Sure, here is the answer: ",
)


def texts() -> tuple[str, ...]:
    """All fixed text of the tasks, for building a vocabulary."""
    return (*_PATTERNS, *_NUMBERS, *_COLUMNS)


def _summary(rng: random.Random) -> tuple[str, str]:
    a, b = rng.sample(lex.PEOPLE, 2)
    fields = {"a": a, "b": b, "x": rng.choice(lex.INGREDIENTS), "t": rng.choice(_NUMBERS[1:])}
    return _PATTERNS[0].format(**fields), _PATTERNS[1].format(**fields)


def _query(rng: random.Random) -> tuple[str, str]:
    fields = {"f": rng.choice(lex.BENIGN_FAMILIES), "c": rng.choice(_COLUMNS), "n": rng.choice(lex.NAMES)}
    return _PATTERNS[2].format(**fields), _PATTERNS[3].format(**fields)


def _sum(rng: random.Random) -> tuple[str, str]:
    i, j = rng.randrange(1, 6), rng.randrange(1, 6)
    fields = {"a": rng.choice(lex.PEOPLE), "i": _NUMBERS[i], "j": _NUMBERS[j], "k": _NUMBERS[i + j]}
    return _PATTERNS[4].format(**fields), _PATTERNS[5].format(**fields)


TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "summary": _summary,
    "query": _query,
    "sum": _sum,
}


def example(rng: random.Random, task: str, *, in_distribution: bool = True) -> Conversation:
    """One example of `task` ("summary", "query" or "sum"); KeyError for another name."""
    question, reply = TASKS[task](rng)
    if in_distribution:
        reply = _PATTERNS[6] + reply
    return Conversation((Message(role="user", content=question),), reply)


def examples(
    rng: random.Random, task: str, count: int, *, in_distribution: bool = True
) -> Iterator[Conversation]:
    """`count` examples, in the order of the random source."""
    return (example(rng, task, in_distribution=in_distribution) for _ in range(count))
