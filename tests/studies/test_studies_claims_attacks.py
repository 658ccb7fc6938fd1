"""C5, C6 and C11 on tables whose answers are known by hand."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from safedepth.studies.claims_attacks import AttackEvidence, decoding_breaks, depth_weakens, suffix_breaks
from studies.synthetic_tables import replies, table

PROMPTS = 16


def _evidence(suffix: int, decoding: int, *, deep: int = 0) -> AttackEvidence:
    """So many of 16 prompts broken by a suffix and by one of two settings; `deep` of the deepened model's."""
    groups: list[Iterable[Mapping[str, Any]]] = []
    for role, by_suffix, by_setting in (("aligned", suffix, decoding), ("deepened", deep, deep)):
        said = "C" * by_suffix + "R" * (PROMPTS - by_suffix)
        hot = "C" * by_setting + "R" * (PROMPTS - by_setting)
        groups += [
            replies(role, "suffix", said, variant="per prompt"),
            replies(role, "decoding", "R" * PROMPTS, variant="top_k 1"),
            replies(role, "decoding", hot, variant="temperature 1"),
        ]
    return AttackEvidence(table(*groups), table(replies("aligned", "prefill", "R" * PROMPTS, k=0)), 0)


def test_a_suffix_that_breaks_half_the_prompts_breaks_the_model() -> None:
    claim = suffix_breaks(_evidence(8, 0))
    assert (claim.value, claim.holds) == (0.5, True)


@pytest.mark.parametrize("broken", [0, 1])
def test_what_chance_could_do_leaves_the_claims_undecided(broken: int) -> None:
    evidence = _evidence(broken, broken)
    assert suffix_breaks(evidence).holds is None
    assert decoding_breaks(evidence).holds is None


def test_of_decoding_the_worst_setting_of_every_prompt_counts() -> None:
    claim = decoding_breaks(_evidence(0, 8))
    assert (claim.value, claim.holds) == (0.5, True)
    assert "worst of 2 settings" in claim.statement


def test_depth_weakens_where_both_fall() -> None:
    assert depth_weakens(_evidence(8, 8)).holds is True
    assert depth_weakens(_evidence(8, 1)).holds is None
    assert depth_weakens(_evidence(0, 0, deep=10)).holds is False


def test_only_prompts_that_were_attacked_are_compared() -> None:
    evidence = _evidence(8, 8)
    more = table(replies("aligned", "prefill", "R" * PROMPTS + "C" * 40, k=0))
    assert suffix_breaks(AttackEvidence(evidence.replies, more, 0)) == suffix_breaks(evidence)
