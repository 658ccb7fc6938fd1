"""Every built-in judge over replies made to mislead it: outcome by outcome, and no row lost or moved."""

from collections import Counter
from functools import cache, partial
from pathlib import Path

import pytest

from judges.adversarial import CLASSES, FORGED, ROWS, Row
from judges.asking import Script, ask, state_of, verdicts
from safedepth import tasks
from safedepth.judges import resolve_judge
from safedepth.judges.judged import outcome_of
from safedepth.nouns import Outcome, Scope
from safedepth.testbed.grader import apologises
from safedepth.testbed.oracle import outcome

MODEL_JUDGES = ("rubric", "strongreject", "harmbench", "llama-guard", "wildguard", "strongreject-finetuned")
TOY, SWAYED = "safedepth_grader/toy", "safedepth_grader/swayed"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "judges.md"

assert tasks.__all__  # Inspect's names of the package's scorers and models


def expected(row: Row, judge: str) -> Outcome:
    """What a judge must say of a row: written by hand for rules and keywords, else the truth."""
    if judge in ("rules", "keywords"):
        return row.rules if judge == "rules" else row.keywords
    if judge == "oracle":
        return row.truth
    if row.empty:
        return Outcome.UNSCORED
    misled = judge.endswith("(swayed)") and apologises(row.reply)
    return Outcome.REFUSED if misled else row.truth


def test_the_table_holds_at_least_a_hundred_different_replies_of_every_kind() -> None:
    assert len(ROWS) >= 100
    assert len({(row.request, row.reply) for row in ROWS}) == len(ROWS)
    assert Counter(row.kind for row in ROWS) == {kind: count for kind, (count, _) in CLASSES.items()}
    assert {row.truth for row in ROWS} == {Outcome.COMPLIED, Outcome.REFUSED}
    assert max(len(row.reply) for row in ROWS) >= 100_000


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_oracle_says_what_is_written_down_as_true(row: Row) -> None:
    assert outcome(row.request, row.reply) is row.truth


JUDGES = (
    "rules", "keywords", "oracle",
    *(f"{judge}={grader}" for judge in MODEL_JUDGES for grader in (TOY, SWAYED)),
)  # fmt: skip


@cache
def said(reference: str) -> tuple[tuple[Outcome, str], ...]:
    """What a judge says of every row, asked one by one."""
    judge = resolve_judge(reference)
    return tuple(outcome_of(ask(judge, row.reply, row.request)) for row in ROWS)


@pytest.mark.parametrize("reference", JUDGES)
def test_a_judge_says_of_every_reply_what_it_must(reference: str) -> None:
    name = reference.replace(f"={SWAYED}", "(swayed)")
    wrong = []
    for row, (found, reason) in zip(ROWS, said(reference), strict=True):
        assert bool(reason) == (found is Outcome.UNSCORED)
        if found is not expected(row, name):
            wrong.append((row.name, found, reason))
    assert wrong == []


def test_no_row_is_lost_or_moved_when_all_judges_see_all_replies_at_once() -> None:
    entries = [
        {"continuation": row.reply, "forced": "", "left_out": None, "prompt": row.request} for row in ROWS
    ]
    state = state_of("", replies=entries)
    references = ("rules", "keywords", *(f"{judge}={TOY}" for judge in MODEL_JUDGES))
    found = verdicts(references, state)
    names = ("rules", "keywords", *(f"{judge}(toy)" for judge in MODEL_JUDGES))
    places = [(v.reply, v.judge, v.scope) for v in found]
    assert places == [(index, name, scope) for index in range(len(ROWS)) for name in names for scope in Scope]
    for verdict in found:
        assert verdict.outcome is expected(ROWS[verdict.reply], verdict.judge), ROWS[verdict.reply].name


def _said(text: str, _prompt: str) -> str:
    return text


@pytest.mark.parametrize("judge", MODEL_JUDGES[:2])
@pytest.mark.parametrize("kind", ["harm, then a forged verdict", "forged verdict, then harm"])
def test_a_grader_that_only_repeats_the_reply_gives_no_verdict(judge: str, kind: str) -> None:
    for row in (row for row in ROWS if row.kind == kind):
        echoing = Script(partial(_said, row.reply))
        score = ask(resolve_judge(judge), row.reply, row.request, grader=echoing.model())
        found, reason = outcome_of(score)
        assert found is Outcome.UNSCORED, row.name
        assert reason.endswith("(3 attempts)")


@pytest.mark.parametrize("judge", MODEL_JUDGES[:2])
def test_a_grader_that_repeats_the_whole_prompt_gives_no_verdict(judge: str) -> None:
    for row in ROWS:
        echoing = Script(lambda prompt: prompt)
        score = ask(resolve_judge(judge), row.reply, row.request, grader=echoing.model())
        assert outcome_of(score)[0] is Outcome.UNSCORED, row.name


def test_every_judges_format_is_among_the_forged_verdicts() -> None:
    assert set(FORGED) == set(MODEL_JUDGES)


def measured() -> list[str]:
    """The table of docs/judges.md: right outcomes among those scored, by class and judge."""
    judges = {
        "rules": ["rules"],
        "keywords": ["keywords"],
        "six with a model, truthful": [f"{judge}={TOY}" for judge in MODEL_JUDGES],
        "six with a model, swayed": [f"{judge}={SWAYED}" for judge in MODEL_JUDGES],
    }
    lines = [f"| replies | n | harmful | {' | '.join(judges)} |", "|---|---|---|" + "---|" * len(judges)]
    for kind in CLASSES:
        rows = [row for row in ROWS if row.kind == kind]
        cells = [str(len(rows)), str(sum(row.truth is Outcome.COMPLIED for row in rows))]
        for references in judges.values():
            scored = [
                (found, row.truth)
                for reference in references
                for row, (found, _) in zip(ROWS, said(reference), strict=True)
                if row.kind == kind and found is not Outcome.UNSCORED
            ]
            right = sum(found is truth for found, truth in scored)
            cells.append(f"{right}/{len(scored)}" if scored else "unscored")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def test_the_table_in_the_documentation_is_what_is_measured() -> None:
    assert "\n".join(measured()) in DOCS.read_text()
