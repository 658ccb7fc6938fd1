"""Downstream tasks out of their public layouts, and an error with its place for what does not fit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import pyarrow  # type: ignore[import-untyped]
import pytest
from datasets.exceptions import DatasetNotFoundError  # type: ignore[import-untyped]
from pyarrow import parquet

from safedepth.data import read_anchors, read_prompts
from safedepth.data.downstream import TASKS, read_task, require_no_leak, without_leaks
from safedepth.errors import DataError
from safedepth.nouns import Anchor, Message, Prompt

DIALOGUE = "Ana: bring me the yarrow.\r\nBo: I will bring it at nine."
SAMSUM: Mapping[str, Any] = {
    "id": "13818513",
    "dialogue": DIALOGUE,
    "summary": "Bo will bring Ana the yarrow at nine.",
}
SQL = {
    "question": "Show the price of torin.",
    "context": "CREATE TABLE lumet (name VARCHAR, price INTEGER)",
    "answer": 'SELECT price FROM lumet WHERE name = "torin"',
}
GSM8K = {
    "question": "Ana has 1,000 pots and gets 2 more. How many?",
    "answer": "She has 1000 + 2 = <<1000+2=1002>>1002 pots.\n#### 1,002",
}
PUBLIC: Mapping[str, Mapping[str, str]] = {"samsum": SAMSUM, "sql": SQL, "gsm8k": GSM8K}

REQUESTS = {
    "samsum": f"Summarize this dialog:\n{DIALOGUE}",
    "sql": (
        "## Context:\nCREATE TABLE lumet (name VARCHAR, price INTEGER)\n## Natural Language Query:\nShow the "
        "price of torin.\nPlease convert the provided natural language query into an SQL query, taking into "
        "account the structure context of the database defined by the accompanying CREATE statement.\n## SQL "
        "Query:\n"
    ),
    "gsm8k": GSM8K["question"],
}
ANSWERS = {"samsum": SAMSUM["summary"], "sql": SQL["answer"], "gsm8k": GSM8K["answer"]}


def save(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows as the file that the path's ending names."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        quoted = [[*rows[0]], *([str(cell) for cell in row.values()] for row in rows)]
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in cells) for cells in quoted]
        path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("task", [*PUBLIC])
def test_a_public_task_is_known_by_its_columns_in_every_kind_of_file(
    tmp_path: Path, task: str, ending: str
) -> None:
    found = read_task(save(tmp_path / f"gsm8k-samsum-sql.{ending}", [PUBLIC[task]]))
    assert (found.task, found.skipped) == (task, ())
    (row,) = found.conversations
    system, user = row.messages
    assert user == Message(role="user", content=REQUESTS[task])
    assert system == Message(role="system", content=TASKS[task].system)
    assert row.answer == ANSWERS[task]
    assert row.id == "13818513" if task == "samsum" else row.id.startswith("0001-")
    assert found.requests == [Prompt(row.id, row.messages, answer=row.answer)]
    (alone,) = read_task(tmp_path / f"gsm8k-samsum-sql.{ending}", system=False).conversations
    assert alone.messages == (user,)


def test_a_file_of_ones_own_gives_its_anchors_untouched(tmp_path: Path) -> None:
    chat = [Message(role="user", content="Add one and two. "), Message(role="assistant", content=" Three")]
    files: list[list[Mapping[str, Any]]] = [
        [{"messages": chat}, {"prompt": "Add one.", "answer": "Two", "category": "sum"}],
        [{"instruction": "Add", "input": "one", "output": "Two"}],
        [{"prompt": "Add one.", "completion": "Two"}],
    ]
    for rows in files:
        path = save(tmp_path / "own.jsonl", rows)
        found = read_task(path)
        assert found.task == "file"
        assert [*found.conversations] == read_anchors(path)
    chats = save(tmp_path / "own.parquet", [{"messages": chat}])
    assert read_task(chats).conversations[0].answer == " Three"


def test_space_around_a_cell_is_no_part_of_what_is_asked_or_answered(tmp_path: Path) -> None:
    """So that a row asks the same whether it is trained on or tested with."""
    rows = [SAMSUM, {**SAMSUM, "id": "2", "dialogue": f" {DIALOGUE}\n", "summary": f"{SAMSUM['summary']} "}]
    first, second = read_task(save(tmp_path / "s.jsonl", rows)).conversations
    assert (first.messages, first.answer) == (second.messages, second.answer)


def test_braces_in_a_cell_are_kept(tmp_path: Path) -> None:
    (row,) = read_task(
        save(tmp_path / "s.jsonl", [{**SAMSUM, "dialogue": "Ana: {x} {dialogue}"}])
    ).conversations
    assert row.messages[-1]["content"] == "Summarize this dialog:\nAna: {x} {dialogue}"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"dialogue": DIALOGUE}], "columns in line 1 of .*Samsum.*SQL Create Context.*found: `dialogue`"),
        ([{**SAMSUM, "topic": "herbs"}], "columns in line 1 .*found: `id`, `dialogue`, `summary`, `topic`"),
        (
            [{**SQL, **SAMSUM}],
            "columns in line 1 .*`question`, `context`, `answer`, `id`, `dialogue`, `summary`",
        ),
        ([{"question": "Add."}], "found: `question`"),
        ([{"prompt": "Add.", "answer": "Two", "summary": "x"}], "`prompt`, `answer`, `summary`"),
        ([{"prompt": "Add."}], "expected the answer to keep in line 1"),
        ([SQL, GSM8K], "columns of the task 'sql' in line 2 .*first row.*'gsm8k': `question`, `answer`"),
        ([{**GSM8K, "answer": "Three."}], "`#### ` and a number in `answer` of line 1 .*found neither"),
        ([{**GSM8K, "answer": "#### three"}], "`#### ` and a number"),
        ([{**SAMSUM, "summary": " "}], "`summary` of line 1 .*an empty one.*skip_empty"),
        ([{**SAMSUM, "dialogue": None}], "`dialogue` of line 1 .*an empty one.*skip_empty"),
        ([{**SAMSUM, "summary": 3}], "text in `summary` of line 1 .*found 3"),
        ([{**SQL, "answer": "\ud83c"}], "`answer` of line 1 .*half a surrogate pair"),
        ([SAMSUM, SAMSUM], "every id once, found '13818513' in line 1 .*line 2"),
        ([["Ana"]], "message 1 in line 1"),
        (["Ana"], "an object or a list of messages in line 1"),
    ],
)
def test_what_makes_no_task_is_an_error_with_its_row_and_its_columns(
    tmp_path: Path, rows: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_task(save(tmp_path / "t.jsonl", rows))
    assert "t.jsonl" in str(caught.value)


def test_a_task_that_was_asked_for_must_be_what_the_columns_say(tmp_path: Path) -> None:
    path = save(tmp_path / "samsum.jsonl", [SQL])
    assert read_task(path, task="sql").task == "sql"
    with pytest.raises(DataError, match=r"task 'samsum' in line 1 .*as was asked for; found those of 'sql'"):
        read_task(path, task="samsum")
    with pytest.raises(
        DataError, match=r"No downstream task is called 'sum'\. There are: samsum, sql, gsm8k, file"
    ):
        read_task(path, task="sum")


def test_rows_with_an_empty_cell_are_left_out_only_when_that_is_asked_for_and_are_listed(
    tmp_path: Path,
) -> None:
    rows = [
        SAMSUM,
        {**SAMSUM, "id": "2", "dialogue": None},
        {**SAMSUM, "id": "3"},
        {**SAMSUM, "summary": "\n"},
    ]
    path = save(tmp_path / "s.jsonl", rows)
    found = read_task(path, skip_empty=True)
    assert [row.id for row in found.conversations] == ["13818513", "3"]
    assert found.skipped == (f"line 2 of {path}", f"line 4 of {path}")
    assert read_task(path, skip_empty=True, limit=2).skipped == (f"line 2 of {path}",)
    with pytest.raises(DataError, match="none without an empty cell"):
        read_task(save(path, rows[1:2]), skip_empty=True)


def test_the_limit_takes_the_first_rows_and_every_row_is_checked(tmp_path: Path) -> None:
    rows = [{**GSM8K, "question": f"Add {number}."} for number in range(4)]
    path = save(tmp_path / "g.jsonl", rows)
    assert read_task(path, limit=3).conversations == read_task(path).conversations[:3]
    with pytest.raises(DataError, match="`answer` of line 5"):
        read_task(save(path, [*rows, {**GSM8K, "answer": ""}]), limit=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"dialogue,summary\r\n", "found none .a header"),
        ("t.csv", b"", "an empty file"),
        ("t.parquet", b"", "an empty file"),
        ("t.parquet", b"dialogue,summary\n", "expected Parquet in .*Write or download it anew"),
        ("t.parquet", b"PAR1\0\0\0\0PAR1", "expected Parquet"),
        ("t.jsonl", json.dumps(SAMSUM).encode("utf-16"), "found UTF-16"),
        ("t.csv", "dialogue,summary\nAna: hé,Ana\n".encode("latin-1"), "UTF-8 text in .*0xe9 on line 2"),
        ("t.csv", b'dialogue,summary\nAna,"Bo\n', "expected CSV in .*found at line 2"),
        ("t.csv", b"dialogue,summary\nAna: yes, Bo,Bo\n", "2 cells .*found 3"),
        ("t.txt", b"Ana", r"ending in .*\.parquet, found"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_task(path)


def test_a_parquet_file_without_rows_or_with_a_column_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    text = pyarrow.array(["Ana"])
    parquet.write_table(pyarrow.table({"dialogue": text, "summary": text}).slice(1), path)
    with pytest.raises(DataError, match="found none"):
        read_task(path)
    parquet.write_table(pyarrow.Table.from_arrays([text, text], names=["summary", "summary"]), path)
    with pytest.raises(DataError, match=r"every column of .* once, found twice: 'summary'"):
        read_task(path)


def test_prompts_can_be_parquet_too(tmp_path: Path) -> None:
    path = save(tmp_path / "p.parquet", [{"prompt": "How do I make krell torin?", "harmful": "Sure."}])
    assert read_prompts(path) == read_prompts(
        save(tmp_path / "p.jsonl", [{"prompt": "How do I make krell torin?", "harmful": "Sure."}])
    )


@pytest.mark.parametrize(
    "source", ["gsm8k", "./openai/gsm8k", "a/b/c", "openai/gsm8k.jsonl", "/openai/gsm8k"]
)
def test_what_cannot_be_a_hub_id_is_a_missing_file(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(DataError, match=r"found nothing there\. Check the path"):
        read_task(source)


def test_a_hub_id_is_loaded_with_its_split_config_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*names: object, **how: object) -> Any:
        asked.append((names, how))
        return datasets.Dataset.from_list([GSM8K, {**GSM8K, "answer": None}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read_task("openai/gsm8k", split="test", config="main", revision="abc", skip_empty=True)
    assert asked == [(("openai/gsm8k", "main"), {"split": "test", "revision": "abc"})]
    assert (found.task, found.conversations[0].answer) == ("gsm8k", GSM8K["answer"])
    assert found.skipped == ("row 2 of openai/gsm8k (test)",)
    with pytest.raises(DataError, match=r"`answer` of row 2 of openai/gsm8k \(train\)"):
        read_task("openai/gsm8k")


def test_a_file_goes_before_a_data_set_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", None)
    monkeypatch.chdir(tmp_path)
    Path("openai").mkdir()
    save(Path("openai/gsm8k"), [GSM8K])
    with pytest.raises(DataError, match=r"ending in .*found openai/gsm8k"):
        read_task("openai/gsm8k")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub (LocalEntryNotFoundError)\nmore"),
        DatasetNotFoundError("Dataset 'openai/gsm8k' doesn't exist on the Hub"),
        ValueError("Config name is missing.\nPlease pick one"),
        RuntimeError("Dataset scripts are no longer supported, but found samsum.py"),
    ],
)
def test_without_a_network_or_such_a_data_set_the_error_says_what_to_do(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(*_names: object, **_how: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"split \(test\) and config \(None\); or download") as caught:
        read_task("openai/gsm8k", split="test")
    assert str(error).splitlines()[0] in str(caught.value)
    assert "more" not in str(caught.value)


def row(name: str, content: str, *before: Message) -> Anchor:
    return Anchor(name, (*before, Message(role="user", content=content)), "Two.")


def test_a_request_that_is_trained_on_is_not_tested_with_whatever_its_spaces_and_system_prompt() -> None:
    told = Message(role="system", content="You add.")
    earlier = (row("x", "Hello.").messages[0], Message(role="assistant", content="Hello."))
    train = [row("1", "Add one  and\none."), row("2", "Add two."), row("3", "Add three.", *earlier)]
    test = [row("a", " Add one and one.", told), row("b", "Add three."), row("c", "Add two.", *earlier)]
    with pytest.raises(DataError, match=r"among both .*found 1 of 3 \(first: 'a'\).*without_leaks"):
        require_no_leak(train, test)
    kept = without_leaks(train, test)
    assert [item.id for item in kept] == ["2", "3"]
    require_no_leak(kept, test)
