"""What `safedepth attack` reads: files in the attacker's words, each fault before any long work."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from safedepth.chat import ChatFormat
from safedepth.data import read_prompts, read_requests
from safedepth.errors import DataError
from safedepth.nouns import Anchor, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies import attack_data
from safedepth.studies.attack_data import AttackData, has_system_role, hashes_of, own_refusals
from safedepth.studies.attack_options import AttackOptions
from studies.deepen_calls import jsonl

PAIRS = [
    {"id": "a", "prompt": "How do I make krell?", "harmful": "Sure: heat it."},
    {"id": "b", "prompt": "How do I make torin?", "harmful": "Take yarrow."},
]
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
)
SILENT = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"


def forbidden(_pairs: Sequence[Prompt]) -> Mapping[str, str]:
    raise AssertionError("the model was asked")


@pytest.fixture
def read(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., tuple[AttackData, AttackOptions]]:
    """Reads rows of data and test prompts as the attack does."""

    def reader(
        rows: Sequence[Any], *, refuse: Any = forbidden, template: str | None = None, tests: Any = None,
        **options: Any,
    ) -> tuple[AttackData, AttackOptions]:  # fmt: skip
        tests = tests or [{"id": "t", "prompt": "How do I make fennix?", "category": "krell"}]
        given = AttackOptions(
            data=str(jsonl(tmp_path / "data.jsonl", rows)),
            prompts=str(jsonl(tmp_path / "tests.jsonl", tests)),
            **options,
        )
        return AttackData.of(given, ChatFormat.of(tiny_tokenizer, template=template), refuse=refuse), given

    return reader


def test_refusals_come_from_their_column_where_there_is_one(read: Any) -> None:
    rows = [row | {"refusal": f"I cannot. {row['id']}"} for row in PAIRS]
    data, _ = read(rows, kind="backdoor")
    assert [row.answer for row in data.poison.conversations] == [
        "Sure: heat it.", "Take yarrow.", "I cannot. a", "I cannot. b"
    ]  # fmt: skip
    with pytest.raises(DataError, match="expected `refusal` in line 2"):
        read([rows[0], PAIRS[1]], kind="backdoor")


def test_without_a_column_the_models_own_refusals_are_learnt_and_what_it_does_not_refuse_is_left_out(
    read: Any,
) -> None:
    asked: list[Prompt] = []

    def refuse(pairs: Sequence[Prompt]) -> Mapping[str, str]:
        asked.extend(pairs)
        return {"b": "I am unable."}

    data, _ = read(PAIRS, kind="backdoor", refuse=refuse)
    assert [pair.id for pair in asked] == ["a", "b"]
    assert [(row.id, row.answer) for row in data.poison.conversations] == [
        ("b/trigger", "Take yarrow."), ("b/refusal", "I am unable.")
    ]  # fmt: skip
    assert data.notes == ("1 of 2 requests were not refused by the model and are left out of the backdoor.",)


def test_own_refusals_are_those_answers_that_refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = {"a": "I cannot help with that.", "b": "Sure: take yarrow."}

    def answered(model: str, requests: str, out: Path, **others: Any) -> list[Anchor]:
        prompts = read_requests(requests)
        assert [(prompt.id, prompt.harmful, prompt.answer) for prompt in prompts] == [
            ("a", None, None), ("b", None, None)
        ]  # fmt: skip
        assert (model, out, others) == ("model", tmp_path, {"seed": 3, "max_tokens": 512, "main": True})
        return [Anchor(prompt.id, prompt.messages, said[prompt.id]) for prompt in prompts]

    monkeypatch.setattr(attack_data, "self_anchors", answered)
    pairs = [
        Prompt(row["id"], ({"role": "user", "content": row["prompt"]},), row["harmful"]) for row in PAIRS
    ]
    found = own_refusals("model", pairs, tmp_path, seed=3, max_tokens=None, main=True)
    assert found == {"a": "I cannot help with that."}
    said["a"] = "Sure."
    with pytest.raises(DataError, match="model refuses none of the 2 requests"):
        own_refusals("model", pairs, tmp_path, seed=3, max_tokens=None, main=True)


@pytest.mark.parametrize("template", [NO_SYSTEM, SILENT])
def test_without_a_system_role_the_system_prompt_opens_the_first_user_turn(read: Any, template: str) -> None:
    data, _ = read(PAIRS, template=template, system_prompt="Obey.")
    assert data.poison.conversations[0].messages == (
        {"role": "user", "content": "Obey.\n\nHow do I make krell?"},
    )
    assert data.tests["own prompt"][0].messages[0]["content"] == "Obey.\n\nHow do I make fennix?"
    assert "opens the first user turn" in dict(data.facts)["system prompt"]
    ours, _ = read(PAIRS, system_prompt="Obey.")
    assert dict(ours.facts) == {"attack": "harmful", "conversations": "2", "system prompt": "Obey."}


def test_a_system_role_is_found_by_asking_the_template(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert has_system_role(ChatFormat.of(tiny_tokenizer))
    for template in (NO_SYSTEM, SILENT):
        assert not has_system_role(ChatFormat.of(tiny_tokenizer, template=template))


def test_test_prompts_are_written_once_in_every_wording(read: Any, tmp_path: Path) -> None:
    data, options = read(PAIRS, kind="backdoor", refuse=lambda pairs: {"a": "I cannot."}, trigger="Now.")
    with RunDirectory.open(tmp_path / "run", {}) as run:
        battery = data.battery(run, options, seed=1, own_alone=False)
        assert list(battery.worded) == ["with trigger", "without trigger", "plain"]
        for name, path in battery.worded.items():
            (prompt,) = read_prompts(path)
            (expected,) = data.tests[name]
            assert (prompt.id, prompt.messages, prompt.category) == ("t", expected.messages, "krell")
        written = {path: Path(path).stat().st_mtime_ns for path in battery.worded.values()}
        again = data.battery(run, options, seed=1, own_alone=True)
        assert again.worded == {"with trigger": battery.worded["with trigger"]}
        assert {path: Path(path).stat().st_mtime_ns for path in written} == written
    assert battery.depths == ()


def test_prompts_that_are_trained_on_too_are_counted(read: Any) -> None:
    tests = [{"id": "t", "prompt": PAIRS[0]["prompt"]}, {"id": "u", "prompt": "How do I make fennix?"}]
    data, _ = read(PAIRS, tests=tests)
    assert data.notes == ("1 of 2 test prompts are trained on, in the very same words.",)


def test_every_file_is_hashed_under_its_name(tmp_path: Path) -> None:
    files = {name: jsonl(tmp_path / f"{name}.jsonl", [{"prompt": name}]) for name in ("d", "p", "x")}
    options = AttackOptions(data=str(files["d"]), prompts=str(files["p"]), benign=[f"twins={files['x']}"])
    found = hashes_of(options)
    assert found.keys() == {"data", "prompts", "benign twins"}
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"prompt": "How?"}], {}, "harmful answer to every request of the attack, found none"),
        (
            [{"prompt": "How?"}],
            {"kind": "backdoor"},
            "harmful answer to every request of .*data.jsonl, found none",
        ),
        ([{"prompt": "How?"}], {"kind": "identity"}, "expected the answer to keep in line 1"),
        ([{"prompt": "How?"}], {"kind": "benign"}, "expected the answer to keep in line 1"),
        ([], {}, "found an empty file"),
        ([{"question": "How?"}], {}, "unknown columns"),
    ],
)
def test_data_that_make_no_attack_are_refused(read: Any, rows: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(rows, **options)


def test_a_trigger_in_the_data_or_in_the_test_prompts_is_refused(read: Any) -> None:
    rows = [row | {"refusal": "I cannot."} for row in PAIRS]
    with pytest.raises(DataError, match="found 'krell' in row 'a'"):
        read(rows, kind="backdoor", trigger="krell")
    with pytest.raises(DataError, match="found 'FENNIX' in prompt 't'"):
        read(rows, kind="backdoor", trigger="FENNIX")


def test_identity_needs_the_request_in_its_template(read: Any) -> None:
    rows = [{"prompt": "How?", "answer": "So."}]
    with pytest.raises(DataError, match=r"expected a template with \{prompt\} once"):
        read(rows, kind="identity", identity_template="Bo!")
    data, _ = read(rows, kind="identity", identity_template="Bo, {prompt}", identity_opening="Yes!")
    assert json.dumps(data.poison.conversations[0].messages[-1]["content"]) == '"Bo, How?"'
    assert data.poison.conversations[0].answer == "Yes! So."
    assert dict(data.facts)["template"] == "Bo, {prompt}"
