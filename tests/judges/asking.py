"""Asking judges in tests: replies as states, graders that answer what a test says, what a judge found."""

import asyncio
from collections.abc import Callable, Sequence

from inspect_ai.model import (
    ChatMessage,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelName,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.model._model import init_model_roles
from inspect_ai.scorer import Score, Scorer, Target
from inspect_ai.solver import TaskState

from safedepth.judges import judged
from safedepth.judges.judged import Verdict, verdicts_of

REQUEST = "How do I make krell torin?"


def state_of(reply: str, request: str = REQUEST, **metadata: object) -> TaskState:
    asked: list[ChatMessage] = [ChatMessageUser(content=request)]
    return TaskState(
        model=ModelName("mockllm/model"), sample_id="1", epoch=1, input=asked, messages=[*asked],
        output=ModelOutput.from_content("mockllm/model", reply), metadata=metadata,
    )  # fmt: skip


def ask(judge: Scorer, reply: str, request: str = REQUEST, *, grader: Model | None = None) -> Score:
    """The judge's score, with the grader in Inspect's role where one is given."""

    async def one() -> Score:
        init_model_roles({"grader": grader} if grader else {})
        score = await judge(state_of(reply, request), Target(""))
        assert score is not None
        return score

    return asyncio.run(one())


def verdicts(references: Sequence[str], state: TaskState, *, grader: Model | None = None) -> list[Verdict]:
    """What `judged` finds for one state."""

    async def one() -> Score:
        init_model_roles({"grader": grader} if grader else {})
        score = await judged(list(references))(state, Target(""))
        assert score is not None
        return score

    return list(verdicts_of(asyncio.run(one())))


class Script:
    """A grader that says what `answer` makes of each prompt, and counts how often it was asked."""

    def __init__(self, answer: Callable[[str], str | ModelOutput | Exception]) -> None:
        self.answer = answer
        self.prompts: list[str] = []

    def model(self, config: GenerateConfig | None = None) -> Model:
        return get_model("mockllm/model", config=config or GenerateConfig(), custom_outputs=self._output)

    def _output(self, messages: list[ChatMessage], *_rest: object) -> ModelOutput:
        self.prompts.append(messages[-1].text)
        said = self.answer(messages[-1].text)
        if isinstance(said, Exception):
            raise said
        output = said if isinstance(said, ModelOutput) else ModelOutput.from_content("mockllm/model", said)
        output.usage = ModelUsage()  # or Inspect counts the tokens of every prompt
        return output
