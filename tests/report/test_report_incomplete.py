"""Whatever a study left out, there is a page, and it makes no number up."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from altair.utils.schemapi import debug_mode

from report.mutilation import HOW, holes, mutilated, some_holes
from report.synthetic_attacks import adaptive, attacked_summary, decoding, suffix
from report.synthetic_deepening import (
    base_summary,
    compare_summary,
    deepen_summary,
    deepening,
    make_deepened_run,
)
from report.synthetic_judging import SOURCES, agreement, categories, judge_summary
from report.synthetic_measured import measured_summary, precision, servers
from report.synthetic_protection import dynamics, finetuning_summary, protection
from report.synthetic_run import summary
from report.synthetic_utility import trade_off, utility_summary
from safedepth.report import build_report, findings, tables
from safedepth.report.reading import complete
from safedepth.report.sections import sections


def small(whole: dict[str, Any]) -> dict[str, Any]:
    """The same summary with few rows in every list: what may be missing is the same."""
    found = copy.deepcopy(whole)
    deepening = found.get("deepening") or {}
    for kl in (deepening.get("kl") or {}).values():
        kl["per_token"] = kl["per_token"][:2]
    for training in deepening.get("training") or ():
        training["losses"] = training["losses"][:2]
    for block, key in (("dynamics", "positions"), ("dynamics", "layers"), ("protection", "diagnostics")):
        rows = (found.get(block) or {}).get(key) or ()
        if rows:
            found[block][key] = [row for row in rows if row["position"] < 3 and row["step"] < 30]
    found["rates"] = [
        r for r in found["rates"] if r.get("k") in (None, 0, 5) and r["scope"] == "continuation"
    ]
    return found


def small_attacks() -> dict[str, dict[str, Any]]:
    """Runs with attacks that leave the weights alone, with few rows of each kind."""
    rates = [r for r in attacked_summary("audit", models=["aligned"])["rates"] if r.get("k") in (None, 5, 20)]
    rates = [r for r in rates if r["judge"] == "oracle" and r["scope"] == "continuation"]
    settings = decoding(["aligned"], ["oracle"])
    settings |= {"settings": settings["settings"][::10], "best_of": settings["best_of"][::5]}
    search, tried = suffix(prompts=2, steps=20), adaptive(arms=7)
    tried |= {"curve": tried["curve"][::5], "prompts": tried["prompts"][:3]}
    audit = attacked_summary("audit", models=["aligned"])
    audit |= {"rates": rates, "decoding": settings, "suffix": [search], "kl": None, "adaptive": None}
    return {
        "audit": audit,
        "suffix": attacked_summary("suffix") | {"suffix": [search]},
        "adaptive": attacked_summary("adaptive") | {"adaptive": tried},
    }


def small_judging() -> dict[str, dict[str, Any]]:
    """Runs with what is said of judges, benchmarks and utility, with few rows of each kind."""
    judged = judge_summary(("rubric(toy)", "rules", "oracle"))
    judged["rates"] = [r for r in judged["rates"] if r.get("k") in (None, 5) and r["scope"] == "full"]
    errors = judged["calibration"]
    errors["corrected"] = [r for r in errors["corrected"] if r["k"] in (None, 5)][:8]
    audit = base_summary("audit") | {
        "categories": categories(["one", "two"])[:6], "agreement": agreement(("oracle", "rules")),
        "sources": SOURCES,
    }  # fmt: skip
    return {
        "judge": judged,
        "utility": utility_summary(),
        "categories": audit,
        "trade-off": base_summary("finetune") | {"trade_off": trade_off()},
    }


def small_measured() -> dict[str, Any]:
    """A run without replies, with servers, with two tokens of everything."""
    found = measured_summary({"servers": servers(), "precision": precision(["aligned"]), "rates": []})
    for block in (found["kl"], *(row["kl"] for row in found["precision"])):
        block["per_token"] = block["per_token"][-2:]
    found["answers"] = [row for row in found["answers"] if row["position"] < 3]
    return found


WHOLE = {
    "measure": small_measured(),
    **small_judging(),
    **small_attacks(),
    "deepen": small(deepen_summary(control=False)),
    "compare": small(compare_summary()),
    "reproduce": small(summary("reproduce", base=True) | {"deepening": deepening()}),
    "protect": small(base_summary("reproduce") | {"dynamics": dynamics(), "protection": protection()}),
    **{kind: small(finetuning_summary(kind)) for kind in ("dynamics", "finetune", "attack", "sweep")},
}
TIMES = {
    "finetune": 12, "attack": 12, "sweep": 12, "suffix": 12, "adaptive": 12, "categories": 12,
    "trade-off": 12, "measure": 12,
}  # fmt: skip
"""How often several holes are tried where that takes little time."""
FEW = 40
"""Places where something can be missing that even the smallest summary has."""


FILLED = (
    ("dynamics", "asr"), ("dynamics", "positions"), ("dynamics", "layers"), ("dynamics", "spread"),
    ("protection", "runs"), ("protection", "tasks"), ("protection", "betas"), ("protection", "paired"),
    ("decoding", "settings"), ("decoding", "best_of"), ("attacks", "overview"), ("attacks", "any"),
    ("adaptive", "arms"), ("adaptive", "curve"), ("adaptive", "prompts"), ("adaptive", "facts"),
    ("attack", "evaluations"), ("sweep", "trials"), ("sweep", "bound"),
    ("trade_off", "rows"), ("trade_off", "models"),
)  # fmt: skip
"""Parts of the blocks on fine-tuning that the synthetic runs fill in every field."""


TOP = (
    "judges", "classes", "agreement", "harness", "requests", "alpaca", "sources", "servers", "answers",
    "precision", "processes",
)  # fmt: skip
"""Parts at the top of a summary that the synthetic runs fill in every field."""


def words_of(incomplete: dict[str, Any]) -> list[str]:
    """All words that are written of a summary outside its charts."""
    found = complete(incomplete)
    told = [
        findings.title(found),
        *findings.headline(found),
        tables.rates_note(found),
        tables.no_depth(found),
    ]
    told += [f"{tile.label} {tile.value} {tile.interval}" for tile in findings.tiles(found)]
    for table in (*tables.rates(found), tables.depths_by_model(found)):
        told += [table.title, *table.head, *(cell for row in table.rows for cell in row)]
    return told + [text for depth in tables.depths(found) for text in depth.values()]


@pytest.mark.parametrize("kind", WHOLE)
def test_words_can_be_found_for_a_summary_with_any_one_thing_missing(kind: str) -> None:
    places = sorted(set(holes(WHOLE[kind])))
    assert len(places) > FEW
    for place in places:
        for how in HOW:
            told = words_of(mutilated(WHOLE[kind], place, how))
            assert not any("None" in text for text in told), (place, how)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", WHOLE)
def test_sections_can_be_drawn_whatever_several_things_are_missing(kind: str, seed: int) -> None:
    for missing in some_holes(WHOLE[kind], seed=seed, times=TIMES.get(kind, 4), at_once=7):
        incomplete = WHOLE[kind]
        for place, how in missing:
            incomplete = mutilated(incomplete, place, how)
        with debug_mode(False):  # Altair's checks of every part take longer than the drawing
            drawn = sections(complete(incomplete), [])
        for section in drawn:
            assert section.figures or section.tables or section.missing, (section.id, missing)
            assert all("None" not in figure.spoken + figure.caption for figure in section.figures), missing


@pytest.mark.parametrize("kind", ["deepen", "compare"])
@pytest.mark.parametrize(
    "parts", [("deepening", "comparison", "rates"), ("models", "judge", "kind", "created")]
)
def test_a_run_of_recovery_training_without_some_parts_still_has_a_page(
    tmp_path: Path, kind: str, parts: tuple[str, ...]
) -> None:
    whole = {key: value for key, value in WHOLE[kind].items() if key not in parts}
    with debug_mode(False):
        page = build_report(make_deepened_run(tmp_path, whole))
    assert "Provenance" in page.read_text()


def test_a_summary_that_is_complete_is_left_as_it_is() -> None:
    for kind, whole in WHOLE.items():
        before = copy.deepcopy(whole)
        found = complete(whole)
        assert whole == before
        assert complete(found) == found
        for key in ("rates", "not_measured", "seeds"):
            assert found[key] == whole[key], kind
        for part, value in (whole.get("deepening") or {}).items():
            if part != "finetuning":  # whose k may be left out
                assert found["deepening"][part] == value, part
        for part in TOP:
            if part in whole:
                assert found[part] == whole[part], (kind, part)
        for block, part in FILLED:
            if part in (whole.get(block) or {}):
                assert found[block][part] == whole[block][part], (kind, part)


def test_models_that_the_block_does_not_list_are_drawn_after_those_it_does() -> None:
    block = deepening()
    assert complete({"deepening": block})["deepening"]["models"] == ["aligned", "deepened", "control"]
    unlisted = complete({"deepening": block | {"models": None}})["deepening"]["models"]
    assert unlisted == ["aligned", "deepened", "control"]
    one = complete({"deepening": block | {"models": ["deepened"]}})["deepening"]["models"]
    assert one == ["deepened", "aligned", "control"]
