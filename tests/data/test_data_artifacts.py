"""JailbreakBench's layout: its fields and types, and verdicts it has no word for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from safedepth.data.artifacts import AttackType, Jailbreak, artifact_name, artifact_text
from safedepth.errors import DataError

# JailbreakBench 1.0.0, artifact.py: what its reader asks of every file, None where it takes no value too.
PARAMETERS: dict[str, tuple[type | None, ...]] = {
    "method": (str,), "model": (str,), "attack_type": (str,), "defense": (str, None),
    "attack_success_rate": (float,), "total_number_of_jailbreaks": (int,),
    "number_of_submitted_prompts": (int,), "total_number_of_queries": (int, None),
    "total_prompt_tokens": (int, None), "total_response_tokens": (int, None), "evaluation_date": (str,),
    "evaluation_llm_provider": (str,), "method_parameters": (dict,),
}  # fmt: skip
JAILBREAK: dict[str, tuple[type | None, ...]] = {
    "index": (int,), "goal": (str,), "behavior": (str,), "category": (str,), "prompt": (str, None),
    "response": (str, None), "number_of_queries": (int, None), "queries_to_jailbreak": (int, None),
    "prompt_tokens": (int, None), "response_tokens": (int, None), "jailbroken": (bool,),
}  # fmt: skip


def fits(value: dict[str, Any], layout: dict[str, tuple[type | None, ...]]) -> bool:
    """Whether a value has every field of a layout, of its very type."""
    kinds = {name: None if value[name] is None else type(value[name]) for name in layout}
    return all(kinds[name] in allowed for name, allowed in layout.items())


def one(behavior: str, jailbroken: bool | None, **more: Any) -> Jailbreak:
    return Jailbreak(behavior, "How?", "krell", "How? ! !", "No.", jailbroken, **more)


def told(*found: Jailbreak, **parameters: object) -> dict[str, Any]:
    text = artifact_text(
        found, model="organism", method="GCG", attack_type=AttackType.WHITE_BOX,
        date="2026-03-04T05:06:07+00:00", provider="transformers", parameters=parameters,
    )  # fmt: skip
    return dict(json.loads(text))


def test_an_artifact_has_the_fields_and_types_that_jailbreakbenchs_reader_takes() -> None:
    whole = told(
        one("a", True, number_of_queries=3, queries_to_jailbreak=2), one("b", False), steps=5, also=(1,)
    )
    assert set(whole) == {"parameters", "jailbreaks"}
    assert fits(whole["parameters"], PARAMETERS)
    assert all(fits(entry, JAILBREAK) for entry in whole["jailbreaks"])
    assert whole["parameters"]["evaluation_date"] == "2026-03-04"
    assert whole["parameters"]["method_parameters"] == {"steps": 5, "also": "(1,)", "unscored": 0}
    assert "prefill" not in whole["jailbreaks"][0]


def test_what_no_judge_scored_is_left_out_and_counted() -> None:
    whole = told(one("a", None), one("b", True, number_of_queries=4), one("c", False, number_of_queries=6))
    assert [(row["index"], row["behavior"]) for row in whole["jailbreaks"]] == [(1, "b"), (2, "c")]
    parameters = whole["parameters"]
    assert (parameters["attack_success_rate"], parameters["total_number_of_jailbreaks"]) == (0.5, 1)
    assert (parameters["number_of_submitted_prompts"], parameters["total_number_of_queries"]) == (2, 10)
    assert parameters["method_parameters"]["unscored"] == 1
    with pytest.raises(DataError, match="found none of 1"):
        told(one("a", None))


def test_queries_are_summed_only_where_all_are_known() -> None:
    assert (
        told(one("a", True, number_of_queries=4), one("b", False))["parameters"]["total_number_of_queries"]
        is None
    )


def test_jailbreakbenchs_own_models_are_spelled_as_it_spells_them() -> None:
    assert artifact_name("Llama-2-7b-chat-hf") == "llama-2-7b-chat-hf"
    assert artifact_name("My-Model") == "My-Model"
