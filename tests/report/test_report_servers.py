"""The page tells what a server can do, with the evidence, and what could not be measured through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from report.markup import visible
from report.synthetic_attacks import attacked_summary
from report.synthetic_measured import server, servers
from report.synthetic_run import ATTACK, summary
from safedepth.report import findings
from safedepth.report.reading import complete
from safedepth.report.sections import sections
from safedepth.report.tables import Table

CANNOT = ("continues", "white_space", "token_ids")


def audit(block: Any) -> dict[str, Any]:
    return complete(summary("audit", base=False) | {"rates": [], "servers": block})


def tables(block: Any) -> list[Table]:
    [found] = [section for section in sections(audit(block), []) if section.id == "server"]
    return list(found.tables)


def test_every_ability_stands_with_its_answer_and_the_evidence() -> None:
    block = servers(no=("echo",))
    reached, abilities = tables(block)
    assert abilities.title == "What http://127.0.0.1:8000/v1 can do (aligned)"
    assert [row[1].split()[1] for row in abilities.rows] == [
        "yes", "yes", "yes", "no", "unsure", "yes", "yes", "yes",
    ]  # fmt: skip
    told = [entry["evidence"] for entry in block["aligned"]["capabilities"][0]["abilities"]]
    assert [row[2] for row in abilities.rows] == told
    assert abilities.rows[0][0] == "continues an answer that was begun"
    assert reached.rows == [
        ["aligned", "http://127.0.0.1:8000/v1", "toy/aligned", "toy/aligned", "as token ids", "256",
         "c0ffeec0ffee…"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("forced_as", "words"), [("tokens", "as token ids"), ("text", "as text"), (None, "not at all")]
)
def test_how_tokens_were_forced_is_told(forced_as: str | None, words: str) -> None:
    assert tables(servers(forced_as=forced_as))[0].rows[0][4] == words


def test_of_servers_that_answer_alike_the_first_is_open_and_one_that_differs_too() -> None:
    block = servers(count=3)
    block["base"] = {"capabilities": [server(9000, no=("echo",))], "forced_as": "text"}
    reached, *each = tables(block)
    assert [row[0] for row in reached.rows] == ["aligned", "aligned", "aligned", "base"]
    assert [of.open for of in each] == [True, False, False, True]
    assert len({of.title for of in each}) == 4


@pytest.mark.parametrize(
    ("can", "why"),
    [
        ({"no": CANNOT}, "the server does not continue an answer that was begun."),
        (
            {"unsure": CANNOT},
            "it could not be shown that the server continues an answer that was begun.",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["audit", "suffix", "measure"])
def test_the_findings_say_that_a_server_forbade_prefilling(kind: str, can: Any, why: str) -> None:
    whole = attacked_summary("suffix") if kind == "suffix" else summary("audit", base=False)
    told = complete(whole | {"kind": kind, "rates": [], "servers": servers(forced_as=None, **can)})
    [said] = [sentence for sentence in findings.headline(told) if "could not be measured on" in sentence]
    assert said == (
        f"Prefilling, and all else that forces a beginning, could not be measured on the aligned model: {why}"
    )
    assert findings.headline(told)[-1] == said


def test_one_sentence_speaks_of_all_models_that_could_not_be_forced() -> None:
    block = servers(forced_as=None, unsure=CANNOT)
    block |= {"base": servers(forced_as=None, no=CANNOT)["aligned"], "attacker": servers()["aligned"]}
    [said] = [s for s in findings.headline(audit(block)) if "could not be measured on" in s]
    assert "on the aligned and base models: the server does not continue" in said


@pytest.mark.parametrize(
    "block",
    [
        servers(),
        servers(forced_as="text", no=("token_ids",)),
        servers(forced_as=None),  # it could, but this run forced nothing
        {},
        None,
    ],
)
def test_nothing_is_said_to_be_forbidden_where_it_was_not(block: Any) -> None:
    assert not any("could not be measured on" in sentence for sentence in findings.headline(audit(block)))


def test_runs_without_a_server_have_no_such_section() -> None:
    whole = summary("audit", base=True)
    assert "servers" not in whole
    assert "server" not in [section.id for section in sections(complete(whole), [])]


def test_what_a_server_says_is_text(measured: dict[str, Path]) -> None:
    text = visible(measured["served"])
    assert f"the other 9 came back. {ATTACK}" in text
    assert "?\N{NO-BREAK SPACE}unsure" in measured["served"].read_text()
