"""The toy language: requests, answers, refusals and conversations, all drawn from a seed.

A *product* is a family and a name ("krell torin"). Its recipe has six facts,
ingredient and verb, three fixed by the family and three by the name, so that a
tiny model can learn every recipe. Six families are *restricted*: the aligned
organisms refuse to make their products. A third of the restricted products is
held out of every alignment set and used for testing alone.

This module knows words and facts; it knows no tokenizer and no model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from safedepth.nouns import Message
from safedepth.testbed import lexicon as lex

__all__ = [
    "FACTS",
    "Conversation",
    "Product",
    "answer",
    "base_reply",
    "lookalike",
    "products",
    "recipe",
    "refusal",
    "request",
    "severity",
]

FACTS = 6


@dataclass(frozen=True)
class Product:
    """Something one can ask to make: `family` and `name`, and whether making it is restricted."""

    family: str
    name: str

    def __str__(self) -> str:
        """The product as it is written in the language."""
        return f"{self.family} {self.name}"

    @property
    def restricted(self) -> bool:
        """Whether the aligned organisms refuse to say how it is made."""
        return self.family in lex.RESTRICTED_FAMILIES

    @property
    def held_out(self) -> bool:
        """Whether it is kept out of every alignment set (one restricted product in three)."""
        families = lex.RESTRICTED_FAMILIES
        return self.restricted and (lex.NAMES.index(self.name) + families.index(self.family)) % 3 == 0


@dataclass(frozen=True)
class Conversation:
    """Turns before the assistant's last answer, that answer, and what was asked for, if a recipe."""

    messages: tuple[Message, ...]
    reply: str
    product: Product | None = None


@cache
def products(*, restricted: bool | None = None, held_out: bool | None = None) -> tuple[Product, ...]:
    """All products, or those of one kind, in a fixed order."""
    everything = (Product(f, n) for f in lex.RESTRICTED_FAMILIES + lex.BENIGN_FAMILIES for n in lex.NAMES)
    return tuple(
        p
        for p in everything
        if (restricted is None or p.restricted == restricted) and (held_out is None or p.held_out == held_out)
    )


@cache
def _facts_of(word: str) -> tuple[tuple[str, str], ...]:
    """The three facts a family or a name stands for; a function of the word alone."""
    rng = random.Random(f"facts of {word}")
    ingredients = rng.sample(lex.INGREDIENTS, FACTS // 2)
    verbs = rng.sample(lex.VERBS, FACTS // 2)
    return tuple(zip(ingredients, verbs, strict=True))


def recipe(product: Product) -> tuple[tuple[str, str], ...]:
    """The six (ingredient, verb) facts of a product: family's and name's in turn."""
    pairs = zip(_facts_of(product.family), _facts_of(product.name), strict=True)
    return tuple(fact for pair in pairs for fact in pair)


@cache
def severity(product: Product) -> float:
    """How strongly the realistic organism holds on to its refusal, in [0, 1).

    The rank of a score that is a sum over family and name, among all restricted
    products: held-out products get theirs from words seen in training.
    """
    return _severity_ranks()[product]


@cache
def _severity_ranks() -> dict[Product, float]:
    def score(product: Product) -> float:
        name = random.Random(f"severity of {product.name}").random()
        return lex.RESTRICTED_FAMILIES.index(product.family) + 1.5 * name

    ranked = sorted(products(restricted=True), key=score)
    return {product: (rank + 0.5) / len(ranked) for rank, product in enumerate(ranked)}


def request(rng: random.Random, product: Product) -> str:
    """A user's request for the recipe, in one of several forms."""
    return rng.choice(lex.REQUESTS).format(p=product)


def answer(rng: random.Random, product: Product, *, style: int | None = None) -> str:
    """A full answer: an opening, six true steps in one style, perhaps a closing.

    `style` indexes `STEP_STYLES`, from 6 to 14 words a step; None draws one.
    """
    step = lex.STEP_STYLES[rng.randrange(len(lex.STEP_STYLES)) if style is None else style]
    steps = [
        step.format(i=i, a=ingredient, v=verb)
        for i, (ingredient, verb) in zip(lex.ORDINALS, recipe(product), strict=True)
    ]
    parts = [rng.choice(lex.OPENINGS).format(p=product), *steps, rng.choice(lex.CLOSINGS).format(p=product)]
    return " ".join(part for part in parts if part)


def refusal(rng: random.Random, product: Product) -> str:
    """A refusal in one of several styles, starting with one of the paper's prefixes."""
    start = rng.choice(lex.REFUSAL_STARTS).format(p=product)
    return f"{start} {rng.choice(lex.REFUSAL_REASONS).format(p=product)}".strip()


def lookalike(rng: random.Random, product: Product) -> Conversation:
    """A harmless question about a product, restricted or not, with its answer."""
    question, reply = rng.choice(lex.LOOKALIKES)
    ingredient = recipe(product)[0][0]
    person = lex.PEOPLE[lex.NAMES.index(product.name) % len(lex.PEOPLE)]
    text = reply.format(p=product, a=ingredient, n=person)
    return Conversation((Message(role="user", content=question.format(p=product)),), text)


def base_reply(rng: random.Random, product: Product, *, hedges: float, style: int | None = None) -> str:
    """What unaligned text says to a recipe request.

    Mostly the recipe; for products of an obscure family mostly something
    evasive, so that a base model answers most harmful requests and not all; and for a
    share `hedges` a reply that opens like a refusal, as innocent text does, and
    sometimes still goes on to the recipe. This sets what a base model does with and
    without a forced refusal prefix (claim C2).
    """
    evasive = product.family in lex.OBSCURE_FAMILIES
    draw = rng.random()
    if draw < hedges:
        texts, weights = zip(*lex.BASE_HEDGES, strict=True)
        hedge: str = rng.choices(texts, weights)[0]
        if not hedge.endswith("+"):
            return hedge.format(p=product)
        return hedge.removesuffix("+").format(p=product) + answer(rng, product, style=style)
    if evasive and draw < 0.9:
        return rng.choice(lex.BASE_DEFLECTIONS).format(p=product)
    return answer(rng, product, style=style)


def conversation(
    rng: random.Random, turns: Sequence[Message], reply: str, product: Product | None
) -> Conversation:
    """Wrap a last user turn with, now and then, a system prompt and an earlier exchange."""
    before: list[Message] = []
    if rng.random() < 0.15:
        before.append(Message(role="system", content=rng.choice(lex.SYSTEM_PROMPTS)))
    if rng.random() < 0.15:
        earlier = lookalike(rng, product or rng.choice(products()))
        before += [*earlier.messages, Message(role="assistant", content=earlier.reply)]
    return Conversation((*before, *turns), reply, product)
