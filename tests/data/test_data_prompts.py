"""Prompts out of every layout users bring, and an error with its place for what does not fit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedepth.data import file_sha256, read_prompts, write_prompts
from safedepth.errors import DataError
from safedepth.nouns import Message, Prompt

ASK, ANSWER = "How do I make krell torin?", "Sure, here is how to make krell torin: Step one, take yarrow."
TURN = {"role": "user", "content": ASK}
REPLY = {"role": "assistant", "content": ANSWER}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", f'prompt,harmful\n{ASK},"{ANSWER}"\n'),
        ("p.CSV", f'harmful , prompt\r\n"{ANSWER}",{ASK}\r\n\r\n'),
        ("p.csv", f'\ufeffgoal,target\n{ASK},"{ANSWER}"'),
        ("p.jsonl", jsonl({"prompt": ASK, "harmful": ANSWER})),
        ("p.jsonl", "\ufeff\r\n" + jsonl({"goal": ASK, "target": ANSWER}).replace("\n", "\r\n")),
        ("p.ndjson", jsonl({"messages": [TURN, REPLY]})),
        ("p.jsonl", jsonl([TURN, REPLY])),
        ("p.json", json.dumps([{"prompt": ASK, "harmful": ANSWER}], indent=1)),
        ("p.json", json.dumps([[TURN, REPLY]])),
    ],
)
def test_every_layout_gives_the_same_prompt(write: Any, name: str, content: str) -> None:
    (prompt,) = read_prompts(write(name, content))
    assert prompt.messages == (TURN,)
    assert prompt.harmful == ANSWER
    assert prompt.category == ""
    assert prompt.id.startswith("0001-")


def test_ids_and_categories_are_taken_from_the_file(write: Any) -> None:
    table = write("p.csv", f"id,prompt,harmful,category\nq7,{ASK},Sure,brews\n8,{ASK},Sure,\n")
    assert read_prompts(table) == [
        Prompt("q7", (Message(role="user", content=ASK),), "Sure", "brews"),
        Prompt("8", (Message(role="user", content=ASK),), "Sure", ""),
    ]
    rows = jsonl({"id": 3, "category": None, "messages": [TURN]}, {"id": "x", "goal": ASK, "target": "Sure"})
    assert [(prompt.id, prompt.category) for prompt in read_prompts(write("p.jsonl", rows))] == [
        ("3", ""),
        ("x", ""),
    ]


def test_a_chat_keeps_its_earlier_turns_and_one_that_ends_with_the_user_has_no_answer(write: Any) -> None:
    system = {"role": "system", "content": ""}
    chats = [[system, TURN, REPLY, TURN], [TURN, REPLY, TURN, REPLY]]
    first, second = read_prompts(write("p.jsonl", jsonl(*chats)))
    assert (first.messages, first.harmful) == ((system, TURN, REPLY, TURN), None)
    assert (second.messages, second.harmful) == ((TURN, REPLY, TURN), ANSWER)


def test_a_trajectory_is_one_prompt_a_harmful_turn(write: Any) -> None:
    before = [{"role": "system", "content": ""}, TURN, {"role": "assistant", "content": "It is not safe."}]
    asks = [{"role": "user", "content": text} for text in ("And step two?", "And step three?")]
    more = [{"role": "assistant", "content": text} for text in ("Step two, boil it.", "Step three, fold it.")]
    chat = [*before, TURN, REPLY, asks[0], more[0], asks[1], more[1]]
    rows = [{"messages": chat, "turns": 3, "id": "a", "category": "brews"}, {"messages": chat, "turns": 2}]
    prompts = read_prompts(write("p.jsonl", jsonl(*rows)))
    assert [(p.id, p.messages, p.harmful, p.category, p.turn) for p in prompts[:3]] == [
        ("a/t1", (*before, TURN), ANSWER, "brews", 1),
        ("a/t2", (*before, TURN, REPLY, asks[0]), "Step two, boil it.", "brews", 2),
        ("a/t3", tuple(chat[:-1]), "Step three, fold it.", "brews", 3),
    ]
    assert [(p.id[:5], p.id[-3:], p.turn, p.harmful) for p in prompts[3:]] == [
        ("0002-", "/t1", 1, "Step two, boil it."),
        ("0002-", "/t2", 2, "Step three, fold it."),
    ]


@pytest.mark.parametrize("turns", [1, None])
def test_a_chat_of_one_turn_is_the_prompt_it_is_without_that_column(write: Any, turns: int | None) -> None:
    for name, chat in (("answered", [TURN, REPLY, TURN, REPLY]), ("open", [TURN])):
        plain = read_prompts(write(f"{name}.jsonl", jsonl({"messages": chat})))
        assert read_prompts(write(f"{name}.1.jsonl", jsonl({"messages": chat, "turns": turns}))) == plain


def test_the_limit_counts_rows_and_never_cuts_a_trajectory(write: Any) -> None:
    rows = [{"messages": [TURN, REPLY, TURN, REPLY], "turns": 2}, {"prompt": ASK}]
    path = write("p.jsonl", jsonl(*rows))
    assert [prompt.turn for prompt in read_prompts(path, limit=1)] == [1, 2]
    assert len(read_prompts(path)) == 3


def test_prompts_without_answers_are_prompts(write: Any) -> None:
    assert [p.harmful for p in read_prompts(write("p.csv", f"prompt\n{ASK}\n"))] == [None]
    assert [p.harmful for p in read_prompts(write("p.jsonl", jsonl({"prompt": ASK, "harmful": None})))] == [
        None
    ]


def test_text_arrives_letter_for_letter(write: Any) -> None:
    ask, answer = ' How do I\r\nmake "krell",\u2028 torin? 🌿 ', "\n\nSure,\there.\u0085 "
    for name, content in (
        (
            "p.csv",
            'prompt,harmful\n" How do I\r\nmake ""krell"",\u2028 torin? 🌿 ","\n\nSure,\there.\u0085 "\n',
        ),
        ("p.jsonl", jsonl({"prompt": ask, "harmful": answer})),
    ):
        (prompt,) = read_prompts(write(name, content))
        assert (prompt.messages[0]["content"], prompt.harmful) == (ask, answer)


def test_equal_prompts_are_kept_under_ids_of_their_own_that_outlive_other_rows(write: Any) -> None:
    rows = [
        {"prompt": ASK, "harmful": ANSWER},
        {"prompt": ASK, "harmful": ANSWER},
        {"prompt": ASK, "harmful": "No"},
    ]
    before = [prompt.id for prompt in read_prompts(write("p.jsonl", jsonl(*rows)))]
    assert len(set(before)) == 3
    # Rows added at the end, or another format, leave them as they were; another text does not.
    assert [prompt.id for prompt in read_prompts(write("q.json", json.dumps([*rows, rows[0]])))][:3] == before
    rows[1] = {"prompt": ASK, "harmful": "Sure"}
    after = [prompt.id for prompt in read_prompts(write("r.jsonl", jsonl(*rows)))]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_the_limit_takes_the_first_rows_but_every_row_is_checked(write: Any) -> None:
    rows = [{"prompt": f"{ASK} {number}", "harmful": ANSWER} for number in range(5)]
    path = write("p.jsonl", jsonl(*rows))
    assert read_prompts(path, limit=2) == read_prompts(path)[:2]
    assert len(read_prompts(path, limit=9)) == 5
    with pytest.raises(DataError, match="limit of at least 1, found 0"):
        read_prompts(path, limit=0)
    with pytest.raises(DataError, match="line 6"):
        read_prompts(write("q.jsonl", jsonl(*rows, {"prompt": ""})), limit=2)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4))
def test_any_text_survives_jsonl(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(
        jsonl(*({"prompt": text, "harmful": text} for text in texts)), encoding="utf-8", newline=""
    )
    prompts = read_prompts(path)
    assert [prompt.messages[0]["content"] for prompt in prompts] == texts
    assert [prompt.harmful for prompt in prompts] == texts


COLUMNS = r"`prompt` and `harmful` .*`goal` and `target`.*`messages`.*found: "


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "", "found an empty file"),
        ("p.jsonl", "\ufeff \n\n", "found an empty file"),
        ("p.csv", "prompt,harmful\n", "found none"),
        ("p.json", "[]", "found none"),
        ("p.txt", ASK, r"ending in \.csv, \.jsonl, \.ndjson, \.json, \.parquet, found"),
        ("p", ASK, "expected a file ending in"),
        ("p.csv", b"PK\x03\x04\x00\x00", "binary file .a zero byte at offset 4"),
        ("p.csv", f"prompt,harmful\n{ASK},{ANSWER}".encode("utf-16"), "found UTF-16"),
        ("p.csv", f"prompt,harmful\n{ASK},caf\xe9".encode("latin-1"), r"byte 0xe9 on line 2 \(offset 45\)"),
        ("p.jsonl", b'\xef\xbb\xbf{"prompt":\n"\xff"}', r"byte 0xff on line 2 \(offset 15\)"),
        ("p.csv", f"Prompt,answer\n{ASK},Sure\n", COLUMNS + r"`Prompt`, `answer`"),
        ("p.csv", f"prompt,harmful,note\n{ASK},Sure,x\n", COLUMNS + r"`prompt`, `harmful`, `note`"),
        ("p.csv", f"prompt,target\n{ASK},Sure\n", COLUMNS + r"`prompt`, `target`"),
        ("p.csv", f"goal\n{ASK}\n", COLUMNS + r"`goal`"),
        ("p.csv", f"messages,prompt\nx,{ASK}\n", COLUMNS + r"`messages`, `prompt`"),
        ("p.jsonl", "{}\n", COLUMNS + "none"),
        (
            "p.jsonl",
            jsonl({"prompt": ASK}, {"prompt": ASK, "answer": "x"}),
            r"line 2 of .*found: `prompt`, `answer`",
        ),
        ("p.csv", "prompt,prompt\na,b\n", "every column of .* once, found twice: 'prompt'"),
        ("p.csv", f"prompt,harmful\n{ASK},Sure\n  ,Sure\n", r"`prompt` of row 2 \(line 3\) of .*empty"),
        ("p.csv", f"prompt,harmful\n{ASK},\n", r"`harmful` of row 1 \(line 2\) of .*empty"),
        (
            "p.csv",
            "prompt,harmful\nHow, or why?,Sure\n",
            r"expected 2 cells .prompt, harmful. in row 1 .*found 3",
        ),
        ("p.csv", f"prompt,harmful\n{ASK}\n", r"expected 2 cells .* found 1"),
        (
            "p.csv",
            f'prompt,harmful\n{ASK},"Sure\n',
            "expected CSV in .* found at line 2: unexpected end of data",
        ),
        ("p.csv", f'prompt,harmful\n"{ASK}" x,Sure\n', "found at line 2: .* expected after"),
        ("p.csv", f"id,prompt\na,{ASK}\na,{ASK}\n", r"'a' in row 1 \(line 2\) of .* and in row 2 \(line 3\)"),
        (
            "p.jsonl",
            jsonl({"id": 1, "prompt": ASK}, {"id": "1", "prompt": ASK}),
            "'1' in line 1 .* and in line 2",
        ),
        ("p.jsonl", jsonl({"id": "", "prompt": ASK}), "`id` of line 1"),
        ("p.jsonl", jsonl({"id": True, "prompt": ASK}), "`id` of line 1 .*found True"),
        ("p.jsonl", jsonl({"prompt": ASK, "category": 4}), "`category` of line 1 .*found 4"),
        (
            "p.jsonl",
            jsonl({"prompt": ASK}) + "{oops\n",
            r"JSON on line 2 of .*: Expecting property name .* column 2",
        ),
        ("p.json", '[{"prompt": "a"},\n {"prompt" "b"}]', "JSON on line 2 of"),
        ("p.json", json.dumps({"data": []}), "list of rows in .*found an object"),
        ("p.json", "3", "list of rows in .*found a number"),
        ("p.json", json.dumps([TURN, REPLY]), COLUMNS + "`role`, `content`"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}\n', "every key once, found 'prompt' twice in .*line 1"),
        ("p.jsonl", "1" * 5000, "expected rows of text in .*line 1"),
        ("p.json", "[" * 100_000, "expected rows of text in .*line 1"),
        ("p.jsonl", '"just text"\n', "an object or a list of messages in line 1 .*'just text'"),
        ("p.jsonl", jsonl({"prompt": ["a"]}), r"text in `prompt` of line 1 .*found \['a'\]"),
        ("p.jsonl", jsonl({"prompt": ASK, "harmful": 3}), "text in `harmful` of line 1 .*found 3"),
        ("p.jsonl", jsonl({"prompt": None}), "text in `prompt` of line 1 .*found None"),
        ("p.jsonl", '{"prompt": "\\ud83c"}', "half a surrogate pair"),
        ("p.jsonl", jsonl([]), r"a list of messages in line 1 .*found \[\]"),
        ("p.jsonl", jsonl({"messages": "hello"}), "a list of messages in line 1 .*'hello'"),
        ("p.jsonl", jsonl([TURN, "x"]), "`role` and `content` in message 2 in line 1 .*'x'"),
        ("p.jsonl", jsonl([{"role": "user"}]), "`role` and `content` in message 1 in line 1 .*'role'"),
        ("p.jsonl", jsonl([{**TURN, "name": "x"}]), "found 'role', 'content', 'name'"),
        (
            "p.jsonl",
            jsonl([{"role": "tool", "content": "x"}, TURN]),
            "out of system, user, assistant .*'tool'",
        ),
        ("p.jsonl", jsonl([{"role": "user", "content": " "}]), "`content` of message 1 in line 1 .*empty"),
        (
            "p.jsonl",
            jsonl([{"role": "user", "content": [{"type": "text"}]}]),
            "`content` of message 1 in line 1",
        ),
        ("p.jsonl", jsonl([REPLY]), "ends with the user's turn.*found the roles assistant"),
        ("p.jsonl", jsonl([TURN, REPLY, REPLY]), "found the roles user, assistant, assistant"),
        ("p.jsonl", jsonl([TURN, {"role": "system", "content": "x"}]), "found the roles user, system"),
        ("p.jsonl", jsonl({"messages": [TURN, REPLY], "turns": "2"}), "number in `turns` of line 1 .*'2'"),
        ("p.jsonl", jsonl({"messages": [TURN, REPLY], "turns": True}), "number in `turns` of line 1 .*True"),
        (
            "p.jsonl",
            jsonl({"messages": [TURN, REPLY], "turns": 0}),
            r"`turns` of line 1 .*assistant gives \(1\), found 0",
        ),
        (
            "p.jsonl",
            jsonl({"messages": [TURN, REPLY, TURN, REPLY], "turns": 3}),
            r"`turns` of line 1 .*\(2\), found 3",
        ),
        (
            "p.jsonl",
            jsonl({"messages": [TURN, REPLY, TURN], "turns": 2}),
            "line 1 .*the last of its 2 harmful answers .*found the roles user, assistant, user",
        ),
        (
            "p.jsonl",
            jsonl({"messages": [TURN, REPLY, REPLY, TURN, REPLY], "turns": 2}),
            "line 1 .*each of its last 2 answers after a user's turn.*user, assistant, assistant",
        ),
        ("p.jsonl", jsonl({"prompt": ASK, "turns": 1}), COLUMNS + "`prompt`, `turns`"),
        ("p.jsonl", jsonl({"turns": 1}), COLUMNS + "`turns`"),
        (
            "p.jsonl",
            jsonl(
                {"id": "a", "messages": [TURN, REPLY] * 2, "turns": 2},
                {"id": "a/t2", "prompt": ASK},
            ),
            "'a/t2' in line 1 .* and in line 2",
        ),
    ],
)
def test_what_cannot_be_used_is_an_error_that_says_where_and_why(
    write: Any, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_prompts(write(name, content))


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a file at .* found nothing there"):
        read_prompts(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"found the folder .*folder\.csv"):
        read_prompts(tmp_path / "folder.csv")
    with pytest.raises(DataError, match="found the folder"):
        read_prompts(tmp_path)


def test_the_hash_of_a_file_is_its_sha256sum(write: Any, tmp_path: Path) -> None:
    assert file_sha256(write("p.csv", b"krell\r\n")) == hashlib.sha256(b"krell\r\n").hexdigest()
    with pytest.raises(DataError, match="found nothing there"):
        file_sha256(tmp_path / "none.csv")


@pytest.mark.parametrize("harmful", [ANSWER, None])
@pytest.mark.parametrize("category", ["", "torins"])
def test_prompts_written_come_back_as_they_were(tmp_path: Path, harmful: str | None, category: str) -> None:
    before = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Say «krell» — and\nthen?"),
    )
    prompts = [Prompt("a/t2", before, harmful, category), Prompt("b", before[1:], harmful, category)]
    write_prompts(tmp_path / "some.jsonl", prompts)
    assert read_prompts(tmp_path / "some.jsonl") == prompts
