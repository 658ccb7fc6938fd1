"""The model under attack as a search uses it: gradient of a loss by the suffix, losses of many candidates.

Keys and values of what stands before the suffix are computed once; a candidate that
differs from the present suffix first at position p shares those of the positions before p
too, so it is run from p on (performance study, section e). The head sees target rows alone,
a few at a time, so [candidates, tokens, vocabulary] logits never exist. When memory is
short the batch is halved, and it is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from safedepth.errors import ModelError
from safedepth.gcg.objective import Objective, over_targets
from safedepth.gcg.places import Place
from safedepth.models import LoadedModel, context_length, head_of
from safedepth.nouns import Head
from safedepth.provider.cache import attention_layers
from safedepth.provider.decoder import is_out_of_memory

__all__ = ["Gradient", "Victim"]

logger = logging.getLogger(__name__)

LOGITS_TILE, GPU_LOGITS_TILE = 2**22, 2**25
"""Logits held at once, in float32: 16 MiB, and 128 on a GPU, which reads the head anew for every tile."""

GROUP, GPU_GROUP = 16, 64
"""Candidates that are worth a forward pass of their own; fewer share the keys of an earlier position.

On a GPU a pass of few rows takes as long as its launches.
"""

Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Gradient:
    """At one suffix: its loss, the gradient by the one-hot suffix [s, V], keys and values up to its end."""

    loss: float
    by_token: Tensor
    pairs: Pairs


@dataclass
class Victim:
    """A loaded model with the losses of suffixes in it; `rows` candidates are run at once.

    Raises ModelError for a model whose head is not known (see `models.head_of`), whose attention
    keeps no keys and values, or whose context is too short.
    """

    loaded: LoadedModel
    objective: Objective
    rows: int = 512
    head: Head = field(init=False)
    group: int = field(init=False)
    logits_tile: int = field(init=False)
    _before: dict[tuple[int, ...], Pairs] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.model = self.loaded.model
        self.device = self.model.device
        self.head = head_of(self.model)
        on_cpu = self.device.type == "cpu"
        self.group = GROUP if on_cpu else GPU_GROUP
        self.logits_tile = LOGITS_TILE if on_cpu else GPU_LOGITS_TILE
        self.embed = self.model.get_input_embeddings()

    def require_room(self, place: Place, tokens: int) -> None:
        """Raise ModelError unless chat, suffix and targets fit the context."""
        limit = context_length(self.model)
        needed = len(place.before) + tokens + len(place.after) + max(map(len, place.targets))
        if limit is not None and needed > limit:
            raise ModelError(
                f"expected chat, suffix and target to fit the context of {limit} tokens, found {needed}. "
                "Use shorter prompts or targets (--target-tokens)"
            )

    def gradient(self, place: Place, suffix: Tensor) -> Gradient:
        """Loss and gradient at `suffix` [s]; of several targets the nearest one's."""
        found = [self._gradient(place, suffix, target) for target in place.targets]
        return min(found, key=lambda one: one.loss)

    @torch.enable_grad()
    def _gradient(self, place: Place, suffix: Tensor, target: Sequence[int]) -> Gradient:
        tail = torch.tensor([[*place.after, *target[:-1]]], dtype=torch.long, device=self.device)
        with torch.no_grad():
            ids = torch.cat([suffix.to(self.device)[None], tail], dim=1)
            embedded = self.embed(ids)
        start = embedded[:, : len(suffix)].detach().requires_grad_()
        cache = _filled(self._pairs_before(place), 1)
        hidden = self._hidden(cache, inputs_embeds=torch.cat([start, embedded[:, len(suffix) :]], dim=1))
        loss = self.objective(self._logprobs(hidden[:, -len(target) :], target))[0]
        (slope,) = torch.autograd.grad(loss, start)
        upto = len(place.before) + len(suffix)
        pairs = [(keys[:, :, :upto].detach(), values[:, :, :upto].detach()) for keys, values in _pairs(cache)]
        with torch.no_grad():
            weight = cast(Tensor, self.embed.weight)
            by_token = slope[0].to(weight.dtype) @ weight.T
        return Gradient(float(loss.detach()), by_token, pairs)

    @torch.no_grad()
    def losses(self, place: Place, candidates: Tensor, suffix: Tensor, pairs: Pairs) -> Tensor:
        """Losses [n] of `candidates` [n, s], which differ from `suffix` [s], whose `pairs` are at hand."""
        first = (candidates != suffix).to(torch.uint8).argmax(dim=-1)
        found = torch.empty(len(candidates))
        for where, index in _groups(first, self.group):
            common = [
                (keys[:, :, : len(place.before) + where], values[:, :, : len(place.before) + where])
                for keys, values in pairs
            ]
            rest = candidates[index, where:].to(self.device)
            by_target = [self._from(common, rest, place.after, target) for target in place.targets]
            found[index] = over_targets(by_target).float().cpu()
        return found

    def loss(self, place: Place, suffix: Tensor) -> float:
        """The loss of one suffix [s], computed from the prompt on."""
        with torch.no_grad():
            before = self._pairs_before(place)
            rest = suffix.to(self.device)[None]
            by_target = [self._from(before, rest, place.after, target) for target in place.targets]
            return float(over_targets(by_target)[0])

    def _from(self, common: Pairs, rest: Tensor, after: Sequence[int], target: Sequence[int]) -> Tensor:
        """Losses [n] of the rows `rest` [n, r] that go on from common keys and values, batch by batch."""
        tail = torch.tensor([*after, *target[:-1]], dtype=torch.long, device=self.device)
        found: list[Tensor] = []
        start = 0
        while start < len(rest):
            part = rest[start : start + self.rows]
            try:
                ids = torch.cat([part, tail.expand(len(part), -1)], dim=1)
                hidden = self._hidden(_filled(common, len(part)), input_ids=ids)[:, -len(target) :]
                found.append(self.objective(self._logprobs(hidden, target)))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.rows == 1:
                    raise
                self.rows = max(1, min(self.rows, len(part)) // 2)
                logger.warning("out of memory: candidates are run %d at a time from now on", self.rows)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            start += len(part)
        return torch.cat(found)

    def _hidden(self, cache: DynamicCache, **inputs: Tensor) -> Tensor:
        backbone = cast(Any, self.model.base_model)
        return cast(Tensor, backbone(cache=cache, use_cache=True, **inputs).last_hidden_state)

    def _logprobs(self, hidden: Tensor, target: Sequence[int]) -> Tensor:
        """Log-probabilities [n, T] of the target's tokens from hidden states [n, T, d], a tile at a time."""
        wanted = torch.tensor(target, device=self.device).expand(hidden.shape[0], -1).reshape(-1)
        rows = hidden.reshape(-1, hidden.shape[-1])
        size = max(1, self.logits_tile // self.head.weight.shape[0])
        parts = [
            self._of_rows(rows[start : start + size], wanted[start : start + size])
            for start in range(0, len(rows), size)
        ]
        return torch.cat(parts).reshape(hidden.shape[:2])

    def _of_rows(self, rows: Tensor, wanted: Tensor) -> Tensor:
        head = self.head
        logits = torch.nn.functional.linear(rows, head.weight, head.bias).float()
        if head.scale != 1:
            logits = logits * head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        chosen = logits.gather(1, wanted[:, None])[:, 0]
        if torch.is_grad_enabled():
            return chosen - logits.logsumexp(dim=-1)
        # In place: another tensor of this size costs as much as the sum itself.
        top = logits.amax(dim=-1, keepdim=True)
        return chosen - top[:, 0] - logits.sub_(top).exp_().sum(dim=-1).log()

    def _pairs_before(self, place: Place) -> Pairs:
        """Keys and values of what stands before the suffix, computed once."""
        if place.before not in self._before:
            with torch.no_grad():
                cache = DynamicCache()
                ids = torch.tensor([place.before], dtype=torch.long, device=self.device)
                self._hidden(cache, input_ids=ids)
            self._before[place.before] = _pairs(cache)
        return self._before[place.before]


def _pairs(cache: DynamicCache) -> Pairs:
    found = attention_layers(cache)
    if any(pair is None for pair in found):
        raise ModelError("expected a model whose layers all keep keys and values, found one that does not")
    return [pair for pair in found if pair is not None]


def _filled(pairs: Pairs, rows: int) -> DynamicCache:
    """A cache that holds `pairs` for every one of `rows` rows."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(pairs):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def _groups(first: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Candidates to run together: (position they are run from, their indices), by first changed position [n].

    Neighbouring positions are joined until a group has `size` candidates; all are then run
    from the earliest one, which costs a few tokens and saves a pass.
    """
    order = first.argsort(stable=True)
    counts = torch.bincount(first).tolist()
    start = end = 0
    where: int | None = None
    for position, count in enumerate(counts):
        if count and where is None:
            where = position
        end += count
        if where is not None and (end - start >= size or position == len(counts) - 1):
            yield where, order[start:end]
            start, where = end, None
