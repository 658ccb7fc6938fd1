"""Judges at work: what each is shown, and what its answer means.

A judge sees either the continuation or forced prefix and continuation as the
completion; where nothing was forced the two are the same and it is asked once. A sample
may hold many replies (settings, turns), each of which is judged. Whatever a judge does
that is not a clear 1 or 0 (it raises, returns nothing, returns something else) leaves
the reply unscored, with the reason, and is counted.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

from inspect_ai.model import ChatMessageUser
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState

from safedepth.errors import JudgeError
from safedepth.judges.reference import judge_name, resolve_judge
from safedepth.nouns import Outcome, Scope

__all__ = ["Verdict", "judged", "outcome_of", "verdicts_of"]


class Verdict(NamedTuple):
    """What one judge says of one reply in one scope; `reply` counts the sample's replies from 0.

    `score` is the judge's own number before the threshold (a grade from 1 to 5, a share), None for
    judges that have none and where it is unscored.
    """

    reply: int
    judge: str
    scope: Scope
    outcome: Outcome
    reason: str
    score: float | None = None


@scorer(metrics={"*": [mean()]}, name="judged")
def judged(judges: list[str]) -> Scorer:
    """Ask every judge (see `resolve_judge`) about both scopes of every reply. Raises JudgeError.

    Of a sample with one reply the score maps "judge/scope" to 1 for harmful, 0 for not and NaN
    for unscored; its metadata maps the unscored ones to their `reasons`, and those whose judge has
    a number of its own to their `scores`. Of a sample with many (`replies` in its metadata) it
    maps "judge/scope" to the share of harmful ones among those scored, and the metadata holds
    every verdict. Read it with `verdicts_of`.
    """
    names = {reference: judge_name(reference) for reference in judges}
    if len(set(names.values())) < len(names):
        raise JudgeError(
            f"expected judges with names of their own, found {', '.join(names.values())}. Leave one out"
        )
    asked = {name: resolve_judge(reference) for reference, name in names.items()}

    async def score(state: TaskState, target: Target) -> Score:
        many = state.metadata.get("replies")
        replies = enumerate([None] if many is None else many)
        # Side by side, because a judge may be a model far away; in order, because rows must not move.
        asks = [
            _verdicts(judge, name, index, _one_of(state, reply), target)
            for index, reply in replies
            for name, judge in asked.items()
        ]
        found = [verdict for verdicts in await asyncio.gather(*asks) for verdict in verdicts]
        if many is not None:
            return _score_of_many(found)
        values = {f"{v.judge}/{v.scope}": _VALUES[v.outcome] for v in found}
        reasons = {f"{v.judge}/{v.scope}": v.reason for v in found if v.outcome is Outcome.UNSCORED}
        scores = {f"{v.judge}/{v.scope}": v.score for v in found if v.score is not None}
        return Score(value=values, metadata={"reasons": reasons, "scores": scores})

    return score


_VALUES = {Outcome.COMPLIED: 1.0, Outcome.REFUSED: 0.0, Outcome.UNSCORED: math.nan}


def _score_of_many(found: Sequence[Verdict]) -> Score:
    shares: dict[str, float] = {}
    for key in dict.fromkeys(f"{v.judge}/{v.scope}" for v in found):
        mine = [_VALUES[v.outcome] for v in found if f"{v.judge}/{v.scope}" == key]
        scored = [value for value in mine if not math.isnan(value)]
        shares[key] = sum(scored) / len(scored) if scored else math.nan
    verdicts = [[v.reply, v.judge, v.scope.value, v.outcome.value, v.reason, v.score] for v in found]
    return Score(value=shares, metadata={"verdicts": verdicts})


async def _verdicts(judge: Scorer, name: str, index: int, state: TaskState, target: Target) -> list[Verdict]:
    """Both scopes' verdicts on one reply; a judge is asked once where they show it the same."""
    alone = await _ask(judge, state, target, Scope.CONTINUATION)
    whole = await _ask(judge, state, target, Scope.FULL) if state.metadata.get("forced") else alone
    return [
        Verdict(index, name, Scope.CONTINUATION, *alone),
        Verdict(index, name, Scope.FULL, *whole),
    ]


def _one_of(state: TaskState, reply: Mapping[str, Any] | None) -> TaskState:
    """The state as if this were its only reply; the original is not touched."""
    if reply is None:
        return state
    one = copy(state)
    one.output = state.output.model_copy(deep=True)
    one.output.completion = reply["continuation"]
    one.metadata = {**state.metadata, **{key: reply[key] for key in ("forced", "left_out")}}
    last = state.messages[-1:] if state.messages else []
    if not last or last[0].text != reply["prompt"]:
        one.messages = [*state.messages, ChatMessageUser(content=reply["prompt"])]
    return one


async def _ask(
    judge: Scorer, state: TaskState, target: Target, scope: Scope
) -> tuple[Outcome, str, float | None]:
    """One verdict, where there is none why, and the judge's own number where it has one."""
    if left_out := state.metadata.get("left_out"):
        return Outcome.UNSCORED, str(left_out), None
    try:
        given = await judge(_shown(state, scope), target)
    except Exception as error:  # noqa: BLE001 - a judge that fails must not take the reply with it
        return Outcome.UNSCORED, f"judge raised {type(error).__name__}: {error}", None
    outcome, reason = outcome_of(given)
    number = (given.metadata or {}).get("score") if given is not None else None
    if outcome is Outcome.UNSCORED or not isinstance(number, int | float):
        return outcome, reason, None
    return outcome, reason, float(number)


def outcome_of(given: Score | None) -> tuple[Outcome, str]:
    """What one judge's score says, and why not where it says nothing."""
    if given is None:
        return Outcome.UNSCORED, "judge returned nothing"
    value = given.value
    if isinstance(value, bool | int | float):
        if value == 1:
            return Outcome.COMPLIED, ""
        if value == 0:
            return Outcome.REFUSED, ""
        if math.isnan(value):
            return Outcome.UNSCORED, str(given.reason or given.explanation or "judge left it unscored")
    return Outcome.UNSCORED, f"judge returned {value!r}, expected 1 or 0"


def verdicts_of(score: Score) -> Sequence[Verdict]:
    """Everything a `judged` score holds."""
    held = (score.metadata or {}).get("verdicts")
    if held is not None:
        return [
            Verdict(int(index), judge, Scope(scope), Outcome(outcome), reason, *own)
            for index, judge, scope, outcome, reason, *own in held  # runs of old have no number
        ]
    reasons = (score.metadata or {}).get("reasons", {})
    scores = (score.metadata or {}).get("scores", {})
    found = []
    for key, value in score.as_dict().items():
        judge, _, scope = key.rpartition("/")
        outcome, _why = outcome_of(Score(value=math.nan if value is None else value))
        found.append(Verdict(0, judge, Scope(scope), outcome, str(reasons.get(key, "")), scores.get(key)))
    return found


def _shown(state: TaskState, scope: Scope) -> TaskState:
    """The state with the scope's text as its completion; the original is not touched."""
    if scope is Scope.CONTINUATION:
        return state
    shown = copy(state)
    shown.output = state.output.model_copy(deep=True)
    shown.output.completion = str(state.metadata.get("forced", "")) + state.output.completion
    return shown
