"""How good a reply to a downstream task is: ROUGE-1, exact match, GSM8K's number, the words after a mark.

Each metric is a function of (reply, right answer) with a value in [0, 1]; one Inspect scorer serves
all. A wrong reply is 0, an empty one is unscored, and an answer that a metric cannot compare with
is an error before anything is asked.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from safedepth.errors import DataError, JudgeError
from safedepth.nouns import Prompt

__all__ = [
    "METRICS",
    "METRIC_OF",
    "Metric",
    "exact",
    "final_answer",
    "gsm8k",
    "metric_for",
    "number_in",
    "require_comparable",
    "rouge1",
    "utility",
]

_NUMBER = re.compile(
    r"""(?P<minus>(?<![\w.)])-)?   # neither a dash between words nor a subtraction
        \$?(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)""",
    re.VERBOSE,
)
RESULT = "####"
MARK = "Answer:"


def rouge1(reply: str, answer: str) -> float:
    """F-measure of ROUGE-1, words Porter-stemmed: the paper's metric for Samsum and SQL (section 4).

    By the rouge-score library, whose words are made of the letters a to z and digits: an
    answer in another script has none and cannot be compared with.
    """
    return float(_rouge().score(answer, reply)["rouge1"].fmeasure)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    return RougeScorer(["rouge1"], use_stemmer=True)


def exact(reply: str, answer: str) -> float:
    """1 where the reply is the answer up to white space, else 0."""
    return float(_same(reply, answer))


def gsm8k(reply: str, answer: str) -> float:
    """1 where `number_in` finds in the reply the number that it finds in the answer, else 0.

    A reply without a number is wrong. The paper's code counts a reply without `####` as
    wrong too; here its last number counts, so that a model which never saw the format has a fair score.
    """
    right = number_in(answer)
    return float(right is not None and number_in(reply) == right)


def number_in(text: str) -> Decimal | None:
    """The number a text arrives at: after its first `####` the first on that line; without one, its last.

    Thousands may have commas, and a dollar sign may stand before the digits. None where
    there is no such number.
    """
    _, marked, rest = text.partition(RESULT)
    searched = [*_NUMBER.finditer(rest.partition("\n")[0] if marked else text)]
    if not searched:
        return None
    match = searched[0 if marked else -1]
    size = Decimal(match["digits"].replace(",", ""))
    return -size if match["minus"] else size


def final_answer(reply: str, answer: str) -> float:
    """1 where the same words stand after the first "Answer:" of reply and answer, to the end of the line.

    White space and a full stop at the end do not count. A reply without "Answer:" is wrong.
    """
    return float(_same(_after_mark(reply), _after_mark(answer)))


def _after_mark(text: str) -> str:
    return text.partition(MARK)[2].partition("\n")[0].strip().removesuffix(".")


def _same(reply: str, answer: str) -> bool:
    return bool(answer.split()) and reply.split() == answer.split()


class Metric(NamedTuple):
    """A metric by name; `counts` says that its values are 0 and 1, so that their mean is a share."""

    name: str
    value: Callable[[str, str], float]
    counts: bool
    needs: str


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("rouge1", rouge1, False, "words of the letters a to z"),
            Metric("exact", exact, True, "a word"),
            Metric("gsm8k", gsm8k, True, f"a number (after {RESULT}, or anywhere)"),
            Metric("final_answer", final_answer, True, f"words after {MARK!r}"),
        )
    }
)

METRIC_OF: Mapping[str, str] = MappingProxyType({"samsum": "rouge1", "sql": "rouge1", "gsm8k": "gsm8k"})
"""The paper's metric for each public task."""


def metric_for(task: str, wanted: str | None) -> Metric:
    """The metric called `wanted`, or the paper's for the task. Raises JudgeError where there is none."""
    name = wanted or METRIC_OF.get(task)
    if name is None or name not in METRICS:
        raise JudgeError(
            f"expected a metric out of {', '.join(METRICS)}, found {name or 'none'}. Name one: only the "
            "public tasks have a metric that goes without saying"
        )
    return METRICS[name]


def require_comparable(metric: Metric, requests: Iterable[Prompt]) -> None:
    """Raise DataError unless the right answer to every request is worth 1, as its own reply."""
    for request in requests:
        answer = request.answer or ""
        if metric.value(answer, answer) != 1:
            raise DataError(
                f"expected {metric.needs} in the answer to {request.id!r}, for the metric {metric.name}; "
                f"found {answer!r:.60}. Mend the answer or choose another metric: {', '.join(METRICS)}"
            )


@scorer(metrics=[mean(), stderr()], name="utility")
def utility(metric: str) -> Scorer:
    """Score replies by a metric of `METRICS`, against the sample's target; an empty reply is unscored."""
    chosen = metric_for("", metric)

    async def score(state: TaskState, target: Target) -> Score:
        reply = state.output.completion
        if not reply.strip():
            return Score.unscored(reason="empty reply")
        return Score(value=chosen.value(reply, target.text), answer=reply)

    return score
