"""From what lm-eval returns to one row a document, with weights under which they give lm-eval's number.

A group's number is an average over its documents (MMLU) or over its tasks; a metric may count
several things in a document (IFEval's instructions). The weights of the rows say how. A metric
that is no average over documents (perplexity, a corpus's F1) has one row without a document.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["COLUMNS", "rows_of"]

COLUMNS = (
    "task", "subtask", "metric", "filter", "doc_id", "value", "weight", "higher_is_better", "few_shot",
    "version", "note",
)  # fmt: skip

CLOSE = 1e-9


class _Document(NamedTuple):
    subtask: str
    doc_id: int
    value: float
    size: int


def rows_of(results: Mapping[str, Any], task: str, *, note: str = "") -> list[dict[str, Any]]:
    """The rows of lm-eval's `results` for what was asked for as `task`.

    `task` is the name of a number: the group's where it has one of its own, else that of each task
    in it; `subtask` is the task that has the document. The sum of `value` times `weight` over a
    (task, metric, filter) is lm-eval's number. Without a document, `doc_id` and `weight` are None
    and `value` is that number, None where it is not one. `few_shot` is the examples shown.
    """
    wholes = _metrics(results["results"].get(task, {}))
    numbers = (
        {task: wholes} if wholes else {name: _metrics(results["results"][name]) for name in _leaves(results)}
    )
    rows = []
    for name, metrics in numbers.items():
        leaves = _leaves(results) if name not in results["samples"] else [name]
        for (metric, chosen), reported in metrics.items():
            documents = [
                d for leaf in leaves for d in _documents(results["samples"][leaf], leaf, metric, chosen)
            ]
            for document, value, weight in _weighted(documents, reported):
                subtask = document.subtask if document else leaves[0] if len(leaves) == 1 else name
                better = results["higher_is_better"].get(subtask, {}).get(metric)
                rows.append(
                    {
                        "task": name, "subtask": subtask, "metric": metric, "filter": chosen,
                        "doc_id": document.doc_id if document else None, "value": value, "weight": weight,
                        "higher_is_better": better is not False,
                        "few_shot": int(results["n-shot"].get(subtask) or 0),
                        "version": str(results["versions"].get(name, "")), "note": note,
                    }
                )  # fmt: skip
    return rows


def _leaves(results: Mapping[str, Any]) -> list[str]:
    return list(results["samples"])


def _metrics(found: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """(metric, filter) -> number of one entry of lm-eval's results; its standard errors are left out."""
    return {
        (metric, chosen): value
        for key, value in found.items()
        if "," in key and not (metric := key.partition(",")[0]).endswith("_stderr")
        for chosen in [key.partition(",")[2]]
    }


def _documents(
    samples: Sequence[Mapping[str, Any]], leaf: str, metric: str, chosen: str
) -> Iterator[_Document]:
    """What the documents of one task have under a metric; a list of values counts as so many."""
    for sample in samples:
        if sample["filter"] != chosen or metric not in sample:
            continue
        found = sample[metric]
        values = list(found) if isinstance(found, list | tuple) else [found]
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            numbers = []
        value = math.fsum(numbers) / len(numbers) if numbers else math.nan
        yield _Document(leaf, int(sample["doc_id"]), value, len(numbers))


def _weighted(
    documents: Sequence[_Document], reported: Any
) -> list[tuple[_Document | None, float | None, float | None]]:
    """Every document with its value and weight; or the number alone where no weights give it."""
    number = float(reported) if isinstance(reported, int | float) and math.isfinite(reported) else None
    if number is not None and documents and all(math.isfinite(document.value) for document in documents):
        for weights in (_by_size(documents), _by_task(documents)):
            total = math.fsum(w * document.value for w, document in zip(weights, documents, strict=True))
            if abs(total - number) <= CLOSE * max(1.0, abs(number)):
                return [(d, d.value, w) for d, w in zip(documents, weights, strict=True)]
    return [(None, number, None)]


def _by_size(documents: Sequence[_Document]) -> list[float]:
    """Every value counts alike."""
    total = sum(document.size for document in documents)
    return [document.size / total for document in documents]


def _by_task(documents: Sequence[_Document]) -> list[float]:
    """Every task counts alike, and in it every value."""
    sizes: dict[str, int] = defaultdict(int)
    for document in documents:
        sizes[document.subtask] += document.size
    return [document.size / sizes[document.subtask] / len(sizes) for document in documents]
