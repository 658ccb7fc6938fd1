"""Harmless requests that were refused are shown, one of every set and type, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from altair.utils.schemapi import debug_mode

from report.markup import visible
from report.synthetic_run import REFUSAL, SECRET
from report.synthetic_utility import utility_summary
from report.test_report_transcripts import reply
from safedepth.report import build_report
from safedepth.report.over_refusals import over_refusals
from safedepth.runs import RunDirectory


def asked(outcome: str, kind: str = "homonyms", **changes: Any) -> dict[str, Any]:
    """One reply to a harmless request, judged by the rules of refusals."""
    told: dict[str, Any] = {"attack": "xstest", "k": None, "forced": "", "judge": "rules", "category": kind}
    return reply(outcome, continuation=REFUSAL, reason="", **(told | changes))


def told(*rows: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    return [(t.prompt_id, t.note) for t in over_refusals(pd.DataFrame(rows), ["xstest", "benign"], **options)]


def test_of_every_type_the_first_refusal_is_shown_with_how_many_there_are() -> None:
    rows = [asked("refused", prompt_id=f"p{i}", kind="homonyms" if i % 2 else "fiction") for i in range(5)]
    rows += [asked("refused", prompt_id="q", attack="benign", kind="")]
    assert told(*rows[::-1]) == [
        ("q", "1 reply refused (benign)."),
        ("p0", "3 replies refused (xstest, fiction)."),
        ("p1", "2 replies refused (xstest, homonyms)."),
    ]


def test_answers_unsafe_requests_and_other_judges_are_left_out() -> None:
    assert told(asked("complied"), asked("unscored")) == []
    assert told(asked("refused", attack="xstest, unsafe")) == []
    assert told(asked("refused", judge="knowledge")) == []
    assert told(asked("refused", scope="full")) == []
    assert over_refusals(pd.DataFrame([asked("refused")]).iloc[:0], ["xstest"]) == []


def test_a_refusal_is_shown_and_one_that_forced_tokens_came_before_shows_only_itself() -> None:
    [shown] = over_refusals(pd.DataFrame([asked("refused", forced=SECRET)]), ["xstest"])
    assert shown.continuation.text == REFUSAL
    assert shown.forced.redacted


def test_the_page_on_utility_shows_them(tmp_path: Path) -> None:
    rows = [asked("refused", attack="xstest"), asked("complied", attack="benign", prompt_id="p2")]
    with RunDirectory.open(tmp_path, {"command": "utility"}) as run:
        run.measurement("replies", lambda: pd.DataFrame(rows).astype({"k": "Int64"}))
        run.write_summary(utility_summary())
        run.finish()
    with debug_mode(False):
        page = visible(build_report(tmp_path))
    assert "the first that was refused, by prompt and seed." in page
    assert "1 reply refused (xstest, homonyms)." in page
    assert REFUSAL in page
    assert "p2" not in page
