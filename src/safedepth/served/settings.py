"""Whether a server honours what samples hang on: seed, top-k, biased tokens, and where to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safedepth.chat import ChatFormat
from safedepth.served.asking import Asker, RefusalError, Reply
from safedepth.served.canaries import goes_on
from safedepth.served.capabilities import Ability, Answer
from safedepth.served.forcing import prompt_of

__all__ = ["Endpoint", "logit_bias", "seed", "stop", "top_k"]

_TOKENS = 16
_HOT = 2.0
"""A temperature at which even a sure model's samples differ, and that every server allows."""
_SEEDS = (11, 12)


@dataclass(frozen=True)
class Endpoint:
    """The way in which an audit will ask: token ids, the chat, or a bare text where there is no chat."""

    asker: Asker
    kind: str
    chat: ChatFormat | None

    async def ask(self, request: str, **settings: Any) -> Reply:
        """A reply to one request. Raises RefusalError, ModelError."""
        if self.kind == "chat":
            return await self.asker.chat(request, **settings)
        return await self.asker.complete(self.prompt(request), **settings)

    def prompt(self, request: str) -> str | list[int]:
        """What completions take: ids where they do."""
        return prompt_of(self.chat, request) if self.kind == "ids" and self.chat else request


async def seed(endpoint: Endpoint, requests: Sequence[str]) -> Ability:
    """Whether one seed gives one sample, and another seed another."""
    pairs = []
    try:
        for number in _SEEDS:
            asked = {"seed": number, "temperature": _HOT, "max_tokens": _TOKENS}
            pairs.append([(await endpoint.ask(requests[0], **asked)).text for _ in range(2)])
    except RefusalError as error:
        return Ability(Answer.NO, f"A seed was refused: {error}.")
    same = sum(one == other for one, other in pairs)
    kinds = len({text for pair in pairs for text in pair})
    if same < len(pairs):
        return Ability(Answer.NO, f"{len(pairs) - same} of {len(pairs)} seeds gave two samples, asked twice.")
    if kinds == 1:
        return Ability(
            Answer.UNSURE, f"All samples are one, whatever the seed, at temperature {_HOT:g}: not sampled, "
            "or never with another seed."
        )  # fmt: skip
    return Ability(Answer.YES, f"{len(pairs)} seeds asked twice gave the same twice, {kinds} samples in all.")


async def top_k(endpoint: Endpoint, requests: Sequence[str]) -> Ability:
    """Whether top-k 1 makes hot samples the greedy answer."""
    agreed = differed = 0
    hot = {"temperature": _HOT, "max_tokens": _TOKENS}
    try:
        for number, request in zip(_SEEDS, requests, strict=False):
            greedy = (await endpoint.ask(request, max_tokens=_TOKENS)).text
            free = (await endpoint.ask(request, seed=number, **hot)).text
            bound = (await endpoint.ask(request, seed=number, top_k=1, **hot)).text
            differed += not _alike(free, greedy)
            agreed += _alike(bound, greedy)
    except RefusalError as error:
        return Ability(Answer.NO, f"top_k was refused: {error}.")
    asked = min(len(_SEEDS), len(requests))
    if agreed < asked:
        found = f"with top_k 1, {asked - agreed} of {asked} samples were not the greedy answer"
        return Ability(Answer.NO, f"At temperature {_HOT:g}, {found}.")
    if not differed:
        return Ability(Answer.UNSURE, "Samples are the greedy answer without top_k too.")
    return Ability(
        Answer.YES,
        f"With top_k 1 all {asked} hot samples were the greedy answer; without, {differed} were not.",
    )


def _alike(text: str, greedy: str) -> bool:
    return text.strip() == greedy.strip() or goes_on(text, greedy)


async def logit_bias(endpoint: Endpoint, requests: Sequence[str]) -> Ability:
    """Whether a token with a bias of +100 is all that comes, and one with -100 does not come."""
    chat = endpoint.chat
    if chat is None:
        return Ability(Answer.UNSURE, "No tokenizer was named, so no token can be (--tokenizer).")
    try:
        greedy = (await endpoint.ask(requests[0], max_tokens=_TOKENS)).text
        if not greedy.strip():
            return Ability(Answer.UNSURE, "The greedy answer is empty: there is no token to leave out.")
        first, wanted = chat.answer_ids(greedy)[0], chat.answer_ids(requests[0])[0]
        forced = (await endpoint.ask(requests[0], max_tokens=3, logit_bias={str(wanted): 100})).text
        without = (await endpoint.ask(requests[0], max_tokens=3, logit_bias={str(first): -100})).text
    except RefusalError as error:
        return Ability(Answer.NO, f"logit_bias was refused: {error}.")
    expected = chat.decode([wanted] * 3).strip()
    start = chat.decode([first]).strip()
    if forced.strip() == expected and not without.strip().startswith(start):
        return Ability(Answer.YES, f"A token at +100 gave {expected!r}, and one at -100 stayed away.")
    return Ability(
        Answer.NO,
        f"A token at +100 gave {forced.strip()!r}, not {expected!r}; without {start!r} came "
        f"{without.strip()!r}.",
    )


async def stop(endpoint: Endpoint, requests: Sequence[str]) -> Ability:
    """Whether a reply ends before a stop string; where token ids are taken, before a stop token's id too."""
    for request in requests:
        try:
            greedy = (await endpoint.ask(request, max_tokens=_TOKENS)).text.strip()
            words = greedy.split()
            word = next((word for word in words[2:] if greedy.find(word) > 0 and len(word) > 2), None)
            if word is None:
                continue
            cut = (await endpoint.ask(request, max_tokens=_TOKENS, stop_seqs=[word])).text.strip()
            expected = greedy[: greedy.find(word)].strip()
            if cut != expected:
                return Ability(Answer.NO, f"A reply that was to end before {word!r} is {cut[-40:]!r}.")
            if endpoint.kind != "ids" or endpoint.chat is None:
                return Ability(Answer.YES, f"A reply ended before the stop string {word!r}.")
            return await _stop_ids(endpoint, endpoint.chat, request, greedy, word)
        except RefusalError as error:
            return Ability(Answer.NO, f"A stop was refused: {error}.")
    return Ability(Answer.UNSURE, "No greedy answer is long enough to be cut.")


async def _stop_ids(endpoint: Endpoint, chat: ChatFormat, request: str, greedy: str, word: str) -> Ability:
    ids = chat.answer_ids(greedy)
    place = next((place for place in range(2, len(ids)) if ids[place] not in ids[:place]), None)
    if place is None:
        return Ability(Answer.UNSURE, f"A reply ended before {word!r}, but no id tells a stop token's end.")
    reply = await endpoint.ask(request, max_tokens=_TOKENS, stop_token_ids=[ids[place]])
    text, expected = reply.text.strip(), chat.decode(ids[:place]).strip()
    # vLLM shows the stop token's own text where it is no special token; others do not.
    if text not in (expected, chat.decode(ids[: place + 1]).strip()):
        return Ability(
            Answer.NO, f"stop_token_ids of the token after {expected[-24:]!r} did not end it: {text[-40:]!r}."
        )
    return Ability(Answer.YES, f"Replies ended at the stop string {word!r} and at the id {ids[place]}.")
