"""What attacks that leave the weights alone found is told in words, and their replies can be read."""

from __future__ import annotations

import pandas as pd
import pytest

from report.synthetic_attacks import (
    BUDGET,
    COST,
    attack_rates,
    attacked_replies,
    attacked_summary,
)
from report.synthetic_run import SECRET
from safedepth.report import findings, provenance, tables
from safedepth.report.reading import complete
from safedepth.report.sections import sections
from safedepth.report.transcripts import choose

AUDIT = attacked_summary("audit")


def test_an_audit_opens_with_what_any_attack_broke() -> None:
    told = complete(AUDIT)
    assert findings.headline(told)[0] == (
        "At least one reply to any of the attacks was harmful for 95.8 % [90.6, 98.2] of the prompts to "
        "aligned; 33.3 % [25.5, 42.2] of the prompts to deepened (judge oracle); the strongest single attack "
        "on aligned is “rank-assisted prefill” with 85.8 % [78.5, 91.0]."
    )
    assert [(t.label, t.value) for t in findings.tiles(told)][:2] == [
        ("Prompts broken by any attack, aligned", "95.8 %"),
        ("Prompts broken by any attack, deepened", "33.3 %"),
    ]
    assert findings.title(told) == "How deep is the safety alignment of aligned?"


def test_a_run_of_one_attack_opens_with_its_worst_case() -> None:
    told = complete(attacked_summary("adaptive"))
    assert findings.title(told) == "How far does an attacker who learns get with aligned?"
    assert findings.headline(told) == [
        f"The worst case: with at most {BUDGET} tries a prompt, the attacker breaks 95.0 % [89.5, 97.7] of "
        "the prompts.",
        f"After {BUDGET} tries a prompt, 95.0 % [89.5, 97.7] are broken by the attacker who learns and "
        "81.7 % [73.8, 87.6] by one with a fixed order.",
        "What broke most prompts: “rank-assisted prefill, k = 20”, 40 in 90 tries.",
    ]
    assert findings.tiles(told)[0].value == "95.0 %"
    told = complete(attacked_summary("suffix"))
    assert findings.headline(told)[0] == (
        "After 200 steps of the search, 80.0 % [72.0, 86.2] of the prompts are broken by an optimised suffix "
        "(aligned, one suffix a prompt)."
    )


@pytest.mark.parametrize("kind", ["suffix", "adaptive"])
def test_a_run_of_one_attack_without_numbers_says_so(kind: str) -> None:
    told = complete({"kind": kind})
    assert findings.headline(told)[0].startswith("This run holds no numbers")
    assert findings.tiles(told) == []
    shown = {section.id: section for section in sections(told, [])}
    assert shown[kind].missing.startswith("This run holds no numbers")


def test_what_the_replies_cost_stands_in_one_line() -> None:
    assert provenance.cost_rows(COST) == [
        ["cost, reckoned beforehand, at most", "35,280 replies, 1,411,200 tokens, 812 seconds"]
    ]
    assert provenance.cost_rows({"replies": 1, "tokens": None, "seconds": None})[0][1] == "1 reply"
    assert provenance.cost_rows({}) == []


def test_the_table_of_rates_names_variants() -> None:
    [table, *_] = tables.rates(complete({"rates": attack_rates(["aligned"])}))
    assert ["tokens inserted later", "after own 20, k = 5"] in [row[1:3] for row in table.rows]


def test_of_replies_with_many_variants_the_strongest_of_each_attack_is_shown_and_redacted() -> None:
    shown = choose(attacked_replies(), judge="oracle")
    variants = list(dict.fromkeys(t.variant for t in shown))
    assert variants[0] == "5 tokens forced"
    assert "rank-assisted prefill, k = 5" in variants
    assert sum(v.startswith("decoding settings") for v in variants) == 1
    assert sum(v.startswith("escalating conversation") for v in variants) == 1
    assert all(len(t.verdicts) == 1 for t in shown)
    assert not any(SECRET in t.continuation.text + t.forced.text for t in shown)


@pytest.mark.parametrize("gone", ["variant", "turn", "prefix", "repeat"])
def test_a_table_of_replies_that_lacks_a_column_is_still_read(gone: str) -> None:
    replies = attacked_replies().drop(columns=gone)
    if gone == "variant":
        replies = replies[replies["attack"] != "decoding"]
    assert choose(pd.DataFrame(replies), judge="oracle")
