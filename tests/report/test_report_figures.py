"""A chart holds the summary's numbers, all of them and no others."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from report.charts import drawn
from report.synthetic_run import DEPTHS, JUDGES, PREFIXES, SECRET, kl_table, rate, summary
from safedepth.report import figures
from safedepth.report.sections import sections

FULL = summary("reproduce", base=True)
ALONE = summary("audit", base=False)


def test_the_kl_chart_draws_every_position_with_its_band() -> None:
    expected = {(p["position"], p["mean"], p["low"], p["high"], p["n"]) for p in FULL["kl"]["per_token"]}
    assert drawn(figures.kl_by_position(FULL), "position", "mean", "low", "high", "n") == expected


def test_without_a_base_there_is_no_kl_chart() -> None:
    assert figures.kl_by_position(ALONE) is None


@pytest.mark.parametrize("judge", JUDGES)
def test_the_prefill_chart_draws_one_judge_in_both_scopes_on_both_models(judge: str) -> None:
    expected = {
        (r["model"], r["scope"], r["k"], r["value"], r["low"], r["high"], r["n"])
        for r in FULL["rates"]
        if r["attack"] == "prefill" and r["judge"] == judge
    }
    assert len(expected) == 2 * 2 * len(DEPTHS)
    keys = ("model", "scope", "k", "value", "low", "high", "n")
    assert drawn(figures.prefill_sweep(FULL, judge), *keys) == expected


def test_a_point_without_a_scored_reply_is_not_drawn_at_zero() -> None:
    what: dict[str, Any] = {"model": "aligned", "attack": "prefill", "judge": "mine", "scope": "full"}
    nothing = rate(0.5, k=5, **what) | {"n": 0, "harmful": 0, "value": None, "low": None, "high": None}
    chart = figures.prefill_sweep({"rates": [rate(0.25, k=0, **what), nothing]}, "mine")
    assert drawn(chart, "k", "value") == {(0, 0.25)}
    assert figures.prefill_sweep({"rates": [nothing]}, "mine") is None


def test_the_legend_names_only_what_is_there() -> None:
    for summary_, expected in ((FULL, "aligned base"), (ALONE, "aligned")):
        for draw in (figures.prefill_sweep, figures.refusal_prefixes):
            chart = draw(summary_, "oracle")
            assert chart is not None
            text = json.dumps(chart.to_dict())
            scales = re.findall(r'"domain": (\["aligned"[^]]*\])', text)
            assert scales
            assert {" ".join(json.loads(scale)) for scale in scales} == {expected}


def test_the_refusal_chart_compares_the_models_prefix_by_prefix_on_the_continuation() -> None:
    expected = {
        (r["model"], r["prefix"] or figures.NO_PREFIX, r["value"])
        for r in FULL["rates"]
        if r["attack"] == "refusal_prefix" and r["judge"] == "oracle" and r["scope"] == "continuation"
    }
    assert len(expected) == 2 * len(PREFIXES)
    assert drawn(figures.refusal_prefixes(FULL, "oracle"), "model", "prefix", "value") == expected


def test_nothing_forced_is_taken_from_the_sweep_where_the_attack_has_none() -> None:
    what: dict[str, Any] = {"model": "base", "judge": "mine", "scope": "continuation"}
    rates = [
        rate(0.75, attack="prefill", k=0, **what),
        rate(0.5, attack="prefill", k=5, **what),
        rate(0.25, attack="refusal_prefix", prefix="I cannot", **what),
    ]
    chart = figures.refusal_prefixes({"rates": rates}, "mine")
    assert drawn(chart, "prefix", "value") == {(figures.NO_PREFIX, 0.75), ("I cannot", 0.25)}
    assert figures.refusal_prefixes({"rates": rates[:2]}, "mine") is None


def test_the_calibration_charts_leave_out_what_has_no_value() -> None:
    points = FULL["calibration"]["points"]
    kl = {(p["d"], p["measures"]["kl_depth"]["value"]) for p in points if p["d"] != 0}
    half = {(p["d"], p["measures"]["half_depth"]["value"]) for p in points}
    assert figures.calibrated_measures(FULL) == ["half_depth", "kl_depth"]
    agreement = {(d, d) for d in sorted({p["d"] for p in points})}
    assert drawn(figures.calibration(FULL, "half_depth"), "d", "value") == half | agreement
    assert drawn(figures.calibration(FULL, "kl_depth"), "d", "value") == kl | agreement
    assert figures.calibration(ALONE, "half_depth") is None


def test_the_calibration_curves_draw_every_organism() -> None:
    expected = {(p["d"], s["k"], s["value"]) for p in FULL["calibration"]["points"] for s in p["curve"]}
    assert drawn(figures.calibration_curves(FULL), "d", "k", "value") == expected


def test_the_strips_show_how_large_the_kl_is_and_never_of_which_token() -> None:
    table = kl_table(prompts=40, tokens=70)
    records = [{str(key): value for key, value in row.items()} for row in table.to_dict(orient="records")]
    chart = figures.kl_along_answers(records)
    expected = {
        (r["prompt_id"], r["position"], r["kl"])
        for r in records
        if int(r["prompt_id"][1:]) < figures.STRIPS and r["position"] <= figures.STRIP_TOKENS
    }
    assert drawn(chart, "prompt_id", "position", "kl") == expected
    assert chart is not None
    assert SECRET.split()[5] not in json.dumps(chart.to_dict())


def test_a_section_without_numbers_says_why() -> None:
    kl, *_ = sections(ALONE, [])
    assert kl.figures == []
    assert kl.missing == "Not measured. KL by token: No base model was given; repeat with --base."
    silent, *_ = sections(ALONE | {"not_measured": []}, [])
    assert silent.missing == "This run holds no numbers for KL."


def test_a_point_that_is_not_drawn_is_named() -> None:
    calibration = sections(FULL, [])[-1]
    [kl] = [figure for figure in calibration.figures if figure.id == "calibration-kl-depth"]
    assert kl.caption == "Without a value, and not drawn: depth-0."


def test_every_figure_has_an_id_of_its_own_that_can_name_a_file() -> None:
    names = ("a/b.py@mine", "a-b.py@mine", "Ω", "")
    rates = [r | {"judge": name} for r in FULL["rates"] for name in names if r["judge"] == "oracle"]
    ids = [figure.id for section in sections(FULL | {"rates": rates}, []) for figure in section.figures]
    assert len(ids) == len(set(ids)) == 2 * len(names) + 4
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in ids)
