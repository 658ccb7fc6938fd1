"""Whether a server tells the log-probs of tokens it is given, and tells the truth about them."""

from __future__ import annotations

from collections.abc import Sequence

from inspect_ai.model import Logprob

from safedepth.chat import ChatFormat
from safedepth.served.asking import RefusalError, Reply
from safedepth.served.capabilities import Ability, Answer
from safedepth.served.forcing import prompt_of
from safedepth.served.settings import Endpoint

__all__ = ["echo"]

_TOKENS = 16
_FEWEST = 4
"""Tokens of a greedy answer that must be there to compare."""
_CLOSE = 0.1
"""Nats by which one log-prob may differ between two ways of computing it (half precision)."""


async def echo(endpoint: Endpoint, requests: Sequence[str]) -> Ability:
    """Whether log-probs of given tokens come back, and true ones.

    As many values as tokens but the first. Over a greedy answer no value may lie below another
    token's at its place; they must be those told while it was generated, where a server tells any;
    and another token in the middle must be less likely than the greedy one was.
    """
    if endpoint.kind != "ids" or endpoint.chat is None:
        return Ability(Answer.UNSURE, "Token ids are not taken, so it is not known what is echoed.")
    for request in requests:
        prompt = prompt_of(endpoint.chat, request)
        try:
            told = await endpoint.ask(request, max_tokens=_TOKENS, logprobs=True, top_logprobs=1)
            answer = _answer(endpoint.chat, told)
            if answer:
                return await _judged(endpoint, prompt, answer, told)
        except RefusalError as error:
            return Ability(Answer.NO, f"Log-probs of a prompt were refused: {error}.")
    return Ability(Answer.UNSURE, f"No greedy answer has the {_FEWEST} tokens that a comparison needs.")


async def _judged(endpoint: Endpoint, prompt: list[int], answer: list[int], told: Reply) -> Ability:
    values = await _echoed(endpoint, [*prompt, *answer])
    sent = len(prompt) + len(answer)
    if not values:
        return Ability(Answer.NO, "prompt_logprobs, and echo with logprobs, were answered without values.")
    if len(values) != sent - 1:
        return Ability(Answer.NO, f"{len(values)} values came back for {sent} tokens, not {sent - 1}.")
    values = values[len(prompt) - 1 :]
    for place, value in enumerate(values, start=1):
        above = [other for other in value.top_logprobs or [] if other.logprob > value.logprob + _CLOSE]
        if above:
            return Ability(
                Answer.NO,
                f"Token {place} of a greedy answer has {value.logprob:.2f} nats, and {above[0].token!r} "
                f"in its place {above[0].logprob:.2f}.",
            )
    generated = [value.logprob for value in told.logprobs or ()]
    apart = max((abs(a.logprob - b) for a, b in zip(values, generated, strict=False)), default=0.0)
    if apart > _CLOSE:
        return Ability(
            Answer.NO, f"Echoed and generated, the log-probs of one answer are up to {apart:.2f} nats apart."
        )
    middle = len(answer) // 2
    other = next((index for index in answer if index != answer[middle]), prompt[0])
    swapped = await _echoed(endpoint, [*prompt, *answer[:middle], other])
    if not swapped or swapped[-1].logprob >= values[middle].logprob:
        found = f"{swapped[-1].logprob:.2f} nats" if swapped else "nothing"
        return Ability(Answer.NO, f"Another token in place of the greedy one got {found}: no less likely.")
    how = f"within {apart:.3f} nats of those told while generated" if generated else "none told before"
    return Ability(
        Answer.YES,
        f"{sent - 1} values for {sent} tokens; the {len(answer)} of a greedy answer are the likeliest, "
        f"{how}; another in their place is not.",
    )


async def _echoed(endpoint: Endpoint, ids: list[int]) -> list[Logprob]:
    """The values of all tokens but the first; none where the server has none to give."""
    try:
        echoed = (await endpoint.asker.complete(ids, max_tokens=1, prompt_logprobs=1)).echoed
        if echoed is not None:
            return list(echoed)
    except RefusalError:
        pass  # the other way may be open
    reply = await endpoint.asker.complete(ids, max_tokens=1, echo=True, logprobs=True, top_logprobs=1)
    # With the generated token's own value, the last; that alone is no echo.
    return list(reply.logprobs or ())[:-1]


def _answer(chat: ChatFormat, told: Reply) -> list[int]:
    """The ids of a greedy answer, if as many as were generated; none where it is short or they are others."""
    ids = chat.answer_ids(told.text) if told.text.strip() else []
    made = len(told.logprobs) if told.logprobs is not None else told.tokens
    # One more: some servers count the token that ends the turn.
    return ids if len(ids) >= _FEWEST and made in (None, len(ids), len(ids) + 1) else []
