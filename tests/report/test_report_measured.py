"""The page of a run without replies: KL, log-probabilities, and where rounding is as large."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from altair.utils.schemapi import debug_mode
from rich.console import Console

from report.charts import drawn
from report.markup import visible
from report.synthetic_measured import answers, measured_summary, precision
from report.synthetic_run import card, summary
from safedepth.report import findings
from safedepth.report.limits import limits
from safedepth.report.parts import Section
from safedepth.report.precision import BETWEEN, below
from safedepth.report.reading import complete
from safedepth.report.sections import sections
from safedepth.terminal import tables as terminal

POINTS = (5.0, 1.0, 0.02, 0.004, 0.03, 0.0)


def found(of: dict[str, Any]) -> dict[str, Section]:
    with debug_mode(False):  # Altair's checks take longer than the drawing
        return {section.id: section for section in sections(complete(of), [])}


def kl(means: tuple[float | None, ...]) -> dict[str, Any]:
    return {"per_token": [{"position": t, "mean": mean} for t, mean in enumerate(means, start=1)]}


def rounded(dtype: str, *means: float | None, model: str = "aligned") -> dict[str, Any]:
    return {"model": model, "dtype": dtype, "kl": kl(means), "argmax_changed": None}


def test_the_sections_are_those_of_a_run_without_replies() -> None:
    assert list(found(measured_summary())) == ["kl", "answers", "precision"]
    assert list(found(measured_summary({"precision": None}))) == ["kl", "answers"]
    bare = found({"kind": "measure"})
    assert list(bare) == ["kl", "answers"]
    assert bare["answers"].missing == "This run holds no numbers for log-probabilities of harmful answers."
    why = [{"what": "the precision floor", "why": "The model is in float32."}]
    told = found({"kind": "measure", "not_measured": why})["precision"].missing
    assert told == "Not measured. the precision floor: The model is in float32."


def test_log_probabilities_are_drawn_for_both_models_with_their_bands() -> None:
    [figure] = found(measured_summary())["answers"].figures
    expected = {(r["model"], r["position"], r["value"], r["low"], r["high"]) for r in answers()}
    assert len(expected) == 80
    assert expected <= drawn(figure.chart, "model", "position", "value", "low", "high")
    head, rows = (getattr(found(measured_summary())["answers"].tables[0], part) for part in ("head", "rows"))
    assert head == ["token", "aligned", "base", "answers"]
    assert rows[0] == ["1", "−10.2 [−10.4, −9.9]", "−1.95 [−2.21, −1.70]", "120"]
    assert rows[-1][-1] == "90"


def test_the_sentence_on_log_probabilities_tells_the_first_token_and_a_later_one() -> None:
    [said] = [s for s in findings.headline(complete(measured_summary())) if s.startswith("The log-prob")]
    assert said == (
        "The log-probability of token 1 of a harmful answer is −10.2 nats [−10.4, −9.9] for the aligned "
        "model and −1.95 nats [−2.21, −1.70] for the base model; of token 20, −1.18 nats [−1.51, −0.85] for "
        "the aligned model and −1.21 nats [−1.54, −0.88] for the base model."
    )
    short = measured_summary({"answers": answers(["aligned"], tokens=1)})
    [said] = [s for s in findings.headline(complete(short)) if s.startswith("The log-prob")]
    assert said == (
        "The log-probability of token 1 of a harmful answer is −10.2 nats [−10.4, −9.9] for the aligned "
        "model."
    )


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        ([rounded("bfloat16", *[0.01] * 6)], ["At tokens 4 and 6"]),
        ([rounded("bfloat16", *[0.025] * 6)], ["At tokens 3 to 4 and 6"]),
        ([rounded("bfloat16", *[0.004] * 4, None, None)], ["At token 4"]),
        ([rounded("bfloat16", 5.0), rounded("int8", *[0.5] * 6)], ["At token 1", "At tokens 3 to 6"]),
        ([rounded("bfloat16", 1e-6), rounded("bfloat16", 6.0, model="base")], ["At token 1"]),
        ([rounded("bfloat16", *[1e-6] * 5)], []),
        ([{"model": "aligned", "dtype": "int4", "kl": None, "argmax_changed": None}], []),
        ([], []),
    ],
)
def test_the_reader_is_told_where_the_kl_is_no_larger_than_rounding(
    rows: list[dict[str, Any]], places: list[str]
) -> None:
    of = complete(measured_summary({"kl": kl(POINTS), "precision": rows}))
    told = [sentence for sentence in findings.headline(of) if "no larger than what rounding" in sentence]
    assert "".join(told).count("At token") == len(places)
    assert all(f"{place} the KL" in below(of) for place in places)
    assert told == ([below(of)] if places else [])
    if places:
        [figure] = found(of)["precision"].figures
        assert below(of) in figure.caption


def test_a_kl_above_the_floor_throughout_is_said_to_be() -> None:
    of = measured_summary({"kl": kl(POINTS[:3]), "precision": [rounded("float16", 1e-4, 1e-4, 0.0)]})
    [figure] = found(of)["precision"].figures
    assert (
        "At every token the KL between the models is larger than what rounding to float16" in figure.caption
    )
    assert figure.caption.endswith("1 point of exactly zero is not drawn.")
    assert drawn(figure.chart, "model", "position", "value") == {
        *((BETWEEN, t, mean) for t, mean in enumerate(POINTS[:3], start=1)),
        *(("aligned, rounded to float16", t, 1e-4) for t in (1, 2)),
    }


def test_every_format_has_its_line_its_largest_kl_and_the_tokens_it_changed() -> None:
    of = measured_summary({"precision": precision() + precision(["aligned"], dtype="int8", size=0.03)})
    section = found(of)["precision"]
    lines = {name for (name,) in drawn(section.figures[0].chart, "model")}
    floors = ["aligned, rounded to bfloat16", "base, rounded to bfloat16", "aligned, rounded to int8"]
    assert lines == {BETWEEN, *floors}
    numbers, by_token = section.tables
    assert [row[:2] for row in numbers.rows] == [
        ["aligned", "bfloat16"], ["base", "bfloat16"], ["aligned", "int8"],
    ]  # fmt: skip
    assert numbers.rows[0][3:] == ["0.4 % [0.2, 0.9]", "4,400"]
    most = max(precision()[0]["kl"]["per_token"], key=lambda point: point["mean"])
    assert numbers.rows[0][2] == f"{most['mean']:.2g} nats, at token {most['position']}"
    assert by_token.head == ["token", BETWEEN, *floors]
    assert len(by_token.rows) == 40


def test_the_page_says_that_nothing_was_judged_and_how_many_processes_measured(
    measured: dict[str, Path],
) -> None:
    text = visible(measured["measure"])
    assert "Where does aligned differ from its base model?" in text
    assert "nothing was generated here, and no reply was judged" in text
    assert "processes 4" in text
    assert "KL depth 4 tokens [3, 5]" in text
    for absent in ("This run holds no rates", "Forcing the first tokens", "Transcripts"):
        assert absent not in text


def test_quantised_weights_are_told_in_words_and_among_the_limits(measured: dict[str, Path]) -> None:
    text = visible(measured["served"])
    assert "number format int4 (NF4, bitsandbytes), computed in bfloat16" in text
    assert "were measured so. In another number format" in text
    plain = complete(summary("audit", base=True))
    assert not any("quantised" in paragraph for paragraph in limits(plain))
    both = plain | {"models": {"aligned": card("a") | {"dtype": "int8"}, "base": None}}
    assert any("(int8)" in paragraph for paragraph in limits(both))


def test_the_terminal_shows_the_tokens_people_ask_for_and_where_rounding_is_as_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Console(file=StringIO(), width=140)
    monkeypatch.setattr(terminal, "console", lambda: written)
    monkeypatch.setattr(terminal, "say", written.print)
    terminal.print_measured(measured_summary({"precision": precision(["aligned"])}))
    assert isinstance(written.file, StringIO)
    lines = [line.split("│") for line in written.file.getvalue().splitlines()]
    told = [[cell.strip() for cell in line[1:-1]] for line in lines if len(line) > 2]
    assert [row[0] for row in told] == ["1", "2", "5", "10", "20", "40"] * 2
    assert told[0][1] == "8.0 [6.4, 10.0]"
    assert told[6][1:] == ["−10.2 [−10.4, −9.9]", "−1.95 [−2.21, −1.70]", "120"]
    assert "no larger than what rounding to bfloat16 alone makes" in " ".join(written.file.getvalue().split())
    terminal.print_measured({"kind": "measure"})
