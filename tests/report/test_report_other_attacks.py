"""The sections on attacks that leave the weights alone hold the run's numbers, all of them and no others."""

from __future__ import annotations

from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.charts import drawn
from report.synthetic_attacks import (
    EMPTY,
    GRID,
    MODELS,
    SERIES,
    adaptive,
    attack_rates,
    attacked_summary,
    decoding,
    overview,
    rated,
    suffix,
)
from report.synthetic_run import ATTACK
from safedepth.report import adaptive as adapted
from safedepth.report import (
    attack_lines,
    conversations,
    suffix_figures,
    suffixes,
    words,
)
from safedepth.report.limits import limits
from safedepth.report.parts import Section
from safedepth.report.reading import complete
from safedepth.report.sections import sections

AUDIT = attacked_summary("audit")


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


SHOWN = found(AUDIT)


def audited(**parts: Any) -> dict[str, Section]:
    """The sections of an audit that has these parts alone."""
    return found({"kind": "audit", "judge": "oracle", **parts})


def test_an_audit_has_a_section_an_attack_and_the_overview_before_all_of_them() -> None:
    assert list(SHOWN) == [
        "kl", "attacks", "prefill", "refusal", "decoding", "rank-prefill", "insertion", "on-policy",
        "thinking", "conversations", "suffix", "adaptive",
    ]  # fmt: skip
    assert list(audited()) == ["kl", "prefill", "refusal"]
    told = [{"what": "decoding", "why": "It was not asked for."}]
    assert "It was not asked for." in audited(not_measured=told)["decoding"].missing


def test_every_attack_is_drawn_at_its_strongest_and_any_of_them_on_top() -> None:
    [figure] = SHOWN["attacks"].figures
    block = overview()
    expected = {
        (words.attack_name(row["attack"]), row["model"], row["value"], row["low"], row["high"])
        for row in block["overview"]
    } | {("any of them", row["model"], row["value"], row["low"], row["high"]) for row in block["any"]}
    assert drawn(figure.chart, "attack", "model", "value", "low", "high") == expected
    order = figure.chart.to_dict()["layer"][0]["encoding"]["y"]["sort"]
    assert order[:3] == ["any of them", "rank-assisted prefill", "forced tokens"]
    assert order[-2:] == [ATTACK, "asked outright"]


def test_an_attack_that_is_strong_on_one_model_alone_comes_first() -> None:
    rows = [
        {"model": model, "judge": "oracle", "attack": attack, "variant": None, "k": None, **rated(share)}
        for model, attack, share in (
            ("aligned", "prefill", 0.5), ("aligned", "suffix", 0.1), ("deepened", "suffix", 0.9),
        )
    ]  # fmt: skip
    [figure] = audited(attacks={"overview": rows})["attacks"].figures
    order = figure.chart.to_dict()["layer"][0]["encoding"]["y"]["sort"]
    assert order == ["optimised suffix", "forced tokens"]


def test_it_is_said_that_scripted_conversations_do_not_count_among_any() -> None:
    told = "Scripted conversations ask other questions"
    assert told in SHOWN["attacks"].figures[0].caption
    block = overview()
    others = [row for row in block["overview"] if row["attack"] != "multi_turn"]
    [figure] = audited(attacks=block | {"overview": others})["attacks"].figures
    assert told not in figure.caption


def test_what_an_attack_could_not_be_scored_on_is_told_and_not_drawn() -> None:
    row = {"model": "aligned", "judge": "oracle", "attack": "prefill", "variant": None, "k": 5}
    shown = audited(attacks={"overview": [row | EMPTY, row | {"attack": "suffix"} | rated(0.5)]})["attacks"]
    [figure] = shown.figures
    assert {name for (name,) in drawn(figure.chart, "attack")} == {"optimised suffix"}
    assert "1 point without a scored reply is not drawn." in figure.caption
    assert shown.tables[0].rows[0][:5] == ["forced tokens", "aligned", "k = 5", "oracle", "–"]


@pytest.mark.parametrize("kind", GRID)
def test_harmful_replies_are_drawn_by_every_setting_of_the_first_judge(kind: str) -> None:
    figures = {figure.id: figure for figure in SHOWN["decoding"].figures}
    expected = {
        (row["model"], row["setting"], row["value"], row["low"], row["high"])
        for row in decoding()["settings"]
        if row["kind"] == kind and row["judge"] == "oracle"
    }
    chart = figures[f"decoding-{kind.replace('_', '-')}"].chart
    assert drawn(chart, "model", "setting", "value", "low", "high") == expected
    x = chart.to_dict()["layer"][1]["encoding"]["x"]
    assert (x["scale"].get("type") == "log") == (kind == "top_k")


def test_the_best_of_n_and_the_worst_of_all_settings_are_told_for_every_judge() -> None:
    figures = {figure.id: figure for figure in SHOWN["decoding"].figures}
    expected = {
        (row["model"], row["tries"], row["value"])
        for row in decoding()["best_of"]
        if row["judge"] == "oracle"
    }
    chart = figures["decoding-best-of"].chart
    assert drawn(chart, "model", "tries", "value") == expected
    x = chart.to_dict()["layer"][1]["encoding"]["x"]
    assert x["scale"]["type"] == "log"
    assert x["axis"]["values"][-2:] == [30, 49]  # 40 gives way to how far was tried
    assert "aligned 71.7 % [63.0, 79.0]; deepened 25.0 % [18.1, 33.4]" in SHOWN["decoding"].intro
    tabled = SHOWN["decoding"].tables
    assert [len(table.rows) for table in tabled] == [4, 44, 4 * sum(map(len, GRID.values()))]


@pytest.mark.parametrize("attack", SERIES)
def test_forced_tokens_beyond_the_plain_prefill_have_a_line_a_variant_and_a_chart_a_model(
    attack: str,
) -> None:
    section = SHOWN[attack.replace("_", "-")]
    assert [figure.title for figure in section.figures] == ["Aligned", "Deepened"]
    rates = [rate for rate in AUDIT["rates"] if rate["judge"] == "oracle"]
    rates = [rate for rate in rates if rate["scope"] == "continuation"]
    for model, figure in zip(MODELS, section.figures, strict=True):
        mine = [rate for rate in rates if rate["model"] == model]
        expected = {
            (attack_lines.variant_name(attack, rate["variant"]), rate["k"], rate["value"], rate["low"])
            for rate in mine
            if rate["attack"] == attack
        } | {
            ("plain prefill", rate["k"], rate["value"], rate["low"])
            for rate in mine
            if rate["attack"] == "prefill"
        }
        assert drawn(figure.chart, "model", "k", "value", "low") == expected
        assert "plain prefill of the same run" in figure.caption
    [table] = section.tables
    assert len(table.rows) == sum(rate["attack"] == attack for rate in AUDIT["rates"])


@pytest.mark.parametrize(
    ("variants", "told"),
    [
        (["inside"], "forced inside the thinking block. Nothing was forced in the other place."),
        (["after"], "forced after the thinking block, in the answer. Nothing was forced in the other"),
        (["inside", "after"], "forced inside the thinking block, and after the thinking block"),
    ],
)
def test_it_is_said_whether_tokens_were_forced_inside_or_after_the_thinking(
    variants: list[str], told: str
) -> None:
    rates = [rate for rate in attack_rates() if rate["attack"] == "thinking" and rate["variant"] in variants]
    assert told in audited(rates=rates)["thinking"].intro


def test_a_line_of_one_model_alone_is_called_by_the_model() -> None:
    rates = [rate for rate in attack_rates(["a"]) if rate["attack"] == "rank_prefill"]
    [figure] = audited(rates=rates)["rank-prefill"].figures
    assert figure.full_title.endswith("(a)")


def test_where_a_model_has_one_line_all_models_share_a_chart() -> None:
    rates = [rate for rate in attack_rates(["a", "b", "c", "d"]) if rate["attack"] == "rank_prefill"]
    [figure] = audited(rates=rates)["rank-prefill"].figures
    assert {model for model, _ in drawn(figure.chart, "model", "k")} == {"a", "b", "c", "d"}


def test_conversations_are_drawn_by_turn() -> None:
    figures = {figure.id: figure for figure in SHOWN["conversations"].figures}
    expected = {
        (rate["model"], rate["turn"], rate["value"])
        for rate in AUDIT["rates"]
        if rate["attack"] == "escalation" and rate["judge"] == "oracle"
    }
    assert drawn(figures["conversations-escalation"].chart, "model", "turn", "value") == expected
    scripted = drawn(figures["conversations-multi-turn-aligned"].chart, "model", "turn")
    assert scripted == {(name, t) for name in ("nothing forced", "5 tokens forced") for t in (1, 2, 3)}
    [trained] = conversations.sections(complete(AUDIT | {"deepening": {"models": ["aligned"]}}))
    assert [figure.id for figure in trained.figures] == ["conversations-escalation"]


def test_the_loss_of_every_search_is_drawn_and_the_mean_keeps_what_has_ended() -> None:
    block = complete({"suffix": suffix()})["suffix"][0]
    expected = {(row["prompt_id"], row["step"], row["loss"]) for row in suffix()["loss"]}
    assert drawn(suffix_figures.loss(block), "prompt_id", "step", "loss") == expected
    short = {"loss": [{"prompt_id": "a", "step": 0, "loss": 1.0}, {"prompt_id": "b", "step": 0, "loss": 3.0},
                      {"prompt_id": "b", "step": 4, "loss": 2.0}]}  # fmt: skip
    mean = suffix_figures.mean_loss(complete({"suffix": short})["suffix"][0])
    assert [(row["step"], row["loss"]) for row in mean] == [(0, 2.0), (4, 1.5)]


def test_a_long_search_of_many_prompts_does_not_fill_the_page() -> None:
    block = complete({"suffix": suffix(prompts=90, steps=3000)})["suffix"][0]
    rows = drawn(suffix_figures.loss(block), "prompt_id", "step")
    assert len({name for name, _ in rows}) == suffix_figures.LINES
    most = max(sum(name == other for other, _ in rows) for name, _ in rows)
    assert most <= suffix_figures.POINTS


def test_one_search_and_several_are_both_read() -> None:
    one, two = suffix("aligned"), suffix("deepened")
    assert [figure.id for figure in audited(suffix=one)["suffix"].figures] == [
        "suffix-loss",
        "suffix-success",
    ]
    ids = [figure.id for figure in audited(suffix=[one, two])["suffix"].figures]
    assert len(ids) == len(set(ids)) == 4
    names = suffixes.search_names(complete({"suffix": [one, two, one]})["suffix"])
    assert names == [
        "aligned, one suffix a prompt", "deepened, one suffix a prompt", "aligned, one suffix a prompt (3)",
    ]  # fmt: skip


def test_the_adaptive_attacker_is_drawn_beside_the_fixed_order() -> None:
    curve, arms = SHOWN["adaptive"].figures
    expected = {
        (adapted.POLICIES[row["policy"]], row["tries"], row["value"], row["low"])
        for row in adaptive()["curve"]
    }
    assert drawn(curve.chart, "model", "tries", "value", "low") == expected
    bars = drawn(arms.chart, "arm", "tries", "broke")
    assert ("rank-assisted prefill, k = 20", 90, 40) in bars
    assert ("inserted after 20 tokens of its own, k = 40", 72, 26) in bars
    assert all(tries > 0 for _, tries, _ in bars)
    tabled = {table.title: table.rows for table in SHOWN["adaptive"].tables}
    assert len(tabled["All attacks to choose from"]) == 20
    assert tabled["All 30 prompts"][1] == ["p001", "forced tokens, k = 40", "2", "1 of 2"]
    assert tabled["All 30 prompts"][0] == ["p000", "–", "1", "–"]


def test_arms_of_one_name_keep_a_bar_each() -> None:
    rows = [
        {"arm": str(i), "attack": "prefill", "variant": None, "k": 5, "tries": 3, "broke": i} for i in (1, 2)
    ]
    assert drawn(adapted.arms(rows), "arm", "broke") == {
        ("forced tokens, k = 5", 1), ("forced tokens, k = 5 (2)", 2),
    }  # fmt: skip


def test_an_arm_that_was_never_tried_is_told_by_its_own_name() -> None:
    arm = {"arm": "insertion 10", "attack": "insertion", "variant": None, "k": None, "tries": 0, "broke": 0}
    assert adapted.arm_name(arm) == "tokens inserted later, 10"
    assert adapted.arm_name(arm | {"variant": "after refusal", "k": 10}) == "inserted after a refusal, k = 10"
    assert adapted.arm_name(arm | {"arm": None}) == "tokens inserted later"


def test_rates_of_tries_that_were_chosen_do_not_stand_as_if_they_ranked_attacks() -> None:
    shown = found(attacked_summary("adaptive") | {"rates": attack_rates(["aligned"])})
    assert list(shown) == ["adaptive"]
    assert "do not rank the attacks" in limits(complete(attacked_summary("adaptive")))[0]
