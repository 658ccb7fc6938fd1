"""Whether a server continues what the assistant is made to say: as a message's text, or as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.chat import ChatFormat
from safedepth.nouns import Message
from safedepth.served.asking import Asker, RefusalError, Reply
from safedepth.served.canaries import Cut, cuts_of, goes_on
from safedepth.served.capabilities import Ability, Answer

__all__ = ["continues", "prompt_of", "token_ids", "white_space"]

_TOKENS = 12
_ENOUGH = 2
"""Cuts that must decide, before they decide anything."""
_CUTS = 6
"""Cuts that are tried."""
_COUNTED = 2
_SLACK = 1
"""Tokens by which a text may differ in number between two places of a conversation."""
_SPACES = (" ", "\n", "\n\n")


async def continues(asker: Asker, cuts: Sequence[Cut]) -> Ability:
    """Whether a last message from the assistant is continued exactly.

    By its text, and by the prompt's tokens: they must grow by those of the message alone, since the
    end of a turn and the head of a new one are tokens too, and a good model goes on across these.
    """
    if len(cuts) < _ENOUGH:
        return _nothing_to_cut(len(cuts))
    try:
        return await _continued(asker, cuts[:_CUTS], asking=True)
    except RefusalError as error:
        refused = str(error)
    try:
        plain = await _continued(asker, cuts[:_CUTS], asking=False)
    except RefusalError as error:
        return Ability(Answer.NO, f"A last message from the assistant was refused: {error}.")
    # Audits always ask to continue; a server that does so only unasked is of no use to them.
    answer = Answer.UNSURE if plain else plain.answer
    return Ability(answer, f"The request to continue was refused ({refused}). Without it: {plain.evidence}")


async def _continued(asker: Asker, cuts: Sequence[Cut], *, asking: bool) -> Ability:
    agreed, failed = 0, ""
    counted: list[tuple[int | None, int | None, int | None]] = []
    for cut in cuts:
        reply = await asker.chat(cut.request, cut.said, asking=asking, max_tokens=_TOKENS)
        if len(counted) < _COUNTED:
            inside = await asker.chat(f"{cut.request} {cut.said}", max_tokens=1)
            alone = await asker.chat(cut.request, max_tokens=1)
            counted.append((reply.prompt_tokens, inside.prompt_tokens, alone.prompt_tokens))
        if goes_on(reply.text, cut.rest):
            agreed += 1
        else:
            failed = failed or _differs(cut, reply)
    return _judged(agreed, len(cuts), counted, failed)


def _judged(
    agreed: int, asked: int, counted: Sequence[tuple[int | None, int | None, int | None]], failed: str
) -> Ability:
    grown = [
        (with_message - inside, with_message - alone)
        for with_message, inside, alone in counted
        if with_message is not None and inside is not None and alone is not None
    ]
    extra = [more for more, _ in grown]
    if agreed <= asked // 4:
        return Ability(Answer.NO, f"{agreed} of {asked} answers were continued: {failed}{_grown(grown)}.")
    if agreed < asked * 3 / 4:
        return Ability(Answer.UNSURE, f"Only {agreed} of {asked} answers were continued: {failed}.")
    said = f"{agreed} of {asked} answers, cut in the middle, were continued as they went on"
    if not extra:
        return Ability(
            Answer.UNSURE, f"{said}, but the server counts no prompt tokens: a new turn may go on so too."
        )
    if max(map(abs, extra)) > _SLACK:
        return Ability(
            Answer.UNSURE,
            f"{said}, but the prompt grew by {extra[0]:+d} tokens more than the message has: a turn may "
            "have been ended and another begun.",
        )
    return Ability(Answer.YES, f"{said}, and the prompt grew by the message's tokens alone.")


def _grown(grown: Sequence[tuple[int, int]]) -> str:
    """What the number of tokens says of a server that does not continue."""
    if not grown:
        return ""
    more, whole = grown[0]
    if whole <= 0:
        return "; the prompt did not grow by the message, which was left out"
    if more > _SLACK:
        return f"; the prompt grew by {more} tokens more than the message has, so another turn was begun"
    return ""


async def white_space(asker: Asker, cuts: Sequence[Cut], chat: ChatFormat | None) -> Ability:
    """Whether white space at the end of the message is kept, by the tokens it adds to the prompt."""
    if not cuts:
        return _nothing_to_cut(0)
    cut, kept = cuts[0], []
    try:
        base = (await asker.chat(cut.request, cut.said, max_tokens=1)).prompt_tokens
        for space in _SPACES:
            more = (await asker.chat(cut.request, cut.said + space, max_tokens=1)).prompt_tokens
            if base is None or more is None:
                return Ability(Answer.UNSURE, "The server counts no prompt tokens, by which to tell.")
            kept.append(more - base)
    except RefusalError as error:
        return Ability(Answer.NO, f"A message that ends in white space was refused: {error}.")
    if chat is None:
        if min(kept) > 0:
            return Ability(Answer.YES, f"A space and line breaks added {_listed(kept)} tokens.")
        return Ability(
            Answer.UNSURE,
            f"A space, a line break and two added {_listed(kept)} tokens: stripped, or nothing to this "
            "tokenizer (name it to tell).",
        )
    plain = len(chat.answer_ids(cut.said))
    wanted = [len(chat.answer_ids(cut.said + space)) - plain for space in _SPACES]
    if not any(wanted):
        return Ability(Answer.YES, "The tokenizer has no tokens for white space, so none can be lost.")
    found = f"A space, a line break and two added {_listed(kept)} tokens"
    if kept == wanted:
        return Ability(Answer.YES, f"{found}, as they do by themselves.")
    return Ability(Answer.NO, f"{found}, and {_listed(wanted)} by themselves: some is lost.")


async def token_ids(asker: Asker, requests: Sequence[str], chat: ChatFormat | None) -> Ability:
    """Whether completions take token ids and go on after exactly these.

    By the text that follows them, and by `prompt_tokens`, which must be as many as were sent: with
    ids that no text gives (a word in pieces) too, which a server that decodes and tokenises again
    cannot count right.
    """
    if chat is None:
        return Ability(Answer.UNSURE, "No tokenizer was named, so there are no ids to send (--tokenizer).")
    agreed, asked, failed = 0, 0, ""
    sent: list[tuple[int, int | None]] = []
    try:
        for request in requests:
            if asked >= _CUTS:
                break
            prompt = prompt_of(chat, request)
            whole = await asker.complete(prompt, max_tokens=2 * _TOKENS)
            sent.append((len(prompt), whole.prompt_tokens))
            for cut in cuts_of(request, whole.text):
                ids = [*prompt, *chat.answer_ids(cut.said)]
                reply = await asker.complete(ids, max_tokens=_TOKENS)
                sent.append((len(ids), reply.prompt_tokens))
                asked += 1
                agreed += goes_on(reply.text, cut.rest)
                failed = failed if goes_on(reply.text, cut.rest) else failed or _differs(cut, reply)
        odd = _in_pieces(chat, requests)
        if odd:
            sent.append((len(odd), (await asker.complete(odd, max_tokens=1)).prompt_tokens))
    except RefusalError as error:
        return Ability(Answer.NO, f"A prompt of token ids was refused: {error}.")
    wrong = next(((had, told) for had, told in sent if told is not None and told != had), None)
    if wrong:
        return Ability(Answer.NO, f"{wrong[0]} ids were sent and the server counted {wrong[1]}.")
    if asked < _ENOUGH:
        return _nothing_to_cut(asked)
    if agreed < asked * 3 / 4:
        answer = Answer.NO if agreed <= asked // 4 else Answer.UNSURE
        return Ability(answer, f"{agreed} of {asked} answers were continued from their ids: {failed}.")
    said = f"{agreed} of {asked} answers were continued from their first ids"
    if any(told is None for _, told in sent):
        return Ability(Answer.UNSURE, f"{said}, but the server does not count them: it may tokenise again.")
    return Ability(Answer.YES, f"{said}, and the server counted as many ids as were sent{_split(odd)}.")


def prompt_of(chat: ChatFormat, request: str) -> list[int]:
    """The ids of a request up to where the assistant speaks."""
    return chat.prompt_ids([Message(role="user", content=request)])


def _in_pieces(chat: ChatFormat, requests: Sequence[str]) -> list[int]:
    """A prompt with one word in more tokens than its text has; none where the tokenizer knows only words."""
    for request in requests:
        prompt = prompt_of(chat, request)
        for word in request.split():
            for place in range(1, len(word)):
                pieces = chat.ids_of_texts([word[:place], word[place:]])
                together = [*pieces[0], *pieces[1]]
                again = chat.ids_of_texts([word])[0]
                unknown = chat.tokenizer.unk_token_id
                if unknown in together or len(together) == len(again) or chat.decode(together) != word:
                    continue
                return [*prompt, *together]
    return []


def _split(odd: Sequence[int]) -> str:
    return ", a word in pieces among them" if odd else ""


def _differs(cut: Cut, reply: Reply) -> str:
    expected, found = cut.rest.strip()[:24], reply.text.strip()[:24]
    return f"after {cut.said[-24:]!r} came {found!r}, not {expected!r}"


def _nothing_to_cut(number: int) -> Ability:
    return Ability(
        Answer.UNSURE,
        f"Only {number} of the answers could be cut so that a new answer would not begin as their rest does.",
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
