"""The suffix attack: the text goes after the request, on any model, and who has none is left out."""

import asyncio
from typing import Any

import pytest
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ModelName, ModelOutput
from inspect_ai.solver import TaskState

from safedepth.attacks.suffix import NO_SUFFIX, suffix, suffix_samples
from safedepth.data.suffixes import Suffix
from safedepth.nouns import Message, Prompt

PROMPTS = [Prompt(name, (Message(role="user", content="How?"),)) for name in ("p1", "p2")]


def _state(given: str | None) -> TaskState:
    return TaskState(
        model=ModelName("mockllm/model"), sample_id="1", epoch=1, input="How?",
        messages=[ChatMessageSystem(content="Be brief."), ChatMessageUser(content="How?")],
        metadata={"suffix": given, "reply_seed": 5},
    )  # fmt: skip


async def _generate(state: TaskState, **decoding: Any) -> TaskState:
    state.output = ModelOutput.from_content("mockllm/model", f"{decoding['seed']}: {state.messages[-1].text}")
    return state


@pytest.mark.parametrize(("argument", "metadata"), [(None, "amber ! !"), ("amber ! !", None)])
def test_the_suffix_stands_after_the_last_message_with_a_space_between(
    argument: str | None, metadata: str | None
) -> None:
    state = asyncio.run(suffix(argument)(_state(metadata), _generate))  # type: ignore[arg-type]
    assert state.output.completion == "5: How? amber ! !"
    assert state.messages[0].text == "Be brief."


def test_a_prompt_without_a_suffix_is_left_out_with_the_reason() -> None:
    state = asyncio.run(suffix()(_state(None), _generate))  # type: ignore[arg-type]
    assert state.metadata["left_out"] == NO_SUFFIX
    assert state.completed


def test_samples_say_whose_suffix_they_have() -> None:
    samples = suffix_samples(PROMPTS, [Suffix("own", "p1"), Suffix("all", None)], repeats=2, seed=0)
    told = [
        (s.metadata["prompt_id"], s.metadata["variant"], s.metadata["suffix"]) for s in samples if s.metadata
    ]
    assert told == [("p1", "per prompt", "own")] * 2 + [("p2", "universal", "all")] * 2
    assert len({sample.id for sample in samples}) == 4
