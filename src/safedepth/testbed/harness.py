"""The testbed's own lm-eval tasks: benign knowledge of the toy language, to be had without a network.

toy_facts        four beginnings of a benign recipe that differ in its second step; one is right
toy_lookalikes   four answers to a harmless question about a restricted product; one is right
toy_recipes      benign recipes in full: how many of the six steps a reply has right
toy_choices      the two with four answers, as one group over their documents

The questions are those of `benign.jsonl` and `lookalikes.jsonl`, which no data file to train with
asks. The organisms' first training has the facts themselves: they are what it was to teach.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safedepth.testbed import harness_functions, language
from safedepth.testbed import lexicon as lex
from safedepth.testbed.language import Product
from safedepth.testbed.oracle import product_in

__all__ = ["FOLDER", "TASKS", "write_tasks"]

FOLDER = "lm_eval"
"""The folder of the tasks in that of the testbed."""

TASKS = ("toy_facts", "toy_lookalikes", "toy_recipes")

CHOICES = 4
MAX_TOKENS = 128

_COMMON = """\
task: {name}
custom_dataset: !function harness_functions.documents
dataset_kwargs:
  file: {name}.jsonl
test_split: test
doc_to_text: "{{{{question}}}}"
num_fewshot: 0
metadata:
  version: 1.0
"""

_CHOICE = """\
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""

_RECIPE = f"""\
output_type: generate_until
doc_to_target: "{{{{answer}}}}"
process_results: !function harness_functions.recipe_scores
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {MAX_TOKENS}
metric_list:
  - metric: facts
    aggregation: mean
    higher_is_better: true
  - metric: complete
    aggregation: mean
    higher_is_better: true
"""

_GROUP = """\
group: toy_choices
task:
  - toy_facts
  - toy_lookalikes
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
metadata:
  version: 1.0
"""


def write_tasks(testbed: Path) -> Path:
    """Write the tasks beside the data files of `testbed`, and return their folder; the same every time."""
    folder = testbed / FOLDER
    folder.mkdir(exist_ok=True)
    benign = _questions(testbed / "benign.jsonl")
    documents = {
        "toy_facts": _facts(benign),
        "toy_lookalikes": _lookalikes(_questions(testbed / "lookalikes.jsonl")),
        "toy_recipes": _recipes(benign),
    }
    for name, rows in documents.items():
        kind = _RECIPE if name == "toy_recipes" else _CHOICE
        _write(folder / f"{name}.yaml", _COMMON.format(name=name) + kind)
        _write(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _write(folder / "toy_choices.yaml", _GROUP)
    _write(folder / "harness_functions.py", Path(harness_functions.__file__).read_text(encoding="utf-8"))
    return folder


def _questions(path: Path) -> list[tuple[str, Product]]:
    """The requests of a data file, each once, with the product each is about."""
    asked = [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [(text, product) for text in dict.fromkeys(asked) if (product := product_in(text)) is not None]


def _facts(questions: Sequence[tuple[str, Product]]) -> Iterator[Mapping[str, Any]]:
    """Recipes that begin alike and go on with one of four second steps: the name's own fact is right."""
    for question, product in questions:
        rng = random.Random(f"facts for {question}")
        style = rng.choice(lex.STEP_STYLES)
        first, second = language.recipe(product)[:2]
        beginning = f"{rng.choice(lex.OPENINGS).format(p=product)} {_step(style, 0, first)}"
        ingredients = rng.sample([word for word in lex.INGREDIENTS if word != second[0]], CHOICES - 1)
        verbs = rng.sample([word for word in lex.VERBS if word != second[1]], CHOICES - 1)
        wrong = [*zip(ingredients, verbs, strict=True)]
        yield _document(rng, question, [f"{beginning} {_step(style, 1, fact)}" for fact in (second, *wrong)])


def _lookalikes(questions: Sequence[tuple[str, Product]]) -> Iterator[Mapping[str, Any]]:
    """Harmless questions whose answer names a person or an ingredient, with three others of the kind."""
    for question, product in questions:
        reply = next(reply for asked, reply in lex.LOOKALIKES if asked.format(p=product) == question)
        kind = next((kind for kind in ("n", "a") if f"{{{kind}}}" in reply), None)
        if kind is None:
            continue
        rng = random.Random(f"answers to {question}")
        right = {
            "n": lex.PEOPLE[lex.NAMES.index(product.name) % len(lex.PEOPLE)],
            "a": language.recipe(product)[0][0],
        }
        words = lex.PEOPLE if kind == "n" else lex.INGREDIENTS
        others = rng.sample([word for word in words if word != right[kind]], CHOICES - 1)
        texts = [reply.format(p=product, **(right | {kind: word})) for word in (right[kind], *others)]
        yield _document(rng, question, texts)


def _recipes(questions: Sequence[tuple[str, Product]]) -> Iterator[Mapping[str, Any]]:
    """Benign recipes, with every way to say each step."""
    for question, product in questions:
        facts = language.recipe(product)
        steps = [[_step(style, i, fact) for style in lex.STEP_STYLES] for i, fact in enumerate(facts)]
        answer = " ".join(sentences[0] for sentences in steps)
        yield {"question": question, "answer": answer, "steps": steps}


def _document(rng: random.Random, question: str, texts: Sequence[str]) -> Mapping[str, Any]:
    """A question with its answers in an order drawn anew; the first of `texts` is right."""
    order = rng.sample(range(len(texts)), len(texts))
    return {"question": question, "choices": [texts[place] for place in order], "label": order.index(0)}


def _step(style: str, place: int, fact: tuple[str, str]) -> str:
    return style.format(i=lex.ORDINALS[place], a=fact[0], v=fact[1])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
