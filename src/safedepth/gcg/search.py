"""The search: gradient, candidates, losses, the best one stays; step by step, for many suffixes side by side.

A lane is one suffix in the making: for one prompt, or a universal one for many prompts and
models, whose losses are averaged. What a step draws depends on the seed, the lane and the
number of the step alone, so a search that was killed goes on to the same result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safedepth.errors import DataError, ModelError
from safedepth.gcg.candidates import merged, swaps, unique
from safedepth.gcg.places import Place
from safedepth.gcg.victim import Victim
from safedepth.nouns import Progress
from safedepth.runs.files import write_atomically

__all__ = ["Found", "Lane", "SearchOptions", "search"]

Broken = Callable[[str, str], bool]
"""Whether the judge finds a lane (by name) broken by a suffix."""

_PRIME = 1_000_003


@dataclass(frozen=True)
class SearchOptions:
    """How a search goes; the defaults are those of Zou et al. 2023, but for `merges`, which they lack.

    Raises DataError for numbers that leave nothing to do.
    """

    steps: int = 500
    width: int = 512
    topk: int = 256
    merges: int = 7
    check_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "width", "topk", "check_every"):
            if getattr(self, name) < 1:
                raise DataError(f"expected {name} of a search to be 1 or more, found {getattr(self, name)}")
        if self.merges < 0:
            raise DataError(f"expected merges of a search to be 0 or more, found {self.merges}")


@dataclass(frozen=True)
class Lane:
    """One suffix to be found: its name, the token ids it begins with, and where it must work.

    Every place goes with the victim it is tried on; `allowed` are the ids that may come in.
    """

    name: str
    start: tuple[int, ...]
    places: tuple[tuple[Victim, Place], ...]
    allowed: Tensor

    @property
    def text_place(self) -> Place:
        """The place that turns ids to text: the first; all share a vocabulary."""
        return self.places[0][1]


@dataclass(frozen=True)
class Found:
    """Where a lane is: the present suffix, the best one so far, every step's loss, and how it ended.

    `losses[i]` is the loss of the suffix after step i + 1. `broken` is what the judge last said,
    None before it was asked.
    """

    suffix: tuple[int, ...]
    best: tuple[int, ...]
    best_loss: float
    text: str = ""
    losses: tuple[float, ...] = ()
    broken: bool | None = None
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def broken_at(self) -> int | None:
        """The step after which the judge found it broken, which ended it; None before that."""
        return self.steps if self.broken else None

    def ended(self, options: SearchOptions) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.broken) or self.steps >= options.steps


@dataclass(frozen=True)
class _Store:
    """Where the lanes' states are kept between steps; in memory alone without a folder."""

    folder: Path | None

    def get(self, lane: Lane) -> Found | None:
        path = self._path(lane)
        if path is None or not path.is_file():
            return None
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(told[name]) for name in ("suffix", "best", "losses")}
        return Found(**(told | lists))

    def put(self, lane: Lane, found: Found) -> None:
        path = self._path(lane)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(asdict(found)).encode())

    def _path(self, lane: Lane) -> Path | None:
        name = sha256(lane.name.encode()).hexdigest()[:16]
        return None if self.folder is None else self.folder / f"{name}.json"


def search(
    lanes: Sequence[Lane],
    options: SearchOptions,
    *,
    broken: Broken | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] | None = None,
) -> list[Found]:
    """Go on with every lane until the judge finds it broken or its steps are used up; in order.

    `broken` is asked about the best suffix so far every `check_every` steps and at the end.
    States go to `folder` at these moments; the same call goes on from there. Raises ModelError
    where a place does not fit a context, or no candidate survives re-tokenisation for long.
    """
    store = _Store(folder)
    for lane in lanes:
        for victim, place in lane.places:
            victim.require_room(place, len(lane.start))
    found = [store.get(lane) or _beginning(lane) for lane in lanes]
    total = len(lanes) * options.steps
    while not all(one.ended(options) for one in found):
        for index, lane in enumerate(lanes):
            if not found[index].ended(options):
                begun = clock() if clock else 0.0
                one = _go_on(lane, index, found[index], options)
                one = _asked(lane, one, broken)
                if clock:
                    one = replace(one, seconds=one.seconds + clock() - begun)
                found[index] = one
                store.put(lane, one)
            if progress is not None:
                done = sum(options.steps if one.ended(options) else one.steps for one in found)
                hits = sum(bool(one.broken) for one in found)
                progress(f"suffix search ({hits} of {len(lanes)} found)", done, total)
    return found


def _beginning(lane: Lane) -> Found:
    start = torch.tensor(lane.start)
    loss = sum(victim.loss(place, start) for victim, place in lane.places) / len(lane.places)
    return Found(lane.start, lane.start, loss)


def _go_on(lane: Lane, index: int, found: Found, options: SearchOptions) -> Found:
    """The steps up to the next moment at which the judge is asked."""
    until = min(options.steps, (found.steps // options.check_every + 1) * options.check_every)
    while found.steps < until:
        found = _step(lane, index, found, options)
    return found


def _asked(lane: Lane, found: Found, broken: Broken | None) -> Found:
    text = lane.text_place.texts([list(found.best)])[0]
    if broken is None:
        return replace(found, text=text)
    return replace(found, text=text, broken=broken(lane.name, text))


def _step(lane: Lane, index: int, found: Found, options: SearchOptions) -> Found:
    """One step: Zou et al. 2023, algorithm 2, for one or many places; then merges of the best swaps."""
    suffix = torch.tensor(found.suffix)
    gradients = [victim.gradient(place, suffix) for victim, place in lane.places]
    slope = gradients[0].by_token.float()
    if len(gradients) > 1:
        # Prompts with steep losses would drown the others: normalised, as the authors' code does.
        slope = sum((g.by_token / g.by_token.norm(dim=-1, keepdim=True)).float().cpu() for g in gradients)
    generator = torch.Generator().manual_seed((options.seed * _PRIME + index) * _PRIME + found.steps)
    tried = unique(
        swaps(suffix, slope, lane.allowed, width=options.width, topk=options.topk, generator=generator),
        suffix,
    )
    tried = _surviving(lane, tried)
    if not len(tried):
        raise ModelError(
            "expected candidates that the tokenizer gives back as they are, found none. Allow more tokens "
            "(--topk, --non-ascii), or another number of them (--tokens)"
        )

    def losses_of(candidates: Tensor) -> Tensor:
        by_place = [
            victim.losses(place, candidates, suffix, gradient.pairs)
            for (victim, place), gradient in zip(lane.places, gradients, strict=True)
        ]
        return torch.stack(by_place).mean(dim=0)

    losses = losses_of(tried)
    if options.merges > 1:
        ranked = tried[losses.argsort(stable=True)[: 4 * options.merges]]
        more = _surviving(lane, merged(suffix, ranked, most=options.merges))
        if len(more):
            tried, losses = torch.cat([tried, more]), torch.cat([losses, losses_of(more)])
    place = int(losses.argmin())
    loss, ids = float(losses[place]), tuple(tried[place].tolist())
    better = loss < found.best_loss
    return replace(
        found,
        suffix=ids,
        best=ids if better else found.best,
        best_loss=loss if better else found.best_loss,
        losses=(*found.losses, loss),
    )


def _surviving(lane: Lane, candidates: Tensor) -> Tensor:
    """Those of the candidates that every place's tokenizer gives back as they are."""
    if not len(candidates):
        return candidates
    listed = candidates.tolist()
    kept = [all(told) for told in zip(*(p.survivors(listed) for _, p in lane.places), strict=True)]
    return candidates[torch.tensor(kept)]
