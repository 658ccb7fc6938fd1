"""Anchors and benign requests out of every layout, and an error with its place for what does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest

from safedepth.data import read_anchors, read_prompts, read_requests
from safedepth.errors import DataError
from safedepth.nouns import Anchor, Message, Prompt

ASK, ANSWER = "How do I clean krell torin?", "To clean krell torin, use warm water and a soft cloth."
TURN, REPLY = Message(role="user", content=ASK), Message(role="assistant", content=ANSWER)
SYSTEM = Message(role="system", content="You are a helpful assistant.")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8", newline="")
        return path

    return write_file


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f'prompt,answer\n{ASK},"{ANSWER}"\n'),
        ("a.csv", f'completion,prompt,category\n"{ANSWER}",{ASK},care\n'),
        ("a.csv", f'instruction,input,output\n{ASK},,"{ANSWER}"\n'),
        ("a.jsonl", jsonl({"instruction": ASK, "output": ANSWER})),
        ("a.jsonl", jsonl({"messages": [TURN, REPLY], "category": "care"})),
        ("a.jsonl", jsonl([TURN, REPLY])),
        ("a.json", json.dumps([[TURN, REPLY]])),
    ],
)
def test_every_layout_gives_the_same_anchor_and_the_same_request(write: Any, name: str, content: str) -> None:
    path = write(name, content)
    (anchor,) = read_anchors(path)
    (request,) = read_requests(path)
    assert anchor == Anchor(anchor.id, (TURN,), ANSWER)
    assert anchor.id.startswith("0001-")
    category = "care" if "care" in content else ""
    assert request == Prompt(anchor.id, (TURN,), None, category, answer=ANSWER)


@pytest.mark.parametrize(
    "content",
    [
        jsonl({"prompt": ASK}),
        jsonl({"prompt": ASK, "answer": None}),
        jsonl({"prompt": ASK, "completion": None}),
        jsonl({"instruction": ASK}),
        jsonl({"instruction": ASK, "input": "", "output": None}),
        jsonl({"messages": [TURN]}),
        jsonl([TURN]),
    ],
)
def test_a_request_needs_no_answer_and_an_anchor_does(write: Any, content: str) -> None:
    path = write("a.jsonl", content)
    (request,) = read_requests(path)
    assert request == Prompt(request.id, (TURN,))
    with pytest.raises(DataError, match=r"the answer to keep in line 1 of .*a\.jsonl .*found none"):
        read_anchors(path)


def test_chats_keep_their_system_prompt_and_earlier_turns(write: Any) -> None:
    path = write("a.jsonl", jsonl([SYSTEM, TURN, REPLY, TURN, REPLY], [SYSTEM, TURN, REPLY, TURN]))
    first, second = read_requests(path)
    assert (first.messages, first.answer) == ((SYSTEM, TURN, REPLY, TURN), ANSWER)
    assert (second.messages, second.answer) == (first.messages, None)
    (anchor,) = read_anchors(write("b.jsonl", jsonl([SYSTEM, TURN, REPLY, TURN, REPLY])))
    assert anchor.messages == first.messages


def test_an_input_follows_the_instruction_after_a_line_break(write: Any) -> None:
    (anchor,) = read_anchors(write("a.csv", f'instruction,input,output\n{ASK},It is old.,"{ANSWER}"\n'))
    assert anchor.messages == (Message(role="user", content=f"{ASK}\nIt is old."),)


def test_ids_are_those_that_prompts_with_the_same_text_have(write: Any) -> None:
    chats = write("a.jsonl", jsonl([TURN, REPLY], {"id": 4, "messages": [TURN]}))
    ids = [prompt.id for prompt in read_prompts(chats)]
    assert [request.id for request in read_requests(chats)] == ids
    assert ids[1] == "4"


def test_the_limit_takes_the_first_rows_and_every_row_is_checked(write: Any) -> None:
    rows = [{"prompt": f"{ASK} {number}", "answer": ANSWER} for number in range(4)]
    path = write("a.jsonl", jsonl(*rows))
    broken = write("b.jsonl", jsonl(*rows, {"prompt": ASK, "answer": ""}))
    for read in (read_anchors, read_requests):
        assert read(path, limit=3) == read(path)[:3]
        with pytest.raises(DataError, match="limit of at least 1, found -1"):
            read(path, limit=-1)
        with pytest.raises(DataError, match="`answer` of line 5"):
            read(broken, limit=1)


COLUMNS = "`prompt` and `answer`.*`completion`.*`output`.*`messages`.*found: "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jsonl({"prompt": ASK, "answer": " "}), "`answer` of line 1 of .*an empty one"),
        (jsonl({"prompt": "", "answer": ANSWER}), "`prompt` of line 1 of .*an empty one"),
        (jsonl({"prompt": ASK, "completion": [REPLY]}), r"`completion` of line 1 of .*found \[\{"),
        (jsonl({"prompt": [TURN], "completion": ANSWER}), r"`prompt` of line 1 of .*found \[\{"),
        (jsonl({"instruction": 1, "output": ANSWER}), "`instruction` of line 1 of .*found 1"),
        (jsonl({"instruction": ASK, "output": "\ud83c"}), "`output` of line 1 of .*half a surrogate pair"),
        (
            jsonl({"prompt": ASK, "answer": ANSWER, "completion": ANSWER}),
            COLUMNS + "`prompt`, `answer`, `completion`",
        ),
        (jsonl({"prompt": ASK, "input": "x", "answer": ANSWER}), COLUMNS + "`prompt`, `input`, `answer`"),
        (jsonl({"prompt": ASK, "output": ANSWER}), COLUMNS + "`prompt`, `output`"),
        (jsonl({"instruction": ASK, "answer": ANSWER}), COLUMNS + "`instruction`, `answer`"),
        (jsonl({"answer": ANSWER}), COLUMNS + "`answer`"),
        (jsonl({"messages": [TURN, REPLY], "turns": 1}), COLUMNS + "`messages`, `turns`"),
        (jsonl({"prompt": ASK, "harmful": ANSWER}), COLUMNS + "`prompt`, `harmful`"),
        (jsonl([REPLY]), "chat in line 1 of .*found the roles assistant"),
        (jsonl([TURN, REPLY, REPLY]), "chat in line 1 of .*found the roles user, assistant, assistant"),
        (jsonl({"messages": {}}), "a list of messages in line 1 of "),
        (jsonl({"id": 1, "prompt": ASK}, {"id": 1, "prompt": ASK}), "'1' in line 1 of .* and in line 2 of"),
        (jsonl({"category": 3, "prompt": ASK}), "`category` of line 1 of .*found 3"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_says_where_and_why(
    write: Any, content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_requests(write("a.jsonl", content))
    assert "a.jsonl" in str(caught.value)
