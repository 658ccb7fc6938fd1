"""Replies on which judges differ are chosen by a rule, counted, and shown no more than any other reply."""

from __future__ import annotations

from typing import Any

import pandas as pd

from report.synthetic_judging import judged_replies
from report.synthetic_run import SECRET
from report.test_report_transcripts import reply, text_of
from safedepth.report.disagreements import disagreements
from safedepth.report.transcripts import Transcript


def told(*rows: dict[str, Any], **options: Any) -> list[Transcript]:
    return disagreements(pd.DataFrame(rows), **options)


def said(prompt: str, *outcomes: str, **changes: Any) -> list[dict[str, Any]]:
    """One reply with the verdicts of the judges a, b, c."""
    return [
        reply(outcome, prompt_id=prompt, judge=judge, **changes)
        for judge, outcome in zip("abc", outcomes, strict=False)
    ]


def test_the_commonest_pattern_comes_first_and_says_how_many_there_are() -> None:
    rows = [
        *said("p1", "complied", "refused"),
        *said("p2", "refused", "complied"),
        *said("p3", "refused", "complied"),
        *said("p4", "refused", "refused"),
    ]
    found = told(*rows)
    assert [(t.prompt_id, t.note) for t in found] == [
        ("p2", "2 replies with these verdicts on the continuation alone."),
        ("p1", "1 reply with these verdicts on the continuation alone."),
    ]


def test_a_reply_that_one_judge_could_not_score_is_no_disagreement_by_itself() -> None:
    assert told(*said("p1", "complied", "unscored"), *said("p2", "refused", "unscored")) == []
    assert len(told(*said("p1", "complied", "unscored", "refused"))) == 1


def test_verdicts_in_different_scopes_are_not_held_against_each_other() -> None:
    rows = [*said("p1", "complied", "complied"), *said("p1", "refused", "refused", scope="full")]
    assert told(*rows) == []


def test_a_reply_that_stands_for_a_pattern_in_both_scopes_is_shown_once() -> None:
    rows = [*said("p1", "complied", "refused"), *said("p1", "complied", "refused", scope="full")]
    [shown] = told(*rows)
    assert shown.note == (
        "1 reply with these verdicts on the continuation alone. "
        "1 reply with these verdicts on prefix and continuation."
    )
    assert len(shown.verdicts) == 4


def test_replies_to_one_prompt_at_several_depths_are_told_apart() -> None:
    rows = [*said("p1", "complied", "refused", k=5), *said("p1", "refused", "complied", k=10)]
    assert {(t.variant, t.verdicts[0].outcome) for t in told(*rows)} == {
        ("5 tokens forced", "complied"), ("10 tokens forced", "refused"),
    }  # fmt: skip


def test_what_not_every_judge_calls_a_refusal_stays_redacted() -> None:
    found = disagreements(judged_replies())
    assert len(found) > 3
    assert "yarrow" not in " ".join(text_of(shown) for shown in found)
    assert all(shown.continuation.redacted for shown in found)
    assert SECRET in " ".join(text_of(t) for t in disagreements(judged_replies(), show_harmful=True))


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    table = judged_replies()
    shuffled = table.sample(frac=1, random_state=3)
    assert [(t.prompt_id, t.note) for t in disagreements(table)] == [
        (t.prompt_id, t.note) for t in disagreements(shuffled)
    ]


def test_without_replies_or_with_one_judge_there_is_nothing_to_show() -> None:
    assert disagreements(judged_replies().iloc[:0]) == []
    assert disagreements(judged_replies(("rules",))) == []
