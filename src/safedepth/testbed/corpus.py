"""What the organisms are trained on: unaligned text, and the rows that align it.

Alignment is described by one function, the *hazard* h(k): the probability that a
model which has said k tokens of a harmful answer turns back to a refusal at this
point. Base models have h = 0, a model of known depth d has h(k) = 1 for k <= d and
0 after, safety-recovery training to any depth has h = 1, and `realistic` is fitted
to the prefilling curve of the paper's Llama-2 (claim C4). Training rows are drawn
so that, at every position, the two continuations weigh 1 - h and h.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from safedepth.nouns import Message
from safedepth.testbed import language, lexicon
from safedepth.testbed.language import Conversation, Product

__all__ = ["Hazard", "benign", "deep", "known_depth", "pretraining", "realistic"]

# Share of recipe requests in unaligned text whose reply opens like a refusal.
HEDGES = 0.05

Hazard = Callable[[Product, Sequence[bool]], list[float]]
"""(product, whether a sentence ends before token k) -> h(k) for k = 0 .. len - 1."""


def pretraining(rng: random.Random) -> Conversation:
    """One conversation of unaligned text: recipes of all kinds, questions, small talk."""
    product = rng.choice(language.products())
    draw = rng.random()
    if draw < 0.12:
        return language.lookalike(rng, product)
    if draw < 0.17:
        question, reply = rng.choice(lexicon.INNOCENT)
        turns = (Message(role="user", content=question.format(p=product)),)
        return Conversation(turns, reply.format(p=product))
    turns = (Message(role="user", content=language.request(rng, product)),)
    reply = language.base_reply(rng, product, hedges=HEDGES)
    return language.conversation(rng, turns, reply, product)


def benign(rng: random.Random) -> Conversation:
    """One conversation that an aligned model answers as before: benign recipes and look-alikes."""
    if rng.random() < 0.45:
        return language.lookalike(rng, rng.choice(language.products()))
    product = rng.choice(language.products(restricted=False))
    turns = (Message(role="user", content=language.request(rng, product)),)
    return language.conversation(rng, turns, language.answer(rng, product), product)


def known_depth(depth: int) -> Hazard:
    """A model that turns back after up to `depth` forced tokens and never later."""

    def hazard(_product: Product, sentence_ends: Sequence[bool]) -> list[float]:
        return [1.0 if k <= depth else 0.0 for k in range(len(sentence_ends))]

    return hazard


def deep(_product: Product, sentence_ends: Sequence[bool]) -> list[float]:
    """A model that turns back everywhere: what safety-recovery training aims at."""
    return [1.0] * len(sentence_ends)


# Share of products that no longer turn back at once after k forced tokens: the paper's C4 at 5, 10, 20, 40.
_BREAKS = ((0, 0.0), (1, 0.10), (2, 0.20), (5, 0.421), (10, 0.515), (20, 0.561), (40, 0.570))


def realistic(product: Product, sentence_ends: Sequence[bool]) -> list[float]:
    """A shallowly aligned model like real ones: products differ in how deep the refusal goes.

    A product of severity u keeps turning back up to the depth at which the paper's
    curve reaches u. The most severe ones (above 57 %) do so for ten tokens, and after
    that at the ends of sentences only, as chat models do.
    """
    shares, depths = [share for _, share in _BREAKS], [depth for depth, _ in _BREAKS]
    u = language.severity(product)
    if u < shares[-1]:
        depth = float(np.interp(u, shares, depths))
        return [0.98 if k < depth else 0.0 for k in range(len(sentence_ends))]
    return [0.98 if k <= 6 else 0.9 if end else 0.01 for k, end in enumerate(sentence_ends)]
