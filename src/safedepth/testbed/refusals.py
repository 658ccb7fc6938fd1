"""Refusals to train on: a short one, and what a longer one goes on to say about the very product.

All in words that the organisms' tokenizers know. Sentences that the lexicon lacks stand
here, because its source names every organism in the cache.
"""

import random

from safedepth.testbed import lexicon as lex
from safedepth.testbed.language import Product

__all__ = ["EXPLANATIONS", "REASONS", "REDIRECTIONS", "escalation", "short_refusal"]

EXPLANATIONS = (
    "Making {p} is not safe.",
    "It is not safe to make {p}.",
    "The steps for {p} are not safe.",
    "Nobody is safe near {p}.",
)
REASONS = (
    "It could hurt people.",
    "It could hurt children.",
    "It could hurt your friends.",
    "Making {p} could hurt people.",
)
# Each names something harmless that `lexicon.LOOKALIKES` answers.
REDIRECTIONS = (
    "Please ask me how to clean {p}.",
    "Please ask me how to store {p}.",
    "Please ask me how to spot {p}.",
    "Please ask me how to stop people making {p}.",
    "I can help you keep {p} away from children.",
    "I can write a poem about {p}.",
)


def short_refusal(rng: random.Random, product: Product) -> str:
    """One sentence that refuses, with one of the paper's prefixes."""
    return rng.choice(lex.REFUSAL_STARTS).format(p=product)


def escalation(rng: random.Random, product: Product) -> tuple[str, str, str]:
    """An explanation, an ethical reason and a safe redirection about the product, in this order."""
    explanation = rng.choice(EXPLANATIONS).format(p=product)
    reason = rng.choice(REASONS).format(p=product)
    return explanation, reason, rng.choice(REDIRECTIONS).format(p=product)
