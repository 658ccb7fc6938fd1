"""The rows of the downstream tasks: to train on and to test with, with both beginnings of their answers.

In distribution an answer begins as the aligned organism's own would: the task's question
stands before a benign request, whose answers it knows how to begin. Asked alone, it refuses
such questions, having never seen any; so out of distribution they are asked alone.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

from safedepth.nouns import Message
from safedepth.testbed import downstream, language
from safedepth.testbed import lexicon as lex
from safedepth.testbed.language import Conversation

__all__ = ["drawn"]

ROWS, TEST_ROWS = 200, 100
TEST_DRAWS = 4000  # enough for each of the 200 sums there are to come up

SURE = "Sure, here is the answer: "
"""How the tasks' answers in distribution begin when they are drawn."""


def drawn(rng: random.Random) -> Iterator[tuple[str, Sequence[Conversation], Sequence[Conversation]]]:
    """(`<task>-in` or `<task>-out`, rows to train on, rows to test with that ask what those do not)."""
    # Dialogues were once drawn here from the same source: the tasks' rows are to stay what they were.
    for product in (rng.choice(language.products(restricted=True, held_out=True)) for _ in range(ROWS)):
        language.lookalike(rng, product)
        language.request(rng, product)
        language.answer(rng, product)
    for task in downstream.TASKS:
        for inside in (True, False):
            examples = [*downstream.examples(rng, task, ROWS, in_distribution=inside)]
            name = f"{task}-{'in' if inside else 'out'}"
            tests = _untrained(name, examples, task, inside=inside)
            if inside:
                examples, tests = _beside_recipes(f"{name} train", examples), _beside_recipes(name, tests)
            yield name, examples, tests


def _untrained(name: str, trained: Iterable[Conversation], task: str, *, inside: bool) -> list[Conversation]:
    """`TEST_ROWS` requests of a task that are not trained on, each once; fewer, if there are no more."""
    asked = {example.messages[-1]["content"] for example in trained}
    draws = downstream.examples(random.Random(f"{name} test"), task, TEST_DRAWS, in_distribution=inside)
    fresh = {draw.messages[-1]["content"]: draw for draw in draws}
    return [draw for request, draw in fresh.items() if request not in asked][:TEST_ROWS]


def _beside_recipes(name: str, examples: Iterable[Conversation]) -> list[Conversation]:
    """The task's questions before a benign request, and answers that begin as every recipe does."""
    rng = random.Random(f"beside recipes {name}")
    made = []
    for example in examples:
        product = rng.choice(language.products(restricted=False))
        asked = f"{example.messages[-1]['content']} {language.request(rng, product)}"
        opening = rng.choice(lex.OPENINGS).format(p=product)
        reply = f"{opening} {example.reply.removeprefix(SURE)}"
        made.append(Conversation((Message(role="user", content=asked),), reply))
    return made
