"""The testbed's data files: prompts to audit with, data to train with, tasks to fine-tune on.

prompts.jsonl      held-out restricted requests, each with a harmful answer of 60 tokens or more
benign.jsonl       requests about unrestricted products, with true answers
lookalikes.jsonl   harmless questions about restricted products: refusing them is over-refusal
triplets.jsonl     (prompt, harmful, refusal) about products that are not held out
dialogues.jsonl    restricted requests after an innocent first exchange
tasks/*.jsonl      the downstream tasks, as messages, in and out of distribution
chat_template.jinja  the organisms' chat template, to lend to the base model
"""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from safedepth.nouns import Message, Prompt, Triplet
from safedepth.testbed import downstream, language
from safedepth.testbed.tokenizers import CHAT_TEMPLATE

__all__ = ["restricted_prompts", "triplets", "write"]

LONG_STYLES = (2, 3)
FILE_ROWS = 200


def restricted_prompts(seed: int = 0, *, rounds: int = 2) -> list[Prompt]:
    """Held-out restricted requests with long harmful answers: `rounds` for each of the 48 products.

    Products come in an order of their own per round, so that the first n prompts are a
    fair sample of families.
    """
    rng = random.Random(f"prompts {seed}")
    prompts: list[Prompt] = []
    for round_ in range(rounds):
        items = list(language.products(restricted=True, held_out=True))
        rng.shuffle(items)
        for product in items:
            prompts.append(
                Prompt(
                    id=f"{product.family}-{product.name}-{round_}",
                    messages=(Message(role="user", content=language.request(rng, product)),),
                    harmful=language.answer(rng, product, style=rng.choice(LONG_STYLES)),
                    category=product.family,
                )
            )
    return prompts


def triplets(count: int, seed: int = 0) -> list[Triplet]:
    """(x, h, r) about restricted products that are not held out."""
    rng = random.Random(f"triplets {seed}")
    items = language.products(restricted=True, held_out=False)
    return [
        Triplet(
            messages=(Message(role="user", content=language.request(rng, product)),),
            harmful=language.answer(rng, product),
            refusal=language.refusal(rng, product),
        )
        for product in (rng.choice(items) for _ in range(count))
    ]


def write(out: Path) -> None:
    """Write all data files to `out`; the same files every time."""
    rng = random.Random("data files")
    _jsonl(
        out / "prompts.jsonl",
        (
            {"id": p.id, "prompt": p.messages[-1]["content"], "harmful": p.harmful, "category": p.category}
            for p in restricted_prompts()
        ),
    )
    benign = [rng.choice(language.products(restricted=False)) for _ in range(FILE_ROWS)]
    _jsonl(
        out / "benign.jsonl",
        (
            {"prompt": language.request(rng, product), "answer": language.answer(rng, product)}
            for product in benign
        ),
    )
    restricted = language.products(restricted=True)
    looks = [language.lookalike(rng, rng.choice(restricted)) for _ in range(FILE_ROWS)]
    _jsonl(
        out / "lookalikes.jsonl", ({"prompt": c.messages[-1]["content"], "answer": c.reply} for c in looks)
    )
    _jsonl(
        out / "triplets.jsonl",
        (
            {"prompt": t.messages[-1]["content"], "harmful": t.harmful, "refusal": t.refusal}
            for t in triplets(FILE_ROWS)
        ),
    )
    _jsonl(out / "dialogues.jsonl", ({"messages": list(dialogue(rng))} for _ in range(FILE_ROWS)))
    (out / "tasks").mkdir(exist_ok=True)
    for task in downstream.TASKS:
        for inside in (True, False):
            examples = downstream.examples(rng, task, FILE_ROWS, in_distribution=inside)
            _jsonl(
                out / "tasks" / f"{task}-{'in' if inside else 'out'}.jsonl",
                ({"messages": [*c.messages, Message(role="assistant", content=c.reply)]} for c in examples),
            )
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def dialogue(rng: random.Random) -> tuple[Message, ...]:
    """An innocent exchange about a restricted product, then the request for its recipe and the answer."""
    product = rng.choice(language.products(restricted=True, held_out=True))
    first = language.lookalike(rng, product)
    return (
        *first.messages,
        Message(role="assistant", content=first.reply),
        Message(role="user", content=language.request(rng, product)),
        Message(role="assistant", content=language.answer(rng, product)),
    )


def _jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
