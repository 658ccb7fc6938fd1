"""One forward for many contexts: which places of it matter to whom, and what was found there.

Every group's longest context is run once. Each row of the group needs the logits after
its own last token, and the log-probs of its prompt where its job asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache

from safedepth.provider.decoder import Chunk, Decoder
from safedepth.provider.jobs import TokenLogprob
from safedepth.provider.logprobs import logprobs_of
from safedepth.provider.rows import Row
from safedepth.provider.sharing import Group

__all__ = ["LOGITS_TILE", "Prefilled", "prefill"]

LOGITS_TILE = 2**24
"""Logits held in float32 at once: 64 MiB."""


@dataclass(frozen=True)
class Prefilled:
    """Keys and values of all groups, and what the rows asked for.

    `next_logits[group, n]` are the float32 logits [V] of the token after the first n
    tokens of a group; `scores[group]` the log-probs of its tokens but the first, as
    far as a row asked for them.
    """

    cache: Cache
    next_logits: dict[tuple[int, int], Tensor]
    scores: list[list[TokenLogprob]]

    def score(self, group: int, row: Row) -> tuple[TokenLogprob, ...]:
        """The log-probs of a row's prompt, with as many alternatives as it asked for."""
        top = row.job.sampling.prompt_logprobs
        return tuple(value.keep(top or 0) for value in self.scores[group][: len(row.job.ids) - 1])


@dataclass(frozen=True)
class _Wanted:
    """What the rows of one group need: contexts' lengths, tokens to score, alternatives for each."""

    lengths: frozenset[int]
    scored: int
    top: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Wanted:
        asking = [row.job for row in rows if row.wants_prompt]
        return cls(
            lengths=frozenset(len(row.context) for row in rows if row.limit),
            scored=max((len(job.ids) - 1 for job in asking), default=0),
            top=max((job.sampling.prompt_logprobs or 0 for job in asking), default=0),
        )

    @property
    def places(self) -> set[int]:
        """Columns whose logits are needed."""
        return {length - 1 for length in self.lengths}.union(range(self.scored))


def prefill(decoder: Decoder, groups: Sequence[Group[Row]], *, tokens: int) -> Prefilled:
    """Run the groups' contexts, at most `tokens` padded tokens in one forward."""
    wanted = [_Wanted.of(group.rows) for group in groups]
    next_logits: dict[tuple[int, int], Tensor] = {}
    scores: list[list[TokenLogprob]] = [[] for _ in groups]

    def visit(chunk: Chunk) -> None:
        inside: list[int] = []
        for index, (group, column) in enumerate(zip(chunk.rows, chunk.columns, strict=True)):
            if column + 1 in wanted[group].lengths:
                next_logits[group, column + 1] = chunk.logits[index].float()
            if column < wanted[group].scored:
                inside.append(index)
        if not inside:
            return
        targets = [groups[chunk.rows[index]].ids[chunk.columns[index] + 1] for index in inside]
        top = max(wanted[chunk.rows[index]].top for index in inside)
        for index, value in zip(inside, logprobs_of(chunk.logits[inside], targets, top=top), strict=True):
            scores[chunk.rows[index]].append(value)

    columns = tokens // len(groups)
    scored = sum(want.scored > 0 for want in wanted)
    if scored:
        columns = min(columns, LOGITS_TILE // decoder.vocabulary // scored)
    cache = decoder.prefill(
        [group.ids for group in groups],
        [want.places for want in wanted],
        columns=max(1, columns),
        visit=visit,
    )
    return Prefilled(cache, next_logits, scores)
