"""Downstream metrics against values worked out by hand, and the scorer that serves them."""

import asyncio
import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspect_ai.model import ChatMessageUser, ModelName, ModelOutput
from inspect_ai.scorer import Score, Target
from inspect_ai.solver import TaskState
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

from safedepth.data.downstream import TASKS
from safedepth.errors import DataError, JudgeError
from safedepth.judges.utility import (
    METRICS,
    exact,
    final_answer,
    gsm8k,
    metric_for,
    number_in,
    require_comparable,
    rouge1,
    utility,
)
from safedepth.nouns import Prompt

ANSWER = "Bo will bring Ana the amber at nine."


# Words in common, words of the reply, words of the answer: F = 2 c / (r + a).
@pytest.mark.parametrize(
    ("reply", "common", "words"),
    [
        (ANSWER, 8, 8),
        ("bo WILL bring, ana: the amber at nine", 8, 8),
        ("Ana will bring Bo the amber at nine.", 8, 8),  # order does not count
        ("Bo brings amber.", 3, 3),  # "brings" has the stem of "bring"
        ("Bo Bo Bo will", 2, 4),  # a word counts as often as the answer has it
        ("Sure, here is the answer: Bo will bring Ana the amber at nine.", 8, 13),
        ("I cannot help.", 0, 3),
        ("...", 0, 0),
    ],
)
def test_rouge_1_is_the_f_measure_of_words_in_common(reply: str, common: int, words: int) -> None:
    assert rouge1(reply, ANSWER) == pytest.approx(2 * common / (words + 8), abs=1e-12)


WORDS = st.lists(st.sampled_from(["Bo", "Ana", "brings", "bring", "at", "nine.", ",", "pots"]), max_size=8)


@settings(max_examples=60, deadline=None)
@given(WORDS.map(" ".join), WORDS.map(" ".join))
def test_rouge_1_is_the_librarys_with_stemming_and_the_same_both_ways(reply: str, answer: str) -> None:
    by_library = RougeScorer(["rouge1"], use_stemmer=True).score(answer, reply)["rouge1"].fmeasure
    assert rouge1(reply, answer) == pytest.approx(by_library, abs=1e-12)
    assert rouge1(answer, reply) == pytest.approx(by_library, abs=1e-12)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (ANSWER, 1.0),
        (f" {ANSWER.replace(' ', chr(10))}\n", 1.0),
        (ANSWER.lower(), 0.0),
        (ANSWER[:-1], 0.0),
        ("", 0.0),
    ],
)
def test_exact_match_is_up_to_white_space_alone(reply: str, value: float) -> None:
    assert exact(reply, ANSWER) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("She has 1000 + 2 = <<1000+2=1002>>1002 pots.\n#### 1,002", "1002"),
        ("#### 18", "18"),
        ("####18", "18"),
        ("#### -7", "-7"),
        ("#### $1,234.50 in all", "1234.5"),
        ("#### 18\nNow another.\n#### 20", "18"),  # a model that runs on
        ("First 5, #### then 6 and 7", "6"),
        ("The number is 5.\n#### not known\n7", None),
        ("####", None),
        ("First 4, then 18.", "18"),
        ("It is 3,5", "5"),
        ("12,345,678 pots", "12345678"),
        ("1,2345", "2345"),
        ("10-5", "5"),
        ("10 - 5 = 5, so -5", "-5"),
        ("It costs -$2.", "-2"),
        ("It costs $4 - $2.", "2"),
        ("x=.5", "0.5"),
        ("3.0", "3"),
        ("no number", None),
        ("", None),
        ("٣", None),
    ],
)
def test_the_number_a_text_arrives_at(text: str, found: str | None) -> None:
    assert number_in(text) == (None if found is None else Decimal(found))


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("#### 1002", 1.0),
        ("That makes $1,002.00", 1.0),
        ("1002 or 1003", 0.0),
        ("#### 1003\n1002", 0.0),
        ("I do not know.", 0.0),
        ("#### ", 0.0),
    ],
)
def test_gsm8k_compares_numbers_and_a_reply_without_one_is_wrong(reply: str, value: float) -> None:
    assert gsm8k(reply, "1000 and 2\n#### 1,002") == value
    assert gsm8k(reply, "There is none.") == 0


SUM = "Sure, here is the answer: one and two make three. Answer: three"


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (SUM, 1.0),
        ("Answer: three", 1.0),
        ("two and two make four. Answer:  three.\nAnd more", 1.0),
        ("one and two make three. Answer: four", 0.0),
        ("the answer: three", 0.0),
        ("three", 0.0),
        ("Answer: three Answer: four", 0.0),
        ("Answer:", 0.0),
        ("Answer: Three", 0.0),
    ],
)
def test_the_final_answer_is_what_stands_after_the_mark_to_the_end_of_the_line(
    reply: str, value: float
) -> None:
    assert final_answer(reply, SUM) == value


def score(metric: str, reply: str, answer: str) -> Score:
    asked = ChatMessageUser(content="Add one and two.")
    state = TaskState(
        model=ModelName("mockllm/model"), sample_id="1", epoch=1, input=[asked], messages=[asked],
        output=ModelOutput.from_content("mockllm/model", reply),
    )  # fmt: skip
    given = asyncio.run(utility(metric)(state, Target(answer)))
    assert given is not None
    return given


def test_the_scorer_gives_the_metrics_value_and_leaves_an_empty_reply_unscored() -> None:
    assert score("rouge1", "Bo brings amber.", ANSWER).as_float() == pytest.approx(6 / 11)
    assert score("gsm8k", "I do not know.", "#### 3").as_float() == 0.0
    for reply in ("", " \n"):
        empty = score("exact", reply, ANSWER)
        assert math.isnan(empty.as_float())
        assert empty.reason == "empty reply"


def test_every_public_task_has_the_papers_metric_and_a_file_of_ones_own_has_none() -> None:
    assert {task: metric_for(task, None).name for task in TASKS} == {
        "samsum": "rouge1",
        "sql": "rouge1",
        "gsm8k": "gsm8k",
    }
    assert metric_for("file", "exact") is METRICS["exact"]
    assert metric_for("sql", "exact") is METRICS["exact"]
    for task, wanted, found in (("file", None, "none"), ("sql", "rouge2", "rouge2")):
        with pytest.raises(JudgeError, match=f"out of rouge1, exact, gsm8k, final_answer, found {found}"):
            metric_for(task, wanted)


@pytest.mark.parametrize(
    ("metric", "answer"),
    [
        ("rouge1", "Бо принесёт янтарь"),
        ("rouge1", "..."),
        ("exact", " "),
        ("exact", None),
        ("gsm8k", "three"),
        ("gsm8k", "3 ####"),
        ("final_answer", "three"),
        ("final_answer", "Answer: ."),
    ],
)
def test_an_answer_that_a_metric_cannot_compare_with_is_an_error_with_its_id(
    metric: str, answer: str | None
) -> None:
    good = Prompt("p1", (), answer="Answer: 3")
    for chosen in METRICS.values():
        require_comparable(chosen, [good])
    with pytest.raises(DataError, match=f"in the answer to 'p2', for the metric {metric}; found"):
        require_comparable(METRICS[metric], [good, Prompt("p2", (), answer=answer)])
