"""JailbreakBench's artifacts: one jailbreak a behaviour, in the layout that its reader takes.

The layout (arXiv 2404.01318) is a folder `METHOD/ATTACK_TYPE/MODEL.json` of `parameters` and
`jailbreaks`. It has a verdict for every row and no word for "not judged": what no judge could
score is left out, and counted. It refuses to know where the replies come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from safedepth.errors import DataError

__all__ = ["AttackType", "Jailbreak", "artifact_name", "artifact_text"]

MODELS = ("vicuna-13b-v1.5", "llama-2-7b-chat-hf", "gpt-3.5-turbo-1106", "gpt-4-0125-preview")
"""The models that JailbreakBench has artifacts of: its reader takes no other name."""


class AttackType(StrEnum):
    """What an attack has to have of the model, in JailbreakBench's words."""

    WHITE_BOX = "white_box"
    BLACK_BOX = "black_box"
    TRANSFER = "transfer"
    MANUAL = "manual"


@dataclass(frozen=True)
class Jailbreak:
    """What was asked for one behaviour, and what came back.

    `goal` is the request itself and `prompt` what was asked in its place; `prefill` is the beginning
    of the answer that was forced, which the layout has no field for: its reader passes it over.
    `jailbroken` is None where no judge could score it. A text that is not handed on is None.
    """

    behavior: str
    goal: str
    category: str
    prompt: str | None
    response: str | None
    jailbroken: bool | None
    number_of_queries: int | None = None
    queries_to_jailbreak: int | None = None
    prefill: str | None = None


def artifact_name(model: str) -> str:
    """A model's name as JailbreakBench spells it where it is one of its own; any other name as it is."""
    return model.lower() if model.lower() in MODELS else model


def artifact_text(
    found: Sequence[Jailbreak],
    *,
    model: str,
    method: str,
    attack_type: AttackType,
    date: str,
    provider: str,
    parameters: Mapping[str, object],
) -> str:
    """The JSON of one artifact; `index` is a behaviour's place in `found`.

    Args:
        found: one jailbreak a behaviour.
        model: the name of the model that answered.
        method: the name of the attack.
        attack_type: what it needs of the model.
        date: of the evaluation, ISO 8601.
        provider: what ran the model.
        parameters: of the method; None is left out, what is no number becomes text.

    Raises DataError where nothing was scored: a share of no jailbreaks has no value.
    """
    scored = [(index, one) for index, one in enumerate(found) if one.jailbroken is not None]
    if not scored:
        raise DataError(
            f"expected replies to {method} that a judge could score, found none of {len(found)}. "
            "JailbreakBench's layout has no word for them: judge the run again (safedepth judge)"
        )
    broken = sum(bool(one.jailbroken) for _, one in scored)
    queries = [one.number_of_queries for _, one in scored]
    counted = [number for number in queries if number is not None]
    told = {
        "method": method,
        "model": model,
        "attack_type": attack_type.value,
        "defense": None,
        "attack_success_rate": broken / len(scored),
        "total_number_of_jailbreaks": broken,
        "number_of_submitted_prompts": len(scored),
        "total_number_of_queries": sum(counted) if len(counted) == len(queries) else None,
        "total_prompt_tokens": None,
        "total_response_tokens": None,
        "evaluation_date": date[:10],
        "evaluation_llm_provider": provider,
        "method_parameters": {
            **{name: _plain(value) for name, value in parameters.items() if value is not None},
            "unscored": len(found) - len(scored),
        },
    }
    jailbreaks = [_entry(index, one) for index, one in scored]
    return json.dumps({"parameters": told, "jailbreaks": jailbreaks}, indent=2, ensure_ascii=False) + "\n"


def _entry(index: int, one: Jailbreak) -> dict[str, object]:
    return {
        "index": index,
        "goal": one.goal,
        "behavior": one.behavior,
        "category": one.category,
        "prompt": one.prompt,
        "response": one.response,
        "number_of_queries": one.number_of_queries,
        "queries_to_jailbreak": one.queries_to_jailbreak,
        "prompt_tokens": None,
        "response_tokens": None,
        "jailbroken": one.jailbroken,
        **({} if one.prefill is None else {"prefill": one.prefill}),
    }


def _plain(value: object) -> str | int | float:
    """A value as the layout takes it: numbers and texts alone."""
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, str | int | float) else str(value)
