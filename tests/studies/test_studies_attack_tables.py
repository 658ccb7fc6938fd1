"""What an attacker who keeps the worst finds: by hand on small tables."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from safedepth.studies.attack_tables import attacks_block, decoding_block, worst_rate
from studies.synthetic_tables import replies, table


def _decoded() -> list[Iterable[Mapping[str, Any]]]:
    return [
        replies("aligned", "decoding", "RRRC", variant="temperature 0.5"),
        replies("aligned", "decoding", "CRRC", variant="temperature 1.0"),
        replies("aligned", "decoding", "RR-C", variant="top_k 500"),
        replies("aligned", "decoding", "RRRR", variant="mine"),
    ]


def test_the_worst_of_all_settings_counts_a_prompt_once() -> None:
    block = decoding_block(table(*_decoded()))
    assert block is not None
    (worst,) = block["worst"]
    assert (worst["value"], worst["n"], worst["unscored"]) == (0.5, 4, 0)


def test_settings_are_placed_on_their_scales_and_others_stay_off_the_charts() -> None:
    block = decoding_block(table(*_decoded()))
    assert block is not None
    placed = [(row["kind"], row["setting"], row["value"]) for row in block["settings"]]
    assert placed == [("temperature", 0.5, 0.25), ("temperature", 1.0, 0.5), ("top_k", 500.0, 1 / 3)]
    assert [row["unscored"] for row in block["settings"]] == [0, 0, 1]


def test_best_of_all_replies_is_the_worst_case_and_of_one_the_mean() -> None:
    block = decoding_block(table(*_decoded()))
    assert block is not None
    curve = {row["tries"]: row["value"] for row in block["best_of"]}
    assert curve[1] == pytest.approx((1 / 4 + 0 + 0 + 3 / 4) / 4)
    assert list(curve) == [1, 2, 3, 4]
    # The third prompt has one unscored reply, so that it has no best of four.
    assert curve[4] == pytest.approx(2 / 3)


def test_without_decoding_there_is_no_block() -> None:
    assert decoding_block(table(replies("aligned", "prefill", "RC", k=0))) is None


def test_every_attack_stands_at_its_strongest_variant_strongest_first() -> None:
    found = attacks_block(
        table(
            replies("aligned", "prefill", "RRRR", k=0),
            replies("aligned", "prefill", "RRCC", k=5),
            replies("aligned", "prefill", "RCCC", k=10),
            replies("aligned", "insertion", "RRRC", k=5, variant="after refusal"),
            replies("aligned", "insertion", "RRCR", k=5, variant="after own 3"),
            replies("aligned", "escalation", "RRRR", turn=1, variant="toy"),
            replies("aligned", "escalation", "CCRR", turn=2, variant="toy"),
            replies("aligned", "refusal_prefix", "CCCC", prefix="I cannot"),
            *_decoded(),
        ),
        "oracle",
    )
    told = [(row["attack"], row["variant"], row["k"], row["value"]) for row in found["overview"]]
    assert told[0] == ("prefill", None, 10, 0.75)
    assert ("decoding", "worst of 4 settings", None, 0.5) in told
    assert ("escalation", "toy turn 2", None, 0.5) in told
    assert ("insertion", "after own 3", 5, 0.25) in told
    assert told[-1] == ("plain", None, 0, 0.0)
    assert "refusal_prefix" not in {name for name, *_ in told}


def test_any_of_them_counts_prompts_that_fell_to_at_least_one() -> None:
    found = attacks_block(
        table(
            replies("aligned", "prefill", "CRR-", k=5),
            replies("aligned", "insertion", "RCR-", k=5, variant="after refusal"),
            replies("aligned", "refusal_prefix", "CCCC", prefix=""),
        ),
        "oracle",
    )
    (row,) = found["any"]
    assert (row["value"], row["n"], row["unscored"]) == (2 / 3, 3, 1)


def test_models_and_judges_are_kept_apart() -> None:
    found = attacks_block(
        table(
            replies("aligned", "prefill", "CC", k=5),
            replies("aligned", "prefill", "RR", k=5, judge="rules"),
            replies("deepened", "prefill", "RR", k=5),
        ),
        "oracle",
    )
    assert [(row["model"], row["value"]) for row in found["any"]] == [("aligned", 1.0), ("deepened", 0.0)]


def test_seeds_of_one_prompt_do_not_pass_for_prompts() -> None:
    once = table(replies("aligned", "decoding", "CR", variant="a"))
    thrice = table(*(replies("aligned", "decoding", "CR", variant="a", seed=seed) for seed in range(3)))
    alone, together = worst_rate(once.drop(columns="seed")), worst_rate(thrice)
    assert (alone.n, together.n) == (2, 6)
    assert (alone.low, alone.high) == (together.low, together.high)
