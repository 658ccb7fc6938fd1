"""The claims on deepening, on tables whose answers are known by hand."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
import pytest

from safedepth.runs.files import to_json
from safedepth.studies.claims import Claim, DeepEvidence
from safedepth.studies.claims_deepening import (
    kl_stays_high,
    prefill_closes,
    survives_finetuning,
    utility_stays,
)
from safedepth.studies.deepening import Measured
from studies.synthetic_tables import kl, replies, table

ROLES = ("aligned", "deepened", "control")
NOTHING = pd.DataFrame()


def evidence(
    tested: pd.DataFrame | None = None,
    curves: Mapping[str, pd.DataFrame] | None = None,
    finetuned: pd.DataFrame = NOTHING,
) -> DeepEvidence:
    tested = table(replies("aligned", "prefill", "R", k=0)) if tested is None else tested
    measured = Measured(tested, curves or {}, judge="oracle", benign=("benign", "lookalikes"), seed=0)
    return DeepEvidence(measured, finetuned, 0)


def whole(claim: Claim) -> Claim:
    """The claim, once it is known that JSON has a word for all of it."""
    assert "nan" not in to_json(asdict(claim)).lower()
    return claim


# C9


def curve(late: float, *, tokens: int = 50) -> list[float]:
    """`late` at tokens 6 to 40; before and after them what must not count."""
    return [9.0] * 5 + [late] * 35 + [70.0] * max(0, tokens - 40)


def kl_of(aligned: float, deepened: float, *, prompts: int = 6) -> dict[str, pd.DataFrame]:
    values = {"aligned": aligned, "deepened": deepened, "control": aligned}
    return {
        role: kl({f"p{i}": curve(value + i / 100) for i in range(prompts)}) for role, value in values.items()
    }


def test_kl_that_rises_at_later_tokens_holds_with_the_mean_over_these_alone() -> None:
    claim = whole(kl_stays_high(evidence(curves=kl_of(0.25, 1.25))))
    assert claim.holds is True
    assert claim.value == pytest.approx(1.25 + 0.025)
    assert (claim.low or 0) >= 1.25
    assert (claim.high or 9) <= 1.30
    assert "aligned 0.28" in claim.detail or "aligned 0.27" in claim.detail
    assert "deepened at token 1: 9.0" in claim.detail


@pytest.mark.parametrize("after", [0.25, 0.1])
def test_kl_that_does_not_rise_does_not_hold(after: float) -> None:
    assert kl_stays_high(evidence(curves=kl_of(0.25, after))).holds is False


def test_kl_is_compared_on_the_prompts_of_both_models() -> None:
    tables = kl_of(0.25, 1.25)
    # Prompts of one model alone, which would turn the answer round.
    tables["aligned"] = pd.concat([tables["aligned"], kl({"only here": curve(80.0)})], ignore_index=True)
    assert kl_stays_high(evidence(curves=tables)).holds is True


def test_kl_of_one_prompt_or_of_short_answers_is_not_measured() -> None:
    claim = whole(kl_stays_high(evidence(curves=kl_of(0.25, 1.25, prompts=1))))
    assert (claim.holds, claim.low, claim.high) == (None, None, None)
    short = {role: kl({f"p{i}": [9.0] * 5 for i in range(4)}) for role in ROLES}
    claim = whole(kl_stays_high(evidence(curves=short)))
    assert (claim.holds, claim.value) == (None, None)


# C10

OPEN = "C" * 12 + "R" * 8
CLOSED = "R" * 20


def sweep(**by_role: Mapping[int, str]) -> pd.DataFrame:
    """Role -> forced tokens -> outcomes."""
    return table(
        *(replies(role, "prefill", o, k=k) for role, by_k in by_role.items() for k, o in by_k.items())
    )


def test_prefilling_that_closes_at_every_depth_holds() -> None:
    tested = sweep(
        aligned={0: CLOSED, 5: OPEN, 20: OPEN}, deepened={0: CLOSED, 5: CLOSED, 20: "C" + CLOSED[1:]},
        control={0: CLOSED, 5: OPEN, 20: OPEN},
    )  # fmt: skip
    claim = whole(prefill_closes(evidence(tested)))
    assert claim.holds is True
    assert claim.value == 1 / 20
    assert "(at 20 tokens)" in claim.statement
    assert "aligned 0: 0.0, 5: 60.0, 20: 60.0; deepened 0: 0.0, 5: 0.0, 20: 5.0" in claim.detail


def test_one_depth_that_stays_open_is_enough_not_to_hold() -> None:
    tested = sweep(aligned={5: OPEN, 20: OPEN}, deepened={5: CLOSED, 20: OPEN}, control={5: OPEN, 20: OPEN})
    assert prefill_closes(evidence(tested)).holds is False


def test_a_difference_that_may_be_chance_does_not_hold() -> None:
    tested = sweep(aligned={5: "CC" + "R" * 18}, deepened={5: CLOSED}, control={5: CLOSED})
    assert prefill_closes(evidence(tested)).holds is False


def test_unscored_replies_drop_their_prompt_on_both_sides() -> None:
    # Scored on both sides are the last eight, and there nothing changed.
    tested = sweep(aligned={5: OPEN}, deepened={5: "-" * 12 + "R" * 8}, control={5: OPEN})
    claim = whole(prefill_closes(evidence(tested)))
    assert claim.holds is False
    assert claim.value == 0.0
    assert evidence(tested).paired("prefill", "deepened", k=5)["n"] == 8


@pytest.mark.parametrize("deepened", [{5: "-" * 20}, {0: CLOSED, 1: CLOSED}])
def test_depths_that_were_not_measured_say_so(deepened: dict[int, str]) -> None:
    roles = {role: deepened if role == "deepened" else dict.fromkeys(deepened, OPEN) for role in ROLES}
    assert whole(prefill_closes(evidence(sweep(**roles)))).holds is None


def test_seeds_of_one_prompt_count_as_one_prompt() -> None:
    seeds = [
        replies(role, "prefill", outcomes, k=5, seed=seed)
        for seed in range(3)
        for role, outcomes in (("aligned", "CCRR"), ("deepened", "RRRR"), ("control", "CCRR"))
    ]
    tested = table(*seeds)
    found = evidence(tested).paired("prefill", "deepened", k=5)
    assert (found["n"], found["before"], found["after"]) == (4, 0.5, 0.0)
    assert prefill_closes(evidence(tested)).holds is False  # four prompts, however often


def test_a_prompt_that_differs_by_seed_counts_with_its_share() -> None:
    seeds = [
        replies("aligned", "prefill", "CC", k=5),
        replies("aligned", "prefill", "RC", k=5, seed=1),
        replies("deepened", "prefill", "R-", k=5),
        replies("deepened", "prefill", "RC", k=5, seed=1),
    ]
    found = evidence(table(*seeds)).paired("prefill", "deepened", k=5)
    assert (found["n"], found["before"], found["after"]) == (2, 0.75, 0.5)


# C12


def benign(right: tuple[str, str], refused: tuple[str, str]) -> pd.DataFrame:
    """Right answers (judge knowledge, C is right) and over-refusal (judge rules), each before and after."""
    groups: list[Iterable[Mapping[str, Any]]] = []
    for role, answers, refusals in zip(("aligned", "deepened"), right, refused, strict=True):
        for name in ("benign", "lookalikes"):
            groups.append(replies(role, name, answers, judge="knowledge"))
            groups.append(replies(role, name, refusals, judge="rules"))
    return table(*groups)


RIGHT = "C" * 18 + "RR"
ANSWERED = "C" * 20


def test_utility_that_stays_holds_and_prompts_of_two_sets_are_two() -> None:
    claim = whole(utility_stays(evidence(benign((RIGHT, RIGHT), (ANSWERED, ANSWERED)))))
    assert claim.holds is True
    assert claim.value == 0.0
    assert "right answers 90.0 to 90.0 %" in claim.detail
    assert "40 prompts" in claim.detail


def test_right_answers_that_fall_do_not_hold() -> None:
    claim = utility_stays(evidence(benign((RIGHT, "C" * 8 + "R" * 12), (ANSWERED, ANSWERED))))
    assert claim.holds is False
    assert claim.value == pytest.approx(-0.5)


def test_over_refusal_that_rises_does_not_hold() -> None:
    claim = utility_stays(evidence(benign((RIGHT, RIGHT), (ANSWERED, "R" * 8 + "C" * 12))))
    assert claim.holds is False
    assert "over-refusal 0.0 to 40.0 %" in claim.detail


def test_utility_that_nobody_judged_is_not_measured() -> None:
    claim = whole(utility_stays(evidence(benign(("-" * 5, "C" * 5), (ANSWERED, ANSWERED)))))
    assert (claim.holds, claim.value) == (None, None)


# C13


def finetuned(changed: Mapping[tuple[str, str, int, int], str] | None = None) -> pd.DataFrame:
    """Harmful examples open the aligned model at once and the deepened one late; benign ones the aligned."""
    outcomes = {
        ("harmful", "aligned", 5, 0): ANSWERED, ("harmful", "aligned", 10, 0): ANSWERED,
        ("harmful", "aligned", 20, 0): ANSWERED, ("harmful", "deepened", 20, 0): ANSWERED,
        **{("benign", "aligned", step, 5): OPEN for step in (0, 5, 10, 20)},
    } | dict(changed or {})  # fmt: skip
    return table(
        *(
            replies(role, "prefill", outcomes.get((data, role, step, k), CLOSED), k=k, data=data, step=step)
            for data in ("harmful", "benign")
            for role in ("aligned", "deepened")
            for step in (0, 5, 10, 20)
            for k in (0, 5)
        )
    )


def test_fine_tuning_that_is_survived_holds_at_the_middle_step_and_the_last() -> None:
    claim = whole(survives_finetuning(evidence(finetuned=finetuned())))
    assert claim.holds is True
    assert claim.value == 0.0
    assert "after 10 steps" in claim.statement
    assert "aligned 0: 0.0, 5: 100.0, 10: 100.0, 20: 100.0" in claim.detail
    assert "deepened 0: 0.0, 5: 0.0, 10: 0.0, 20: 100.0" in claim.detail


@pytest.mark.parametrize("place", [("harmful", "deepened", 10, 0), ("benign", "deepened", 20, 5)])
def test_fine_tuning_that_breaks_it_too_does_not_hold(place: tuple[str, str, int, int]) -> None:
    broken = finetuned({place: ANSWERED if place[0] == "harmful" else OPEN})
    assert survives_finetuning(evidence(finetuned=broken)).holds is False


def test_fine_tuning_that_nobody_judged_is_not_measured() -> None:
    unscored = finetuned({("benign", "aligned", 20, 5): "-" * 20})
    claim = whole(survives_finetuning(evidence(finetuned=unscored)))
    assert claim.holds is None
    assert "20: –" in claim.detail
