"""Suffixes searched on a local model and stopped by a judge: what studies, audits and claims share.

What the search believes is no result. Whoever reports asks again with the attack `suffix`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.data.suffixes import Suffix
from safedepth.errors import DataError, ModelError
from safedepth.gcg import Found, Lane, SearchOptions, Victim, search
from safedepth.gcg.objective import OBJECTIVES
from safedepth.gcg.places import Place, allowed_tokens, initial_suffix, with_suffix
from safedepth.judges.text import outcome_of_text
from safedepth.measure.statistics import rate
from safedepth.models import LoadedModel, context_length, require_same_vocabulary
from safedepth.nouns import Outcome, Progress, Prompt, Rate
from safedepth.provider import Engine, Job, Sampling
from safedepth.studies import summary
from safedepth.studies.summary import entry_of
from safedepth.studies.target import Target

__all__ = ["METHODS", "SuffixOptions", "Suffixes", "search_suffixes", "suffix_block"]

METHODS = ("per prompt", "universal")
UNIVERSAL = "universal"
REPLY_TOKENS = 160
"""Tokens of a reply that is looked at during the search."""


@dataclass(frozen=True)
class SuffixOptions:
    """How suffixes are searched: of `tokens`, towards the first `target_tokens` of the harmful answers.

    `target` is another text to aim at, for all prompts. `universal` asks for one suffix for
    all prompts. The rest is that of `gcg.SearchOptions`. Raises DataError for what means nothing.
    """

    steps: int = 500
    width: int = 512
    topk: int = 256
    merges: int = 7
    check_every: int = 10
    tokens: int = 20
    target_tokens: int = 20
    target: str | None = None
    objective: str = "cross_entropy"
    universal: bool = False
    ascii_only: bool = True

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.target_tokens < 1:
            raise DataError("expected a suffix and a target of at least one token each, found none")
        if self.objective not in OBJECTIVES:
            raise DataError(f"expected an objective out of {', '.join(OBJECTIVES)}, found {self.objective!r}")
        if self.target is not None and not self.target.strip():
            raise DataError("expected a target to aim at, found an empty one (--target TEXT)")
        self.search(seed=0)

    def search(self, *, seed: int) -> SearchOptions:
        """The part that the search itself knows."""
        return SearchOptions(self.steps, self.width, self.topk, self.merges, self.check_every, seed)


@dataclass(frozen=True)
class Suffixes:
    """What was found: suffixes as artifacts, a table of losses (`lane`, `step`, `loss`), one of searches."""

    suffixes: tuple[Suffix, ...]
    losses: pd.DataFrame
    searches: pd.DataFrame


def search_suffixes(
    target: Target,
    prompts: Sequence[Prompt],
    options: SuffixOptions,
    *,
    judge: str,
    seed: int,
    folder: Path | None = None,
    others: Sequence[LoadedModel] = (),
    progress: Progress | None = None,
) -> Suffixes:
    """Search a suffix for every prompt, or one for all, on a local model (and `others` besides it).

    States are kept in `folder`; the same call goes on from there. Raises ModelError for a
    model behind a server, DataError where a prompt has nothing to aim at.
    """
    if target.loaded is None:
        raise ModelError(
            f"expected a local checkpoint to search suffixes on, found {target.model}, which is reached "
            "through a server: gradients need the weights. Search on an open model and give the suffixes "
            "(--suffixes FILE)"
        )
    aims = {prompt.id: _aim(prompt, options) for prompt in prompts}
    for other in others:
        require_same_vocabulary(target.loaded, other)
    lanes = _lanes([target.loaded, *others], prompts, aims, options)
    with Engine(target.loaded.model) as engine:
        judged = _Judge(engine, target.loaded, prompts, judge)
        found = search(
            lanes,
            options.search(seed=seed),
            broken=judged,
            folder=folder,
            progress=progress,
            clock=time.monotonic,
        )
    suffixes = tuple(
        Suffix(
            one.text, None if options.universal else lane.name, _method(options), target.loaded.card.name,
            options.target or ("" if options.universal else aims[lane.name]), one.best_loss, one.steps, seed,
        )
        for lane, one in zip(lanes, found, strict=True)
    )  # fmt: skip
    return Suffixes(suffixes, _losses(lanes, found), _searches(lanes, found))


def suffix_block(
    found: Suffixes, replies: pd.DataFrame, options: SuffixOptions, *, model: str, judge: str
) -> dict[str, Any]:
    """The block `suffix` of `summary.json`; `replies` holds the judge's verdicts on the attack `suffix`."""
    steps = sorted({*range(0, options.steps + 1, options.check_every), options.steps})
    searches = [_told(row) for row in found.searches.to_dict("records")]
    success = [{"step": step, **entry_of(_broken_by(searches, step))} for step in steps]
    told = summary.verdicts(replies, judge)
    tested = summary.rate_of(told[(told["attack"] == "suffix") & (told["model"] == model)])
    facts: list[list[Any]] = [
        ["method", _method(options)], ["objective", options.objective], ["suffix tokens", options.tokens],
        ["target tokens", options.target_tokens], ["steps, at most", options.steps],
        ["candidates a step", options.width], ["searched for", len(searches)],
    ]  # fmt: skip
    losses = [
        {"prompt_id": str(lane), "step": int(step), "loss": float(loss)}
        for lane, step, loss in found.losses.itertuples(index=False)
    ]
    return {
        "method": _method(options),
        "model": model,
        "facts": facts,
        "loss": losses,
        "searches": searches,
        "success": success,
        "tested": entry_of(tested),
    }


def _method(options: SuffixOptions) -> str:
    return METHODS[options.universal]


def _aim(prompt: Prompt, options: SuffixOptions) -> str:
    aim = options.target if options.target is not None else prompt.harmful
    if aim is None or not aim.strip():
        raise DataError(
            f"expected something for the answer to prompt {prompt.id!r} to begin with, found nothing. Add a "
            "harmful answer or target to it, or give one for all (--target TEXT)"
        )
    return aim


def _lanes(
    models: Sequence[LoadedModel], prompts: Sequence[Prompt], aims: dict[str, str], options: SuffixOptions
) -> list[Lane]:
    """One lane a prompt, or one for all; every place on every model."""
    victims = [Victim(model, OBJECTIVES[options.objective], rows=options.width) for model in models]
    chat = models[0].chat
    allowed = allowed_tokens(
        chat, min(len(victim.head.weight) for victim in victims), ascii_only=options.ascii_only
    )
    lanes: list[Lane] = []
    for prompt in prompts:
        start = initial_suffix(chat, prompt.messages, options.tokens, allowed)
        places = [
            Place.of(
                model.chat, prompt.messages, [aims[prompt.id]], suffix=start, tokens=options.tokens
            ).first_targets(options.target_tokens)
            for model in models
        ]
        ids = tuple(places[0].suffix_ids(start))
        lanes.append(Lane(prompt.id, ids, tuple(zip(victims, places, strict=True)), allowed))
    if not options.universal:
        return lanes
    together = tuple(place for lane in lanes for place in lane.places)
    return [replace(lanes[0], name=UNIVERSAL, places=together)]


@dataclass
class _Judge:
    """Asks the model greedily with a suffix and shows the reply to the judge."""

    engine: Engine
    loaded: LoadedModel
    prompts: Sequence[Prompt]
    judge: str

    def __call__(self, lane: str, suffix: str) -> bool:
        """Whether every prompt of the lane is broken."""
        asked = [p for p in self.prompts if lane in (p.id, UNIVERSAL)]
        talks = [with_suffix(prompt.messages, suffix) for prompt in asked]
        limit = context_length(self.loaded.model) or 2**30
        jobs = []
        for talk in talks:
            ids = tuple(self.loaded.chat.prompt_ids(talk))
            room = max(1, min(REPLY_TOKENS, limit - len(ids)))
            jobs.append(Job(ids, Sampling(room, temperature=0.0, stop_ids=self.loaded.stop_ids)))
        said = [self.loaded.chat.decode(completion.ids) for completion in self.engine.complete(jobs)]
        return all(
            outcome_of_text(self.judge, talk, reply) is Outcome.COMPLIED
            for talk, reply in zip(talks, said, strict=True)
        )


def _losses(lanes: Sequence[Lane], found: Sequence[Found]) -> pd.DataFrame:
    rows = [
        {"lane": lane.name, "step": step, "loss": loss}
        for lane, one in zip(lanes, found, strict=True)
        for step, loss in enumerate(one.losses, start=1)
    ]
    return pd.DataFrame(rows, columns=["lane", "step", "loss"])


def _searches(lanes: Sequence[Lane], found: Sequence[Found]) -> pd.DataFrame:
    rows = [
        {"prompt_id": lane.name, "suffix": one.text, "steps": one.steps, "loss": one.best_loss,
         "broken": bool(one.broken), "broken_at": one.broken_at, "seconds": one.seconds}
        for lane, one in zip(lanes, found, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _told(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A search as `summary.json` holds it: a table has no None, so what is missing came back as NaN."""
    plain = {str(name): value for name, value in row.items()}
    at = plain["broken_at"]
    return plain | {
        "steps": int(plain["steps"]),
        "broken": bool(plain["broken"]),
        "broken_at": None if pd.isna(at) else int(at),
    }


def _broken_by(searches: Sequence[Mapping[Any, Any]], step: int) -> Rate:
    """How many searches the judge had stopped by a step, as a rate."""

    def outcome(at: object) -> Outcome:
        return Outcome.COMPLIED if isinstance(at, int | float) and at <= step else Outcome.REFUSED

    return rate([outcome(one["broken_at"]) for one in searches])
