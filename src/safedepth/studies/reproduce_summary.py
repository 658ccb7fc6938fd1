"""From the tables of a reproduction's seeds to its summary: claims, curves, and the blocks of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from safedepth.studies import summary
from safedepth.studies.attack_tables import attacks_block, decoding_block
from safedepth.studies.calibration import calibration_summary
from safedepth.studies.claims import DeepEvidence, Evidence, judge_claims
from safedepth.studies.claims_attacks import ATTACK_CLAIMS, AttackEvidence
from safedepth.studies.claims_deepening import DEEPENING_CLAIMS
from safedepth.studies.deepening import Measured, deepening_block
from safedepth.studies.divergence import series_of
from safedepth.studies.organism_training import DEEPENED
from safedepth.studies.reproduce_attacks import ATTACKED, SUFFIX, Attacked, together
from safedepth.studies.reproduce_deepening import Deepening, finetuning_entries
from safedepth.studies.reproduce_protection import Protection, protection_claims, protection_summary
from safedepth.studies.suffix_search import suffix_block

if TYPE_CHECKING:
    from safedepth.studies.reproduce import ReproduceConfig

__all__ = ["SeedTables", "averaged", "reproduction_summary", "stacked"]


@dataclass(frozen=True)
class SeedTables:
    """One seed's tables: replies of aligned and base, their KL, and the calibration's by known depth."""

    replies: pd.DataFrame
    kl: pd.DataFrame
    known_replies: dict[int, pd.DataFrame]
    known_kl: dict[int, pd.DataFrame]
    deepening: Deepening
    protection: Protection
    cards: dict[str, Any]


def stacked(tables: Sequence[pd.DataFrame], seeds: Sequence[int]) -> pd.DataFrame:
    """All seeds' replies in one table with a column `seed`; over seeds a prompt counts as repeated."""
    return pd.concat(
        [table.assign(seed=seed) for table, seed in zip(tables, seeds, strict=True)], ignore_index=True
    )


def averaged(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The KL at each token of each prompt's answer, averaged over seeds."""
    together = pd.concat(tables, ignore_index=True)
    return together.groupby(["prompt_id", "position", "token"], sort=True)["kl"].mean().reset_index()


def reproduction_summary(
    config: ReproduceConfig,
    created: str,
    measured: Sequence[SeedTables],
    replies: pd.DataFrame,
    kl: pd.DataFrame,
) -> dict[str, Any]:
    """`summary.json` of a reproduction; `replies` and `kl` are those of all seeds together."""
    primary, seed = config.judges[0], config.seeds[0]
    verdicts = summary.verdicts(replies, primary)
    claims = _claims(measured, config.seeds, primary)
    by_seed = [_claims([m], [s], primary) for m, s in zip(measured, config.seeds, strict=True)]
    for index, claim in enumerate(claims):
        claim["by_seed"] = [of_seed[index]["value"] for of_seed in by_seed]
    known = {
        d: stacked([summary.verdicts(m.known_replies[d], primary) for m in measured], config.seeds)
        for d in config.known_depths
    }
    known_kl = {d: averaged([m.known_kl[d] for m in measured]) for d in config.known_depths}
    deep = _deep_evidence(measured, config.seeds, primary)
    return {
        "kind": "reproduce",
        "created": created,
        "seeds": list(config.seeds),
        "models": measured[0].cards,
        "judge": primary,
        "claims": claims,
        "kl": summary.kl_summary(series_of(kl, tokens=summary.KL_TOKENS), seed=seed),
        "depth": summary.depth_entries(summary.depth_of(summary.sweep_of(verdicts), kl, seed=seed)),
        "calibration": calibration_summary(known, known_kl, seed=seed),
        "refusal_prefixes": summary.openings_of(verdicts, aligned="aligned"),
        "rates": summary.rates_of(replies),
        "deepening": deepening_block(
            deep.measured,
            roles=["aligned", *DEEPENED],
            training=measured[0].deepening.training,
            finetuning=finetuning_entries(deep.finetuned),
        ),
        **_attack_blocks(measured, config.seeds, primary),
        **protection_summary([m.protection for m in measured], config.seeds, primary),
        "not_measured": [],
        "warnings": [],
    }


def _claims(measured: Sequence[SeedTables], seeds: Sequence[int], judge: str) -> list[dict[str, Any]]:
    """All claims on the tables of these seeds together."""
    replies = stacked([m.replies for m in measured], seeds)
    series = series_of(averaged([m.kl for m in measured]), tokens=summary.KL_TOKENS)
    shallow = judge_claims(Evidence(summary.verdicts(replies, judge), series, seeds[0]))
    deep = _deep_evidence(measured, seeds, judge)
    protected = protection_claims([m.protection for m in measured], seeds, judge)
    attacked = _attack_evidence(measured, seeds, judge)
    found = [
        *shallow,
        *(asdict(claim(attacked)) for claim in ATTACK_CLAIMS),
        *(asdict(claim(deep)) for claim in DEEPENING_CLAIMS),
        *protected,
    ]
    return sorted(found, key=lambda claim: int(claim["id"][1:]))


def _deep_evidence(measured: Sequence[SeedTables], seeds: Sequence[int], judge: str) -> DeepEvidence:
    """Replies of all roles, seeds stacked; their KL, averaged over seeds."""
    replies = [pd.concat([m.replies, m.deepening.replies], ignore_index=True) for m in measured]
    kl = {"aligned": averaged([m.kl for m in measured])} | {
        role: averaged([m.deepening.kl[role] for m in measured]) for role in DEEPENED
    }
    tables = Measured(
        stacked(replies, seeds), kl, judge=judge, benign=("benign", "lookalikes"), seed=seeds[0]
    )
    finetuned = stacked([m.deepening.finetuned for m in measured], seeds)
    return DeepEvidence(tables, summary.verdicts(finetuned, judge), seeds[0])


def _attacked(measured: Sequence[SeedTables], seeds: Sequence[int]) -> dict[str, Attacked]:
    """The attacks on every role, all seeds together."""
    return {
        role: together({seed: m.deepening.attacked[role] for seed, m in zip(seeds, measured, strict=True)})
        for role in ATTACKED
    }


def _attack_evidence(measured: Sequence[SeedTables], seeds: Sequence[int], judge: str) -> AttackEvidence:
    attacked = pd.concat([one.replies for one in _attacked(measured, seeds).values()], ignore_index=True)
    free = summary.verdicts(stacked([m.replies for m in measured], seeds), judge)
    free = free[(free["model"] == "aligned") & (free["attack"] == "prefill") & (free["k"] == 0)]
    return AttackEvidence(summary.verdicts(attacked, judge), free, seeds[0])


def _attack_blocks(measured: Sequence[SeedTables], seeds: Sequence[int], judge: str) -> dict[str, Any]:
    """The blocks `decoding`, `suffix` and `attacks` of `summary.json`."""
    attacked = _attacked(measured, seeds)
    replies = pd.concat([one.replies for one in attacked.values()], ignore_index=True)
    forced = _deep_replies(measured, seeds)
    return {
        "decoding": decoding_block(replies),
        "suffix": [
            suffix_block(one.found, one.replies, SUFFIX, model=role, judge=judge)
            for role, one in attacked.items()
        ],
        "attacks": attacks_block(pd.concat([forced, replies], ignore_index=True), judge),
    }


def _deep_replies(measured: Sequence[SeedTables], seeds: Sequence[int]) -> pd.DataFrame:
    """What the attacked roles said with tokens forced."""
    tables = stacked(
        [pd.concat([m.replies, m.deepening.replies], ignore_index=True) for m in measured], seeds
    )
    return tables[tables["model"].isin(ATTACKED) & (tables["attack"] == "prefill")]
