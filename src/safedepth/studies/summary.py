"""From tables of replies and KL to the numbers of `summary.json`.

Takes tables, gives plain dictionaries; the formulas are in `measure`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from safedepth.judges.rules import refusal_outcome
from safedepth.measure import depth, statistics
from safedepth.nouns import Estimate, Outcome, Rate, Scope, TokenSeries
from safedepth.studies.divergence import series_of

__all__ = [
    "depth_of",
    "entry_of",
    "groups_of",
    "kl_summary",
    "mean_of",
    "openings_of",
    "rate_of",
    "rates_of",
    "sweep_of",
    "verdicts",
]

KL_TOKENS = 40
"""Positions over which shares of the KL are taken: the paper's figures show 20 to 40."""

OPENING_WORDS = 2


def rate_of(replies: pd.DataFrame) -> Rate:
    """The rate of one group of replies; replies to one prompt are not taken for independent."""
    by_prompt = [
        [Outcome(outcome) for outcome in group]
        for _, group in replies.groupby("prompt_id", sort=True)["outcome"]
    ]
    return statistics.clustered_rate(by_prompt)


def entry_of(rate: Rate) -> dict[str, Any]:
    """A rate as `summary.json` holds it."""
    return {
        "value": rate.value,
        "low": rate.low,
        "high": rate.high,
        "n": rate.n,
        "unscored": rate.unscored,
    }


def mean_of(values: NDArray[np.float64], *, share: bool, seed: int) -> Estimate:
    """The mean of one value a prompt or document, with its interval: Wilson's for a share, of 0 and 1.

    Any other average has a bootstrap's, drawn from `seed`. With no value all is None.
    """
    if share and len(values):
        total = float(values.sum())
        return Estimate(total / len(values), *statistics.wilson(total, len(values)), len(values))
    return statistics.bootstrap(values, lambda drawn: float(drawn.mean()), seed=seed)


def rates_of(replies: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry for every (model, attack, variant, judge, scope), as `summary.json` holds them."""
    entries: list[dict[str, Any]] = []
    for entry, group in groups_of(replies):
        result = rate_of(group)
        unscored = group.loc[group["outcome"] == Outcome.UNSCORED.value, "reason"]
        reasons = {str(reason): int(count) for reason, count in unscored.value_counts().items()}
        entries.append(entry | asdict(result) | {"value": result.value, "unscored_reasons": reasons})
    return entries


def groups_of(replies: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Every (model, attack, variant, judge, scope) that a rate is told of: its names and its replies.

    The table of a run made before there were turns or variants has no column for them.
    """
    later = [name for name in ("turn", "variant") if name in replies]
    keys = ["model", "attack", *later, "k", "prefix", "judge", "scope"]
    for values, group in replies.groupby(keys, dropna=False, sort=True):
        named = dict(zip(keys, cast(tuple[Any, ...], values), strict=True))
        entry = {key: value for key, value in named.items() if not pd.isna(value)}
        yield entry | {key: int(entry[key]) for key in ("turn", "k") if key in entry}, group


def kl_summary(series: TokenSeries, *, seed: int) -> dict[str, Any]:
    """Mean KL by position with intervals over prompts, and the share that falls on the first five tokens."""
    by_position = statistics.mean_by_position(series, seed=seed)
    share = statistics.share_of_first(series, tokens=5, seed=seed)
    return {
        "per_token": [
            {"position": position, "mean": e.value, "low": e.low, "high": e.high, "n": e.n}
            for position, e in enumerate(by_position, start=1)
        ],
        "tokens": int(series.values.shape[1]),
        "share_first_5": share.value,
        "share_first_5_low": share.low,
        "share_first_5_high": share.high,
    }


def outcomes_by_depth(replies: pd.DataFrame) -> tuple[list[int], TokenSeries]:
    """Depths [D], and the share of harmful replies by prompt and depth [N, D]; unscored is masked."""
    scored = replies[replies["outcome"] != Outcome.UNSCORED.value]
    harmful = (scored["outcome"] == Outcome.COMPLIED.value).astype(float)
    table = harmful.groupby([scored["prompt_id"], scored["k"]]).mean().unstack("k")
    depths = sorted(int(k) for k in replies["k"].unique())
    table = table.reindex(index=sorted(replies["prompt_id"].unique()), columns=depths)
    values = table.to_numpy(dtype=np.float64)
    mask = ~np.isnan(values)
    return depths, TokenSeries(values=np.where(mask, values, 0.0), mask=mask)


def depth_of(replies: pd.DataFrame, kl: pd.DataFrame | None, *, seed: int) -> dict[str, Estimate]:
    """The depth summary of one model: by behaviour from one judge's prefill verdicts, and by KL if any."""
    depths, outcomes = outcomes_by_depth(replies)
    found: dict[str, Estimate] = {}
    if len(depths) > 1:
        found |= depth.behavioural_depth(depths, outcomes, seed=seed)
    if kl is not None:
        found |= depth.kl_depth(series_of(kl), seed=seed)
    return found


def depth_entries(found: Mapping[str, Estimate]) -> dict[str, Any]:
    """Depth estimates with their definitions, as `summary.json` holds them."""
    return {name: asdict(value) | {"definition": depth.DEFINITIONS[name]} for name, value in found.items()}


def verdicts(replies: pd.DataFrame, judge: str) -> pd.DataFrame:
    """One judge's verdicts on continuations: every reply once."""
    return replies[(replies["judge"] == judge) & (replies["scope"] == Scope.CONTINUATION.value)]


def sweep_of(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The aligned model's prefilling sweep among one judge's verdicts."""
    return verdicts[(verdicts["attack"] == "prefill") & (verdicts["model"] == "aligned")]


def openings_of(replies: pd.DataFrame, *, aligned: str) -> dict[str, Any]:
    """How answers begin when nothing is forced (claim C1): share of refusals, commonest first words.

    `replies` holds one judge's verdicts on one scope, so that every reply stands there once.
    """
    free = replies[(replies["attack"] == "refusal_prefix") & (replies["forced_tokens"] == 0)]
    entries: list[dict[str, Any]] = []
    for model, group in free.groupby("model", sort=True):
        words = group["continuation"].map(lambda text: " ".join(str(text).split()[:OPENING_WORDS]))
        entries += [
            {"model": model, "text": str(text), "count": int(count), "n": len(group)}
            for text, count in list(words.value_counts().items())[:8]
        ]
    mine = free[free["model"] == aligned]
    refused = rate_of(mine.assign(outcome=[_refusal_as_event(text).value for text in mine["continuation"]]))
    share = {"value": refused.value, "low": refused.low, "high": refused.high, "n": refused.n}
    return {"share": share, "openings": entries}


def _refusal_as_event(text: str) -> Outcome:
    """Count refusals where `Rate` counts harmful replies: the share wanted here is that of refusals."""
    outcome = refusal_outcome(text)
    swap = {Outcome.REFUSED: Outcome.COMPLIED, Outcome.COMPLIED: Outcome.REFUSED}
    return swap.get(outcome, outcome)
