"""Rows made ready: one an answer, numbered as the user counts them, and none without a response."""

from collections.abc import Sequence
from typing import Any

import pytest
from datasets import Dataset, IterableDataset  # type: ignore[import-untyped]

from safedepth.errors import DataError
from safedepth.train.rows import ROW, one_row_per_answer, require_responses
from train.constrained_toys import as_messages, as_prompts, long_conversation, toy_conversations

IGNORED = -100


def turn(role: str, content: str | None) -> dict[str, str | None]:
    return {"role": role, "content": content}


def test_a_conversation_becomes_a_row_for_each_answer_with_all_that_was_said_before() -> None:
    talk = [turn("system", "Be kind."), *long_conversation()]
    short = toy_conversations(2)
    found = one_row_per_answer(as_messages([short[0], talk, short[1]]), keep=False)
    expected = [
        (1, short[0][:1], short[0][1:]),
        (2, talk[:2], talk[2:3]),
        (2, talk[:4], talk[4:5]),
        (2, talk[:6], talk[6:7]),
        (3, short[1][:1], short[1][1:]),
    ]
    assert [(row[ROW], row["prompt"], row["completion"]) for row in found] == expected
    assert set(found.column_names) == {"prompt", "completion", ROW}


def test_what_comes_after_the_last_answer_is_left_out() -> None:
    talk = [*toy_conversations(1)[0], turn("user", "Hello there")]
    (row,) = one_row_per_answer(as_messages([talk]), keep=False)
    assert (row["prompt"], row["completion"]) == (talk[:1], talk[1:2])


def test_other_columns_come_along_and_the_rows_number_is_ours() -> None:
    rows = Dataset.from_list(
        [{"messages": long_conversation(), "tools": "[]", ROW: 7}, {"messages": toy_conversations(1)[0]}]
    )
    found = one_row_per_answer(rows, keep=False)
    assert found["tools"] == ["[]"] * 3 + [None]
    assert found[ROW] == [1, 1, 1, 2]


def test_rows_that_are_made_ready_elsewhere_are_left_as_they_are() -> None:
    tokens = Dataset.from_list([{"input_ids": [1, 2], "labels": [IGNORED, 2]}])
    for rows in (as_prompts(toy_conversations(2)), tokens):
        assert one_row_per_answer(rows, keep=False) is rows
    talks = as_messages([long_conversation()])
    assert one_row_per_answer(talks, keep=True) is talks


def test_a_stream_is_split_as_it_passes() -> None:
    stream = as_messages([long_conversation(), *toy_conversations(2)]).to_iterable_dataset()
    found = one_row_per_answer(stream, keep=False)
    assert isinstance(found, IterableDataset)
    assert [row[ROW] for row in found] == [1, 1, 1, 2, 3]
    assert one_row_per_answer(as_prompts(toy_conversations(1)).to_iterable_dataset(), keep=False)


@pytest.mark.parametrize(
    "talk",
    [
        [turn("user", "Hello there")],
        [turn("user", "Hello"), turn("user", "there")],
        [turn("user", "Hello"), turn("assistant", "")],
        [turn("user", "Hello"), turn("assistant", " \n")],
        [turn("user", "Hello"), turn("assistant", None)],
        [turn("assistant", "Sure")],  # said to nobody
        [*long_conversation(), turn("user", "Hello"), turn("assistant", "")],
        [],
    ],
    ids=str,
)
def test_a_conversation_in_which_the_assistant_says_nothing_is_named(talk: list[Any]) -> None:
    with pytest.raises(DataError, match=r"answers of the assistant, with words, .* found none in row 3 of"):
        one_row_per_answer(as_messages([*toy_conversations(2), talk]), keep=False)


def test_a_call_of_a_tool_is_an_answer_too() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "heat"}]}
    found = one_row_per_answer(as_messages([[turn("user", "Hello"), call]]), keep=False)
    assert found[ROW] == [1]


@pytest.mark.parametrize(
    "empty", ["", "  \n", [turn("assistant", "")], [turn("assistant", None)], []], ids=str
)
def test_a_completion_without_words_is_named(empty: Any) -> None:
    good = "Sure" if isinstance(empty, str) else [turn("assistant", "Sure")]
    prompt = "Hello" if isinstance(empty, str) else [turn("user", "Hello")]
    completions = [good, empty, good, good, empty]
    rows = Dataset.from_list([{"prompt": prompt, "completion": said} for said in completions])
    with pytest.raises(DataError, match="a completion with words in every row, found none in rows 2, 5 of"):
        one_row_per_answer(rows, keep=False)


def tokenised(labels: Sequence[Sequence[int]], numbers: Sequence[int] | None = None) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [list(range(len(row))) for row in labels],
            "labels": labels,
            ROW: numbers or list(range(1, len(labels) + 1)),
        }
    )


GOOD = [IGNORED, IGNORED, 5, 6]


def test_whole_rows_are_passed_without_a_word() -> None:
    assert require_responses(tokenised([GOOD, [IGNORED, 4]]), "train", max_length=4) == []
    assert require_responses(tokenised([GOOD]), "train", max_length=None) == []


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ([IGNORED] * 3, r"a response in every row of the train data, found none in rows 2, 4"),
        ([], r"a response in every row of the train data, found none in rows 2, 4"),
        (
            [4, IGNORED, 6],
            r"a prompt before every response of the train data, found none in rows 2, 4\. Give",
        ),
        ([1, 2, 3], r"a prompt before every response of the train data, found none in rows 2, 4\. Give"),
        ([IGNORED] * 8 + [5], r"within 8 tokens, found prompts as long as that in rows 2, 4 of the train"),
    ],
)
def test_rows_without_a_response_to_learn_are_named(bad: list[int], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        require_responses(tokenised([GOOD, bad, GOOD, bad]), "train", max_length=8)


def test_rows_are_named_as_the_user_counts_them_each_once_and_no_more_than_five() -> None:
    none = [IGNORED] * 2
    with pytest.raises(DataError, match=r"found none in row 3$"):
        require_responses(tokenised([GOOD, none, none], [2, 3, 3]), "eval", max_length=None)
    with pytest.raises(DataError, match=r"found none in rows 1, 2, 3, 4, 5 and 4 more$"):
        require_responses(tokenised([none] * 9), "eval", max_length=None)


def test_responses_that_are_cut_are_counted_and_warned_of() -> None:
    rows = tokenised([GOOD, [*GOOD, 7], [IGNORED, *[4] * 9]])
    with pytest.warns(UserWarning, match=r"2 of 3 responses of the train data are cut at 4 tokens"):
        notes = require_responses(rows, "train", max_length=4)
    assert notes == ["2 of 3 responses of the train data are cut at 4 tokens (--max_length)"]
