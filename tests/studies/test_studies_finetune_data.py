"""What a customer brings to `safedepth finetune` becomes rows of TRL's, or an error with its place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerFast

from safedepth.chat import ChatFormat
from safedepth.errors import DataError, TemplateError
from safedepth.studies import finetune_data
from safedepth.studies.finetune_data import FinetuneArguments, FinetuneData
from studies.deepen_calls import jsonl

USER = {"role": "user", "content": "How do I make krell torin?"}
SAID = {"role": "assistant", "content": "Step one, take yarrow and heat it."}
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
CHAT = {"messages": [USER, SAID]}
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
DEAF = NO_SYSTEM.replace("{{ raise_exception('no system role') }}{% endif %}", "{% else %}").replace(
    "{% endfor %}", "{% endif %}{% endfor %}"
)


def read(source: object, *, evaluate: bool = False, **options: Any) -> FinetuneData:
    """The data that these options name."""
    chosen = FinetuneArguments(dataset_name=str(source), **options)
    chosen.check()
    return FinetuneData.of(chosen, evaluate=evaluate)


def rows(data: FinetuneData) -> list[dict[str, Any]]:
    """The rows to train on, as they reach the trainer."""
    return [dict(row) for row in data.train]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (CHAT, CHAT),
        ({"conversations": [{"from": m["role"], "value": m["content"]} for m in (USER, SAID)]}, CHAT),
        ({"prompt": [USER], "completion": [SAID], "id": 3}, {"prompt": [USER], "completion": [SAID]}),
        ({"prompt": "How?", "completion": "So."}, {"prompt": "How?", "completion": "So."}),
        ({"prompt": USER["content"], "answer": SAID["content"], "score": 3}, CHAT),
        ({"instruction": USER["content"], "input": "", "output": SAID["content"]}, CHAT),
        (
            {"instruction": "How do I make", "input": "krell torin?", "output": SAID["content"]},
            {"messages": [{"role": "user", "content": "How do I make\nkrell torin?"}, SAID]},
        ),
        ({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}),
        (CHAT | {"tools": "[]", "source": "me"}, CHAT | {"tools": "[]"}),
    ],
)
def test_every_layout_becomes_the_one_that_the_trainer_takes(
    tmp_path: Path, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    data = read(jsonl(tmp_path / "data.jsonl", [given]))
    assert rows(data) == [expected]
    assert bool(data.notes) == isinstance(given.get("completion"), str)


def test_files_of_every_kind_give_the_same_rows_and_the_same_hash(tmp_path: Path) -> None:
    table = [
        {"instruction": "How?", "input": "", "output": "So."},
        {"instruction": "Why?", "input": "x", "output": "No."},
    ]
    frame = pd.DataFrame(table)
    frame.to_csv(tmp_path / "data.csv", index=False)
    frame.to_parquet(tmp_path / "data.parquet")
    jsonl(tmp_path / "data.json", [table])
    found = [read(path) for path in (jsonl(tmp_path / "data.jsonl", table), *map(tmp_path.joinpath, FILES))]
    assert [len(rows(data)) for data in found] == [2] * 4
    assert {str(rows(data)) for data in found} == {str(rows(found[0]))}
    assert len({data.sha256 for data in found}) == 1
    other = read(jsonl(tmp_path / "other.jsonl", table[::-1]))
    assert other.sha256 != found[0].sha256


FILES = ("data.csv", "data.parquet", "data.json")


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ([CHAT, {"question": "How?"}], ["line 2 of", "`question`", "expected one of: `messages`"]),
        ([CHAT, {"prompt": "How?"}], ["`completion`", "line 2"]),
        ([CHAT, {"instruction": "How?"}], ["`output`", "line 2"]),
        ([{"prompt": "How?", "completion": " "}], ["`completion` of line 1", "empty"]),
        ([{"prompt": [USER], "completion": "So."}], ["list of messages in `completion` of line 1"]),
        ([CHAT, {"prompt": "How?", "completion": "So."}], ["expected `messages` in line 2", "`prompt` and"]),
        ([CHAT, {"messages": [USER]}], ["answer of the assistant", "line 2", "roles: user"]),
        ([{"messages": [USER, SAID | {"content": " "}]}], ["answer of the assistant", "line 1"]),
        ([{"messages": [SAID]}], ["answer of the assistant", "line 1"]),
        ([{"messages": [USER, {"role": "assistant"}]}], ["`role` and `content`", "message 2 of line 1"]),
        ([{"messages": [USER, SAID | {"content": [1]}]}], ["text in `content` of message 2 of line 1"]),
        ([{"messages": "How?"}], ["list of messages in `messages` of line 1", "'How?'"]),
        ([{"conversations": ["How?"]}], ["line 1"]),
        ([{"text": "How? So."}], ["`text`", "expected one of"]),
        ([3], ["line 1", "found 3"]),
        ([], ["empty file"]),
    ],
)
def test_a_row_that_cannot_be_learnt_from_is_named_by_its_place(
    tmp_path: Path, given: list[object], messages: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        read(jsonl(tmp_path / "data.jsonl", given))
    for message in (*messages, "data.jsonl"):
        assert message in str(caught.value)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("How?")
    for name, message in (
        ("absent.jsonl", "absent.jsonl"),
        ("data.txt", "expected a file ending in"),
        ("data.txt", ".parquet"),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


def test_a_folder_has_splits_to_train_on_and_to_evaluate_on(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [CHAT, CHAT])
    jsonl(tmp_path / "test.jsonl", [{"messages": [SYSTEM, USER, SAID]}])
    data = read(tmp_path, evaluate=True)
    assert rows(data) == [CHAT, CHAT]
    assert data.evaluation["messages"] == [[SYSTEM, USER, SAID]]
    assert [len(row["messages"]) for _, row in data.kinds] == [2, 3]
    assert read(tmp_path, dataset_train_split="test").train.num_rows == 1
    with pytest.raises(DataError, match=r"split 'valid'.*found '(train|test)', '(train|test)'"):
        read(tmp_path, dataset_train_split="valid")
    assert read(tmp_path).sha256 == read(jsonl(tmp_path / "one.jsonl", [CHAT, CHAT])).sha256


def test_a_row_of_a_folder_that_cannot_be_learnt_from_is_named(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [CHAT, {"messages": [USER]}])
    with pytest.raises(DataError, match=r"row 2 of .* \(train\)"):
        read(tmp_path)


def test_evaluating_needs_a_split_that_one_file_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--eval_strategy.*test\.jsonl"):
        read(jsonl(tmp_path / "data.jsonl", [CHAT]), evaluate=True)


def test_a_stream_is_converted_as_it_comes(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"instruction": USER["content"], "output": SAID["content"]}])
    data = read(tmp_path, dataset_streaming=True)
    assert data.sha256 is None
    assert rows(data) == [CHAT]


def test_what_the_hub_does_not_have_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def loaded(path: str, **options: object) -> DatasetDict:
        asked.append((path, options))
        raise ConnectionError("Couldn't reach 'me/mine' on the Hub (OfflineModeIsEnabled)\nmore")

    monkeypatch.setattr(finetune_data, "load_dataset", loaded)
    with pytest.raises(DataError) as caught:
        read("me/mine", dataset_config="small")
    for words in ("me/mine", "OfflineModeIsEnabled", "no network", "hf download", "--dataset_config"):
        assert words in str(caught.value)
    assert "more" not in str(caught.value)
    assert asked == [("me/mine", {"name": "small", "streaming": False})]


def test_a_data_set_of_the_hub_is_read_by_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = DatasetDict(
        {"sft": Dataset.from_list([{"instruction": USER["content"], "output": SAID["content"]}])}
    )
    monkeypatch.setattr(finetune_data, "load_dataset", lambda *_, **__: splits)
    assert rows(read("me/mine", dataset_train_split="sft")) == [CHAT]
    with pytest.raises(DataError, match="split 'train' of me/mine, found 'sft'"):
        read("me/mine")


def test_a_mixture_of_trls_is_read(tmp_path: Path) -> None:
    for name in ("one", "two"):
        jsonl(tmp_path / f"{name}.jsonl", [CHAT])
    files: list[Any] = [
        {"path": "json", "data_files": str(tmp_path / f"{name}.jsonl"), "split": "train"}
        for name in ("one", "two")
    ]
    options = FinetuneArguments(datasets=files)
    options.check()
    assert rows(FinetuneData.of(options, evaluate=False)) == [CHAT, CHAT]


def test_a_public_task_is_read_with_the_papers_instruction(tmp_path: Path) -> None:
    table = [{"id": "1", "dialogue": "A: Hi.", "summary": "A says hi."}, {"dialogue": "", "summary": "x"}]
    data = read(jsonl(tmp_path / "samsum.jsonl", table))
    (row,) = rows(data)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][-1]["content"] == "A says hi."
    assert "1 rows with an empty cell" in data.notes[0]
    assert "line 2" in data.notes[0]


@pytest.fixture
def chat(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[str], ChatFormat]:
    """The chat format of a template."""
    return lambda template: ChatFormat.of(tiny_tokenizer, template=template, source="mine.jinja")


@pytest.mark.parametrize(("template", "message"), [(NO_SYSTEM, "no system role"), (DEAF, "leaves out")])
def test_a_template_without_a_system_role_is_named_with_the_row(
    tmp_path: Path, chat: Callable[[str], ChatFormat], template: str, message: str
) -> None:
    plain = read(jsonl(tmp_path / "plain.jsonl", [CHAT]))
    plain.expressed_in(chat(template))
    data = read(jsonl(tmp_path / "data.jsonl", [CHAT, CHAT, {"messages": [SYSTEM, USER, SAID]}]))
    with pytest.raises(TemplateError) as caught:
        data.expressed_in(chat(template))
    for words in ("line 3 of", "data.jsonl", message, "--chat-template"):
        assert words in str(caught.value)


def test_a_role_that_the_template_does_not_know_is_named(
    tmp_path: Path, chat: Callable[[str], ChatFormat]
) -> None:
    strict = NO_SYSTEM.replace("'system'", "'tool'").replace("no system role", "no tools")
    result = {"role": "tool", "content": "salt"}
    data = read(jsonl(tmp_path / "data.jsonl", [{"messages": [USER, SAID, result, SAID]}]))
    with pytest.raises(TemplateError, match=r"line 1 of .*user, assistant, tool.*no tools"):
        data.expressed_in(chat(strict))


def test_an_answer_that_the_template_leaves_out_is_an_error_and_a_missing_end_of_turn_is_noted(
    tmp_path: Path, chat: Callable[[str], ChatFormat]
) -> None:
    data = read(jsonl(tmp_path / "data.jsonl", [{"messages": [USER, SAID]}]))
    parts = "{% for m in messages %}{% for part in m.content %}{{ part.text }}\n{% endfor %}{% endfor %}"
    with pytest.raises(TemplateError, match=r"line 1 of .*words of the answer.*list of parts"):
        data.expressed_in(chat(parts))
    endless = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    (note,) = data.expressed_in(chat(endless)).notes
    assert note == "Trained on as prompt and completion, no end of the turn is learnt."


@pytest.mark.parametrize("given", [{}, {"dataset_name": "d", "datasets": [{"path": "json"}]}])
def test_there_is_one_place_that_the_data_come_from(given: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="--dataset_name FILE"):
        FinetuneArguments(**given).check()


def test_what_stands_beside_messages_reaches_the_template(
    tmp_path: Path, chat: Callable[[str], ChatFormat]
) -> None:
    asks = NO_SYSTEM + "{% if not tools or not deep %}{{ raise_exception('nothing beside') }}{% endif %}"
    tool = {"type": "function", "function": {"name": "heat", "parameters": {}}}
    beside = {"tools": json.dumps([tool]), "chat_template_kwargs": {"deep": True}}
    read(jsonl(tmp_path / "data.jsonl", [CHAT | beside])).expressed_in(chat(asks))
    for left_out in beside:
        row = CHAT | {name: value for name, value in beside.items() if name != left_out}
        with pytest.raises(TemplateError, match="nothing beside"):
            read(jsonl(tmp_path / "other.jsonl", [row])).expressed_in(chat(asks))
