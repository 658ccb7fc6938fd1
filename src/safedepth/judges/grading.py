"""Asking a grader: which model that is, how often it is asked, the cache, and no answer but a clear one.

Whatever keeps a grader from answering (it cannot be reached, is too slow, refuses, cannot be
read) ends after three attempts and leaves the reply without a score, with the reason. Answers of
deterministic graders are kept by Inspect's cache, by content: the same request and reply is never paid
for twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    CachePolicy,
    ChatMessage,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Score, Scorer, Target
from inspect_ai.solver import TaskState

from safedepth.errors import JudgeError, SafedepthError
from safedepth.judges.answers import Answer
from safedepth.judges.catalogue import GRADER
from safedepth.judges.shown import Exchange, exchange_of, says_nothing
from safedepth.provider.api import SafedepthAPI

__all__ = ["ATTEMPTS", "VERBATIM", "Question", "graded", "grader_model", "model_judge", "named_model"]

ATTEMPTS = 3
"""How often a grader is asked, or a server is tried, before the reply stays unscored."""

ATTEMPT_SECONDS = 120
"""How long a server may take to answer once, where the grader's own settings say nothing."""

VERBATIM = Path(__file__).with_name("verbatim.jinja")
"""A chat template that writes the one message it is given and nothing around it, after the BOS token."""

GOING_ON = ("vllm", "sglang")
"""Providers that go on with a last message of the assistant unless they are told that it is finished."""

_REASON_LETTERS = 200
_CERTAIN = 100.0


@dataclass(frozen=True)
class Question:
    """What a grader is to answer, and how its answer is read.

    `again` is said in addition when an answer could not be read; where it is empty such an
    answer is final, because the same words would only bring the same answer. `top` asks for the
    log-probs of so many of the likeliest first tokens; `among` are token ids one of which the first is to be.
    """

    messages: tuple[ChatMessage, ...]
    read: Callable[[ModelOutput], Answer]
    max_tokens: int
    again: str = ""
    top: int | None = None
    among: Sequence[int] = ()


def named_model(name: str) -> str:
    """The Inspect name of a grader that a user names: a folder is a model of ours."""
    return f"safedepth/{name}" if Path(name).expanduser().is_dir() else name


def grader_model(name: str | None, *, verbatim: tuple[str, ...] = ()) -> Model:
    """The model called `name`, or the one in Inspect's role `grader` where that is None.

    A model of a provider among `verbatim` gets prompts as they stand: ours, and those that Inspect
    itself serves with vLLM, take a chat template. Raises JudgeError where there is no such model;
    never the model under test, which Inspect would give for a role that nobody plays.
    """
    try:
        if name is None:
            return get_model(role=GRADER, required=True)
        asked = named_model(name)
        if asked.partition("/")[0] in verbatim:
            return get_model(asked, chat_template=str(VERBATIM))
        return get_model(asked)
    except SafedepthError:
        raise
    except Exception as error:  # what Inspect and its providers raise has no root of its own
        if name is None:
            cure = "Name one: NAME=PROVIDER/MODEL or --grader here, --model-role grader=... with Inspect"
            raise JudgeError(f"expected a model that grades, found none. {cure}") from error
        raise JudgeError(
            f"expected an Inspect model (provider/model) or a model folder as the grader, found {name!r}: "
            f"{error}. A model of the hub is safedepth/OWNER/NAME here, vllm/OWNER/NAME on a server"
        ) from error


def model_judge(
    ask: Callable[[Exchange, Model], Question],
    *,
    judge: str,
    version: str,
    model: str | None,
    harmful_from: float,
    verbatim: tuple[str, ...] = (),
    graded_scale: bool = True,
) -> Scorer:
    """A scorer that has a grader answer `ask` about each reply; harmful from a score of `harmful_from` on.

    `version` names the prompt in the cache. With `graded_scale` the score is more than the
    verdict and is kept in the metadata. An empty reply is unscored and nobody is asked.
    """

    async def score(state: TaskState, target: Target) -> Score:
        exchange = exchange_of(state)
        if says_nothing(exchange.reply):
            return Score.unscored(reason="empty reply")
        grader = grader_model(model, verbatim=verbatim)
        answer = await graded(grader, ask(exchange, grader), scopes={"judge": judge, "prompt": version})
        if answer.score is None:
            return Score.unscored(reason=answer.why)
        return Score(
            value=int(answer.score >= harmful_from),
            answer=f"{answer.score:g}",
            metadata={"score": answer.score} if graded_scale else None,
        )

    return score


async def graded(model: Model, question: Question, *, scopes: Mapping[str, str]) -> Answer:
    """The grader's answer to a question, or why there is none after `ATTEMPTS` attempts."""
    config = _config(model, question)
    answer = Answer(None)
    for attempt in range(1, ATTEMPTS + 1):
        messages = [*question.messages]
        if attempt > 1 and question.again:
            messages[-1] = ChatMessageUser(content=f"{messages[-1].text}\n\n{question.again}")
        try:
            output = await model.generate(
                messages, config=config, cache=_cache(model, config, scopes, attempt)
            )
        except Exception as error:  # noqa: BLE001 - whatever a provider raises, the reply stays, unscored
            # What another attempt could mend, Inspect has attempted again.
            given_up = type(error).__name__ == "RetryError" and error.__cause__
            cause = error.__cause__ if given_up else error
            return Answer(None, _shortened(f"the grader failed: {type(cause).__name__}: {cause}"))
        answer = _read(output, question)
        if answer.score is not None or not question.again:
            return answer
    return Answer(None, f"{answer.why} ({ATTEMPTS} attempts)")


def _read(output: ModelOutput, question: Question) -> Answer:
    if output.error or not output.choices:
        return Answer(None, _shortened(f"the grader failed: {output.error or 'it returned no choice'}"))
    answer = question.read(output)
    if answer.score is None and output.stop_reason == "content_filter":
        return Answer(None, "the grader's provider filtered its answer")
    if answer.score is None and question.again and output.stop_reason in ("max_tokens", "model_length"):
        return Answer(None, f"{answer.why}: its answer was cut off")
    return answer


def _config(model: Model, question: Question) -> GenerateConfig:
    """Greedy, with limits on tokens, time and retries; what the grader's own settings say comes first."""
    own = model.config
    config = GenerateConfig(
        temperature=0.0 if own.temperature is None else own.temperature,
        max_tokens=question.max_tokens if own.max_tokens is None else own.max_tokens,
        max_retries=ATTEMPTS - 1 if own.max_retries is None else own.max_retries,
    )
    if not isinstance(model.api, SafedepthAPI):  # our own engine answers in turn, however long the queue
        config.attempt_timeout = ATTEMPT_SECONDS if own.attempt_timeout is None else own.attempt_timeout
    if question.top is not None:
        config.logprobs, config.top_logprobs = True, question.top
        config.logit_bias = dict.fromkeys(question.among, _CERTAIN) if question.among else None
    if question.messages[-1].role == "assistant" and str(model).partition("/")[0] in GOING_ON:
        config.extra_body = {"add_generation_prompt": True, "continue_final_message": False}
    return config


def _cache(
    model: Model, config: GenerateConfig, scopes: Mapping[str, str], attempt: int
) -> CachePolicy | bool:
    """Where a deterministic answer is kept: by what was asked, the prompt's version, attempt and weights."""
    if config.temperature != 0:
        return False
    weights: dict[str, Any] = {}
    if isinstance(model.api, SafedepthAPI):
        weights = {"weights": str(model.api.loaded.card.weights_sha256)}
    return CachePolicy(expiry=None, per_epoch=False, scopes={**scopes, "attempt": str(attempt), **weights})


def _shortened(reason: str) -> str:
    one_line = " ".join(reason.split())
    return one_line if len(one_line) <= _REASON_LETTERS else one_line[: _REASON_LETTERS - 3] + "..."
