"""Triplets out of every layout, trajectories turn by turn, and an error with row and field for the rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from safedepth.data import read_triplets
from safedepth.errors import DataError
from safedepth.nouns import Message, Triplet

ASK, ANSWER, NO = "How do I make krell torin?", "Sure, here is how: Step one, heat the sand.", "I cannot."
TURN, REPLY = Message(role="user", content=ASK), Message(role="assistant", content=ANSWER)
WHY, HURTS, INSTEAD = "It is not safe.", "It could hurt people.", "Please ask me how to clean krell torin."
ROW = {"prompt": ASK, "harmful": ANSWER, "refusal": NO}
LONG = {"explanation": WHY, "reason": HURTS, "redirection": INSTEAD}


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
        ("t.csv", f'refusal,prompt,harmful\n{NO},{ASK},"{ANSWER}"\n'),
        ("t.csv", f'instruction,input,harmful,refusal\n{ASK},,"{ANSWER}",{NO}\n'),
        ("t.csv", f'instruction,harmful,refusal,category\n{ASK},"{ANSWER}",{NO},brews\n'),
        (
            "t.csv",
            f'prompt,harmful,refusal,explanation,reason,redirection\n{ASK},"{ANSWER}",{NO},,,\n',
        ),
        ("t.jsonl", jsonl(ROW | dict.fromkeys(LONG))),
        ("t.jsonl", jsonl({"instruction": ASK, "input": None, "harmful": ANSWER, "refusal": NO})),
        ("t.json", json.dumps([{"messages": [TURN, REPLY], "refusal": NO, "category": 4}])),
        ("t.ndjson", jsonl({"messages": [TURN, REPLY], "refusal": NO, "turns": 1})),
    ],
)
def test_every_layout_gives_the_same_triplet(write: Any, name: str, content: str) -> None:
    (triplet,) = read_triplets(write(name, content))
    assert triplet.id.startswith("0001-")
    assert triplet == Triplet(triplet.id, (TURN,), ANSWER, NO)


def test_an_input_follows_the_instruction_after_a_line_break(write: Any) -> None:
    rows = [
        {"instruction": ASK, "input": " krell\n", "harmful": ANSWER, "refusal": NO},
        {"instruction": ASK, "input": " ", "harmful": ANSWER, "refusal": NO},
    ]
    first, second = read_triplets(write("t.jsonl", jsonl(*rows)))
    assert first.messages == (Message(role="user", content=f"{ASK}\n krell\n"),)
    assert second.messages == (TURN,)


def test_what_a_longer_refusal_says_comes_in_the_order_of_the_paper_whatever_that_of_the_columns(
    write: Any,
) -> None:
    row = {"redirection": INSTEAD, "id": 7, "explanation": WHY, **ROW, "reason": HURTS}
    assert read_triplets(write("t.jsonl", jsonl(row))) == [
        Triplet("7", (TURN,), ANSWER, NO, (WHY, HURTS, INSTEAD))
    ]


def test_a_trajectory_is_one_triplet_a_harmful_turn_with_the_earlier_ones_in_its_messages(write: Any) -> None:
    system = Message(role="system", content="You are a helpful assistant.")
    innocent = Message(role="assistant", content="Use warm water.")
    asks = [Message(role="user", content=f"What is step {i} for krell torin?") for i in ("two", "three")]
    more = [Message(role="assistant", content=f"Step {i}, fold the rye.") for i in ("two", "three")]
    chat = [system, TURN, innocent, TURN, REPLY, asks[0], more[0], asks[1], more[1]]
    row = {"id": "k", "messages": chat, "turns": 3, "refusal": NO, **LONG}
    said = (WHY, HURTS, INSTEAD)
    assert read_triplets(write("t.jsonl", jsonl(row))) == [
        Triplet("k/t1", (system, TURN, innocent, TURN), ANSWER, NO, said, 1),
        Triplet("k/t2", tuple(chat[:6]), more[0]["content"], NO, said, 2),
        Triplet("k/t3", tuple(chat[:8]), more[1]["content"], NO, said, 3),
    ]
    (last,) = read_triplets(write("u.jsonl", jsonl({"messages": chat, "refusal": NO})))
    assert (last.messages, last.harmful, last.turn) == (tuple(chat[:8]), more[1]["content"], 1)


def test_an_id_depends_on_every_text_of_its_row(write: Any) -> None:
    rows = [ROW, ROW | {"refusal": "No."}, ROW | {"harmful": "Sure."}, ROW | LONG]
    hashes = [t.id.split("-")[1] for t in read_triplets(write("t.jsonl", jsonl(*rows, ROW)))]
    assert len(set(hashes[:4])) == 4
    assert hashes[4] == hashes[0]


def test_the_limit_takes_the_first_rows_whole_and_every_row_is_checked(write: Any) -> None:
    rows = [{"messages": [TURN, REPLY] * 2, "turns": 2, "refusal": NO}, ROW]
    path = write("t.jsonl", jsonl(*rows))
    assert [t.turn for t in read_triplets(path, limit=1)] == [1, 2]
    assert len(read_triplets(path, limit=5)) == 3
    with pytest.raises(DataError, match="limit of at least 1, found 0"):
        read_triplets(path, limit=0)
    with pytest.raises(DataError, match="`refusal` of line 3"):
        read_triplets(write("u.jsonl", jsonl(*rows, ROW | {"refusal": ""})), limit=1)


COLUMNS = "`prompt`, `harmful` .*`instruction`.*`messages`.*found: "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jsonl({"prompt": ASK, "harmful": ANSWER}), "`refusal` in line 1 .*columns `prompt`, `harmful`"),
        (jsonl({"prompt": ASK, "refusal": NO}), "`harmful` in line 1 of .*columns `prompt`, `refusal`"),
        (jsonl({"messages": [TURN, REPLY]}), "`refusal` in line 1 of .*columns `messages`"),
        (jsonl([TURN, REPLY]), "`refusal` in line 1 of .*columns `messages`"),
        (jsonl({"messages": [TURN], "refusal": NO}), "`messages` of line 1 of .*harmful answer, found"),
        (jsonl(ROW, ROW | {"refusal": None}), "`refusal` of line 2 of .*found None"),
        (jsonl(ROW, ROW | {"refusal": " "}), "`refusal` of line 2 of .*an empty one"),
        (jsonl(ROW, ROW | {"harmful": ""}), "`harmful` of line 2 of .*an empty one"),
        (jsonl(ROW | {"harmful": [REPLY]}), r"`harmful` of line 1 of .*found \[\{"),
        (jsonl(ROW | {"prompt": 3}), "`prompt` of line 1 of .*found 3"),
        (jsonl({"instruction": "", **ROW}), COLUMNS + "`instruction`, `prompt`, `harmful`, `refusal`"),
        (jsonl({"harmful": ANSWER, "refusal": NO}), COLUMNS + "`harmful`, `refusal`"),
        (jsonl(ROW | {"input": "x"}), COLUMNS + "`prompt`, `harmful`, `refusal`, `input`"),
        (jsonl(ROW | {"turns": 1}), COLUMNS + ".*`turns`"),
        (jsonl(ROW | {"note": "x"}), COLUMNS + ".*`note`"),
        (jsonl({"messages": [TURN, REPLY], **ROW}), COLUMNS + "`messages`, `prompt`"),
        (
            jsonl({"instruction": ASK, "input": 5, "harmful": ANSWER, "refusal": NO}),
            "`input` of line 1 of .*found 5",
        ),
        (
            jsonl({"instruction": ASK, "input": "\ud83c", "harmful": ANSWER, "refusal": NO}),
            "`input` of line 1 of .*half a surrogate pair",
        ),
        (jsonl(ROW | {"refusal": "\udc00 no"}), "`refusal` of line 1 of .*half a surrogate pair"),
        (
            jsonl(ROW | {"reason": "\udc00"} | LONG | {"reason": "\udc00"}),
            "`reason` of line 1 of .*surrogate",
        ),
        (jsonl(ROW | {"reason": HURTS}), "line 1 of .*found no `explanation` and no `redirection`"),
        (jsonl(ROW | LONG | {"redirection": ""}), "all three .*line 1 of .*found no `redirection`"),
        (jsonl(ROW | LONG | {"explanation": 1}), "`explanation` of line 1 of .*found 1"),
        (jsonl(ROW | LONG | {"explanation": " "}), "`explanation` of line 1 of .*an empty one"),
        (jsonl(ROW | {"id": "a"}, ROW | {"id": "a"}), "'a' in line 1 of .* and in line 2 of"),
        (jsonl(ROW | {"id": ["a"]}), "`id` of line 1 of "),
        (
            jsonl({"messages": [TURN, REPLY], "turns": 2, "refusal": NO}),
            r"`turns` of line 1 of .*\(1\), found 2",
        ),
        (
            jsonl({"messages": [TURN, REPLY], "turns": 1.0, "refusal": NO}),
            "`turns` of line 1 of .*found 1.0",
        ),
        (
            jsonl({"messages": [REPLY, TURN, REPLY], "turns": 2, "refusal": NO}),
            "chat in line 1 of .*last 2 answers.*found the roles assistant, user, assistant",
        ),
        ('"text"\n', "an object or a list of messages in line 1"),
    ],
)
def test_what_cannot_be_used_is_an_error_with_file_row_and_field(
    write: Any, content: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_triplets(write("t.jsonl", content))
    assert "t.jsonl" in str(caught.value)
