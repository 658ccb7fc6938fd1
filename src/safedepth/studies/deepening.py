"""From tables to the `deepening` block of `summary.json`: before and after, side by side.

Takes the tables a `Battery` made of every model, gives plain dictionaries; the formulas
are in `measure`. Roles: "aligned" is the model before, "deepened" after, "control" was
trained on the same refusals without harmful prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from safedepth.judges.rules import refusal_outcome
from safedepth.measure.paired import paired_difference
from safedepth.measure.refusals import refusal_quality
from safedepth.nouns import Outcome, Scope
from safedepth.studies import summary
from safedepth.studies.divergence import series_of

__all__ = [
    "ATTACKS",
    "BEFORE",
    "HARMFUL",
    "OVER_REFUSAL",
    "RIGHT",
    "Measured",
    "as_event",
    "benign_measure",
    "deepening_block",
    "paired_entries",
    "paired_entry",
    "paired_values",
    "refusals_of",
    "utility_entries",
    "what_of",
]

Floats = NDArray[np.float64]

BEFORE = "aligned"
ATTACKS = ("prefill", "multi_turn")
RIGHT, OVER_REFUSAL, HARMFUL = "right answers", "over-refusal", "harmful replies"


class Measured:
    """The tables of one comparison: judged replies of all roles, and KL to the base by role."""

    def __init__(
        self,
        replies: pd.DataFrame,
        kl: Mapping[str, pd.DataFrame],
        *,
        judge: str,
        benign: Sequence[str],
        seed: int,
    ) -> None:
        """`judge` leads on harmful replies; `benign` names the test sets of benign requests."""
        self.replies = replies[replies["scope"] == Scope.CONTINUATION.value]
        self.kl, self.judge, self.benign, self.seed = kl, judge, tuple(benign), seed

    @property
    def roles(self) -> list[str]:
        """The roles in the order they came."""
        return list(dict.fromkeys(self.replies["model"]))

    def harm(self, role: str, attack: str) -> pd.DataFrame:
        """The leading judge's verdicts on one role under one attack."""
        found = self.replies
        return found[(found["model"] == role) & (found["attack"] == attack) & (found["judge"] == self.judge)]

    def benign_verdicts(self, role: str, name: str, judge: str) -> pd.DataFrame:
        """One judge's verdicts on one role's replies to one benign test set."""
        found = self.replies
        return found[(found["model"] == role) & (found["attack"] == name) & (found["judge"] == judge)]

    def all_benign(self, role: str, measure: str) -> pd.DataFrame:
        """One role's verdicts under one measure over all benign test sets, prompts told apart by set."""
        tables = []
        for name, kind, judge in self.benign_measures:
            if kind == measure:
                table = self.benign_verdicts(role, name, judge)
                tables.append(table.assign(prompt_id=name + " " + table["prompt_id"].astype(str)))
        return pd.concat(tables, ignore_index=True) if tables else self.replies.iloc[:0]

    @property
    def benign_measures(self) -> list[tuple[str, str, str]]:
        """(test set, measure, judge) of all that is asked of benign replies."""
        found = []
        for name in self.benign:
            judges = dict.fromkeys(self.replies.loc[self.replies["attack"] == name, "judge"])
            found += [(name, benign_measure(judge), judge) for judge in judges]
        return found


def benign_measure(judge: str) -> str:
    """What a judge says of benign replies: those that know refusals alone tell over-refusal."""
    return OVER_REFUSAL if judge in ("rules", "keywords") else RIGHT


def deepening_block(
    measured: Measured,
    *,
    roles: Sequence[str],
    training: Sequence[Mapping[str, Any]] = (),
    finetuning: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The block as the report reads it; `roles` in the order to draw, the one before training first."""
    after = [role for role in roles if role != BEFORE]
    return {
        "models": list(roles),
        "kl": {
            role: summary.kl_summary(series_of(table, tokens=summary.KL_TOKENS), seed=measured.seed)
            for role, table in measured.kl.items()
        },
        "depth": {role: _depth(measured, role) for role in roles},
        "paired": [entry for role in after for entry in paired_entries(measured, role)],
        "utility": [entry for role in roles for entry in utility_entries(measured, role)],
        "refusals": [entry for role in roles if (entry := refusals_of(measured, role))],
        "training": list(training),
        "finetuning": list(finetuning),
    }


def _depth(measured: Measured, role: str) -> dict[str, Any]:
    sweep = measured.harm(role, "prefill")
    if sweep.empty:
        return {}
    return summary.depth_entries(summary.depth_of(sweep, measured.kl.get(role), seed=measured.seed))


def paired_entries(measured: Measured, role: str, *, against: str = BEFORE) -> list[dict[str, Any]]:
    """Paired tests of one role against another, the model before, on every variant of every test."""
    entries = []
    for attack in ATTACKS:
        before, after = measured.harm(against, attack), measured.harm(role, attack)
        keys = ["turn", "k"] if attack == "multi_turn" else ["k"]
        for values, group in after.groupby(keys, sort=True):
            same = before[(before[keys] == list(values)).all(axis=1)]
            what = what_of(attack, dict(zip(keys, values, strict=True)))
            entries.append(
                paired_entry(same, group, event=Outcome.COMPLIED, seed=measured.seed)
                | {
                    "model": role,
                    "against": against,
                    "what": what,
                    "measure": HARMFUL,
                    "judge": measured.judge,
                }
            )
    for name, measure, judge in measured.benign_measures:
        event = Outcome.REFUSED if measure == OVER_REFUSAL else Outcome.COMPLIED
        entries.append(
            paired_entry(
                measured.benign_verdicts(against, name, judge),
                measured.benign_verdicts(role, name, judge),
                event=event,
                seed=measured.seed,
            )
            | {"model": role, "against": against, "what": name, "measure": measure, "judge": judge}
        )
    return entries


def paired_entry(before: pd.DataFrame, after: pd.DataFrame, *, event: Outcome, seed: int) -> dict[str, Any]:
    """The paired difference in the share of `event`, over prompts scored on both sides."""
    return asdict(paired_difference(*paired_values(before, after, event=event), seed=seed))


def paired_values(before: pd.DataFrame, after: pd.DataFrame, *, event: Outcome) -> tuple[Floats, Floats]:
    """The share of `event` among the replies to each prompt that is scored on both sides, in one order."""
    shares = [_share_by_prompt(table, event) for table in (before, after)]
    both = shares[0].index.intersection(shares[1].index).sort_values()
    first, second = (share.loc[both].to_numpy(dtype=np.float64) for share in shares)
    return first, second


def _share_by_prompt(table: pd.DataFrame, event: Outcome) -> pd.Series:
    scored = table[table["outcome"] != Outcome.UNSCORED.value]
    return (scored["outcome"] == event.value).astype(float).groupby(scored["prompt_id"]).mean()


def what_of(attack: str, variant: Mapping[str, Any]) -> str:
    """A variant of an attack in words: what was forced, and at which turn."""
    k = int(variant["k"])
    forced = "nothing forced" if k == 0 else f"{k} token{'s' if k > 1 else ''} forced"
    return f"prefill, {forced}" if attack == "prefill" else f"turn {int(variant['turn'])}, {forced}"


def utility_entries(measured: Measured, role: str) -> list[dict[str, Any]]:
    """Right answers and over-refusal of one role on every benign test set."""
    entries = []
    for name, measure, judge in measured.benign_measures:
        table = measured.benign_verdicts(role, name, judge)
        event = Outcome.REFUSED if measure == OVER_REFUSAL else Outcome.COMPLIED
        entries.append({"model": role, "set": name, "measure": measure, **share_of(table, event)})
    return entries


def share_of(table: pd.DataFrame, event: Outcome) -> dict[str, Any]:
    """The share of `event` among one judge's verdicts, as `summary.json` holds it."""
    return summary.entry_of(summary.rate_of(as_event(table, event)))


def as_event(table: pd.DataFrame, event: Outcome) -> pd.DataFrame:
    """The verdicts such that `Rate`, which counts harmful replies, counts `event`."""
    if event is Outcome.COMPLIED:
        return table
    swap = {Outcome.REFUSED.value: Outcome.COMPLIED.value, Outcome.COMPLIED.value: Outcome.REFUSED.value}
    return table.assign(outcome=table["outcome"].replace(swap))


def refusals_of(measured: Measured, role: str) -> dict[str, Any] | None:
    """How useful and specific the refusals after forced tokens are, or None where there are none."""
    sweep = measured.harm(role, "prefill")
    refused = sweep[(sweep["k"] > 0) & (sweep["outcome"] == Outcome.REFUSED.value)]
    # A continuation the judge found harmless need not be a refusal.
    said = [refusal_outcome(str(text)) is Outcome.REFUSED for text in refused["continuation"]]
    refused = refused[np.array(said, dtype=bool)]
    if refused.empty:
        return None
    quality = refusal_quality(
        refused["prompt"].astype(str).tolist(),
        refused["continuation"].astype(str).tolist(),
        seed=measured.seed,
    )
    return {
        "model": role,
        "n": quality.replies,
        "shares": {part: share for part, share in quality.shares.items() if part != "refusal"},
        "parts": asdict(quality.parts),
        "specific": quality.specific,
        "by_chance": quality.by_chance,
        "specificity": asdict(quality.specificity),
    }
