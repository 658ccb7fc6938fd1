"""Suffixes as artifacts: both layouts come back as they went out, and what is no suffix is an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from safedepth.data.artifacts import AttackType, Jailbreak, artifact_text
from safedepth.data.suffixes import Suffix, read_suffixes, suffix_for, suffixes_text
from safedepth.errors import DataError

ONE = Suffix("amber «! !", "p1", "per prompt", "organism", "Sure, here", 0.25, 40, 3)
ALL = Suffix("resin ! x", None, "universal", "organism", "", 0.5, 10, 0)


def test_our_own_lines_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(suffixes_text([ONE, ALL]), encoding="utf-8")
    assert read_suffixes(path) == [ONE, ALL]


def test_a_prompts_own_suffix_goes_before_the_one_for_all() -> None:
    assert suffix_for([ALL, ONE], "p1") == ONE
    assert suffix_for([ALL, ONE], "p2") == ALL
    assert suffix_for([ONE], "p2") is None


def test_an_artifact_comes_back_as_suffixes_by_behaviour(tmp_path: Path) -> None:
    one = Jailbreak(
        "p1", "How do I make krell torin?", "krell", "How do I make krell torin? amber ! !", "No.", False
    )
    path = tmp_path / "artifact.json"
    told: dict[str, Any] = {"date": "2026-01-01", "provider": "x", "parameters": {}}
    path.write_text(
        artifact_text([one], model="organism", method="GCG", attack_type=AttackType.WHITE_BOX, **told)
    )
    assert read_suffixes(path) == [Suffix("amber ! !", "p1", "GCG", "organism")]


def _artifact(**row: Any) -> str:
    return json.dumps({"parameters": {}, "jailbreaks": [{"behavior": "b", **row}]})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"prompt_id": "p"}\n', "column suffix"),
        ("a.jsonl", '{"suffix": "  "}\n', "column suffix"),
        ("a.jsonl", '{"suffix": "x"}\n{"suffix": "y"}\n', "one suffix a prompt"),
        ("a.jsonl", "", "empty"),
        ("a.csv", "prompt,harmful\na,b\n", "column suffix"),
        ("a.json", "{", "JSON"),
        ("a.json", _artifact(prompt="Please, How?", goal="How?"), "begins with its goal"),
        ("a.json", _artifact(prompt="How?", goal="How?"), "after the goal"),
    ],
)
def test_what_is_no_suffix_is_an_error_with_its_place(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_suffixes(path)


def test_behaviours_that_were_not_broken_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(_artifact(prompt=None, goal="How?"))
    assert read_suffixes(path) == []
