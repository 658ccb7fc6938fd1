"""Altair's own checks on every chart of every kind of page: building a page goes without them."""

from pathlib import Path

import pytest

from safedepth.report import page as pages
from safedepth.report.reading import complete
from safedepth.report.sections import sections
from safedepth.runs import RunDirectory

GROUPS = ("about_finetuning", "trusted", "attacked", "measured")


@pytest.mark.parametrize("name", ["reproduction", "audit_alone", "deepened", "compared", *GROUPS])
def test_altair_finds_nothing_wrong_with_any_chart(name: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(name)
    for page in made.values() if isinstance(made, dict) else [made]:
        run = RunDirectory.read(Path(page).parent)
        summary = complete(run.summary())
        scores = pages._scores(run.load("replies"))
        drawn = [
            figure
            for section in sections(summary, pages._kl_rows(run.load("kl")), scores)
            for figure in section.figures
        ]
        assert all(figure.chart.to_dict(validate=True)["$schema"] for figure in drawn)
        assert drawn or summary["kind"] == "audit", page
