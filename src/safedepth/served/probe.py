"""Find out what a server does with a model, by requests that only one who does it can answer so."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import anyio
from inspect_ai.model import Model

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError
from safedepth.served.asking import Asker, RefusalError
from safedepth.served.canaries import REQUESTS, cuts_of, fingerprint_of, kept
from safedepth.served.capabilities import Ability, Answer, Capabilities
from safedepth.served.echo import echo
from safedepth.served.forcing import continues, token_ids, white_space
from safedepth.served.settings import Endpoint, logit_bias, seed, stop, top_k

__all__ = ["fingerprint", "probe"]

SECONDS = 600.0
"""How long a whole probe may take."""

_TOKENS = 24


async def probe(model: Model, *, chat: ChatFormat | None) -> Capabilities:
    """Ask a server about sixty short, harmless requests, one after the other, and say what it can do.

    `model` is Inspect's, of chats or of completions; `chat` renders prompts and counts tokens, None
    where no tokenizer was named (what hangs on ids is then unsure). Raises ModelError where the
    server is down or too slow, refuses the key, or does not serve the model.
    """
    asker = Asker(model)
    try:
        with anyio.fail_after(SECONDS):
            return await _probed(asker, chat)
    except TimeoutError as error:
        raise ModelError(
            f"expected the server at {asker.url} to answer a probe within {SECONDS:.0f} seconds, found it "
            f"slower ({asker.requests} requests were sent). Ask when it is less busy"
        ) from error
    finally:
        await asker.close()


async def _probed(asker: Asker, chat: ChatFormat | None) -> Capabilities:
    answers, refused = await _greedy(asker)
    cards = await asker.models()
    found = [cuts_of(request, answer) for request, answer in zip(REQUESTS, answers, strict=True)]
    # The first cut of every answer, then the second ones.
    cuts = [cut for some in zip_longest(*found) for cut in some if cut is not None]
    if refused is None:
        continued = await continues(asker, cuts)
    else:
        continued = Ability(Answer.NO, f"Chats were refused: {refused}.")
    if continued:
        spaced = await white_space(asker, cuts, chat)
    else:
        spaced = Ability(continued.answer, "Asked only of a server that was seen to continue a message.")
    ids = await token_ids(asker, REQUESTS, chat)
    # What gets the longest answers tells the most.
    requests = sorted(REQUESTS, key=lambda request: -len(answers[REQUESTS.index(request)]))
    endpoint = Endpoint(asker, "ids" if ids else "chat" if refused is None else "text", chat)
    abilities = {
        "echo": await echo(endpoint, requests),
        "seed": await seed(endpoint, requests),
        "logit_bias": await logit_bias(endpoint, requests),
        "top_k": await top_k(endpoint, requests),
        "stop": await stop(endpoint, requests),
    }
    again, _ = await _greedy(asker)
    return Capabilities(
        url=asker.url,
        model=asker.served,
        served_as=tuple(str(card["id"]) for card in cards if card.get("id")),
        continues=continued,
        white_space=spaced,
        token_ids=ids,
        context=_context(cards, asker.served),
        # A server that does not repeat itself cannot be told from another model.
        fingerprint=fingerprint_of(answers) if fingerprint_of(again) == fingerprint_of(answers) else "",
        canaries=tuple(kept(answer) for answer in answers),
        **abilities,
    )


async def fingerprint(model: Model) -> str:
    """The SHA-256 of the greedy answers to the canaries, as `Capabilities` holds it. Raises ModelError."""
    asker = Asker(model)
    try:
        with anyio.fail_after(SECONDS):
            return fingerprint_of((await _greedy(asker))[0])
    except TimeoutError as error:
        raise ModelError(
            f"expected the server at {asker.url} to answer {len(REQUESTS)} short requests within "
            f"{SECONDS:.0f} seconds, found it slower. Ask when it is less busy"
        ) from error
    finally:
        await asker.close()


async def _greedy(asker: Asker) -> tuple[list[str], str | None]:
    """The greedy answers to the canaries, and why the chat gave none where completions had to.

    Raises ModelError where neither does: the model's name is not known there, say.
    """
    try:
        return [(await asker.chat(request, max_tokens=_TOKENS)).text for request in REQUESTS], None
    except RefusalError as error:
        refused = str(error)
    try:
        return [(await asker.complete(request, max_tokens=_TOKENS)).text for request in REQUESTS], refused
    except RefusalError as error:
        known = [str(card["id"]) for card in await asker.models() if card.get("id")]
        listed = f"It lists {', '.join(known[:5])}" if known else "It lists no models"
        raise ModelError(
            f"expected the server at {asker.url} to answer as {asker.served!r}, found chats refused "
            f"({refused}) and completions too ({error}). {listed}; name a model as the server does"
        ) from error


def _context(cards: list[dict[str, Any]], served: str) -> int | None:
    """What the model's card says, or the only card there is; an adapter's says its base model."""
    named = {card.get("id"): card for card in cards}
    card = named.get(served) or (cards[0] if len(cards) == 1 else None)
    told = (card or {}).get("max_model_len") or (named.get((card or {}).get("parent")) or {}).get(
        "max_model_len"
    )
    return int(told) if told else None
