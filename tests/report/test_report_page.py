"""The page says what the run directory holds, escapes it, and needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from report.markup import Skeleton, visible
from report.synthetic_deepening import deepening
from report.synthetic_protection import finetuned_replies, finetuning_summary, make_finetuning_run
from report.synthetic_run import ATTACK, REFUSAL, SECRET, make_run, summary
from safedepth.errors import RunError
from safedepth.report import build_report, words
from safedepth.runs import RunDirectory


def test_what_the_run_says_is_text_and_never_markup(reproduction: Path) -> None:
    page = Skeleton(reproduction.read_text())
    assert ATTACK in visible(reproduction)
    assert [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed", "link")] == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert not any("alert(1)" in text for attributes, text in page.scripts if "type" not in attributes)


def test_data_cannot_end_the_element_that_holds_a_chart(tmp_path: Path) -> None:
    rates = [
        rate | ({"prefix": ATTACK} if rate.get("prefix") else {}) | {"judge": ATTACK}
        for rate in summary("audit", base=False)["rates"]
    ]
    page = Skeleton(build_report(make_run(tmp_path, kind="audit", changes={"rates": rates})).read_text())
    held = [json.loads(text) for attributes, text in page.scripts if "type" in attributes]
    assert ATTACK in json.dumps(held, ensure_ascii=False)
    assert not any("alert(1)" in text for attributes, text in page.scripts if "type" not in attributes)


def test_our_own_markup_is_not_shown_as_text(reproduction: Path, audit_alone: Path) -> None:
    for page in (reproduction, audit_alone):
        assert "is 5.25 tokens [4.50, 6.12]." in visible(page).replace(" .", ".")
        assert not re.search(r"class=|</?(span|p|td|b|small)\b", visible(page))


def test_only_the_two_scripts_of_the_policy_can_run(reproduction: Path) -> None:
    page = Skeleton(reproduction.read_text())
    [policy] = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    running = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert len(hashes) == 2
    assert f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy


def test_the_page_refers_to_nothing_outside_itself(reproduction: Path) -> None:
    page = Skeleton(reproduction.read_text())
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {str(a["href"])[1:] for _, a in page.elements if "href" in a} <= ids


def test_every_chart_has_a_specification_and_words_for_who_cannot_see_it(reproduction: Path) -> None:
    page = Skeleton(reproduction.read_text())
    charts = [attributes for _, attributes in page.elements if "data-spec" in attributes]
    specs = {a["id"]: json.loads(text) for a, text in page.scripts if a.get("type") == "application/json"}
    assert {chart["data-spec"] for chart in charts} == set(specs)
    assert len(charts) == 9
    assert all(re.match(r"(Line|Bar|Heat|Scatter)\b.*\d*", str(chart["data-spoken"])) for chart in charts)


def test_every_table_has_headers_with_a_scope(reproduction: Path) -> None:
    page = Skeleton(reproduction.read_text())
    headers = [attributes for tag, attributes in page.elements if tag == "th"]
    assert headers
    assert all(attributes.get("scope") in ("col", "row") for attributes in headers)


def test_the_claims_stand_with_both_numbers_and_a_verdict(reproduction: Path) -> None:
    text = visible(reproduction)
    assert "96.1 % 90.0 % [85.0, 94.0] ✓ holds" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "5.4 % 60.0 % [50.0, 70.0] ✗ does not hold" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Fig. 1 3.25 nats [3.00, 3.50] ✓ holds" in text
    assert "57.0 % – not measured" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_every_rate_stands_in_the_table_with_what_was_not_scored(reproduction: Path) -> None:
    text = visible(reproduction)
    rates = summary("reproduce", base=True)["rates"]
    assert f"All {len(rates)} rates" in text
    for rate in rates:
        variant = (
            f"k = {rate['k']}"
            if "k" in rate
            else f"“{rate['prefix']}”"
            if rate["prefix"]
            else "nothing forced"
        )
        ends = f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
        row = (
            f"{rate['model']} {words.attack_name(rate['attack'])} {variant} {rate['judge']} {rate['scope']} "
            f"{rate['n']} {rate['harmful']} {100 * rate['value']:.1f} % {ends} {rate['unscored']}"
        )
        assert row in text
    assert "3 (the judge gave no verdict: 3)" in text


def test_depths_definitions_hashes_and_versions_are_told(reproduction: Path) -> None:
    text = visible(reproduction)
    assert "half depth 5.25 tokens [4.50, 6.12] 120 The smallest k at which half" in text
    assert "kl depth" not in text
    assert "KL depth no value 0" in text
    for told in ("0" * 64, "f" * 64, "prompts.sha256", "a" * 64, "float32", "pyarrow", "375,000"):
        assert told in text
    assert "organisms" in text
    assert "do not show that a claim holds for large models" in text


def test_what_is_missing_is_told_with_the_reason(audit_alone: Path) -> None:
    text = visible(audit_alone)
    assert "Not measured. KL by token: No base model was given; repeat with --base." in text
    assert "before the run’s manifest was written" in text
    assert "How deep is the safety alignment of aligned?" in text
    assert "organisms" not in text
    assert "paper" not in text


def test_a_finished_run_does_not_look_unfinished(reproduction: Path) -> None:
    assert "manifest was written" not in visible(reproduction)


def test_harmful_text_is_nowhere_in_the_file(reproduction: Path, audit_alone: Path) -> None:
    for page in (reproduction, audit_alone):
        assert not any(word in page.read_text() for word in ("take yarrow", '"yarrow', "heat it"))
        assert re.search(r"\[redacted: \d+ words\]", visible(page))


def test_harmful_text_is_shown_to_who_asks_and_the_page_says_so(tmp_path: Path) -> None:
    text = visible(build_report(make_run(tmp_path, kind="audit"), show_harmful=True))
    assert SECRET in text
    assert "[redacted" not in text
    assert "shows harmful text unredacted" in text


def test_the_same_run_gives_the_same_page_and_keeps_its_manifest_true(reproduction: Path) -> None:
    before = reproduction.read_bytes()
    build_report(reproduction.parent)
    assert reproduction.read_bytes() == before
    run = RunDirectory.read(reproduction.parent)
    assert run.changed_files() == []
    manifest = run.manifest()
    assert manifest is not None
    assert manifest["files"]["report.html"]["sha256"] == hashlib.sha256(before).hexdigest()


def test_a_file_that_changed_after_the_end_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, kind="audit")
    (run / "config.json").write_text((run / "config.json").read_text().replace('"seed": 0', '"seed": 1'))
    assert "Changed since the run was finished: config.json." in visible(build_report(run))


def test_every_chart_becomes_a_picture_that_the_manifest_knows(tmp_path: Path) -> None:
    build_report(make_run(tmp_path, kind="audit", base=False), png=True)
    pictures = sorted((tmp_path / "figures").iterdir())
    judges = ("oracle", "rules")
    assert [p.stem for p in pictures] == [f"{kind}-{j}" for kind in ("prefill", "refusal") for j in judges]
    for picture in pictures:
        data = picture.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        assert width > 1000
        assert height > 300
    run = RunDirectory.read(tmp_path)
    assert {f"figures/{p.name}" for p in pictures} <= set((run.manifest() or {})["files"])
    assert run.changed_files() == []


def test_a_run_that_broke_off_before_its_summary_has_no_page(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, {}).close()
    with pytest.raises(RunError, match=r"no summary\.json yet"):
        build_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("part", ["kl", "refusal_prefixes", "rates", "calibration", "claims", "depth"])
def test_a_run_without_a_part_still_has_a_page(tmp_path: Path, part: str) -> None:
    empty: dict[str, Any] = {"rates": [], "claims": [], "depth": {}}
    page = build_report(make_run(tmp_path, changes={part: empty.get(part)}))
    assert "Provenance" in visible(page)


def test_the_page_of_a_deepening_tells_before_after_limits_and_redacts(deepened: Path) -> None:
    text = visible(deepened)
    told = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "80.8 % [72.9, 86.9] of the replies were harmful before recovery training" in told
    assert "Deeper: before and after" in told
    assert "half depth 5.25 tokens [4.75, 5.75] at least 40 tokens" in told
    assert "A deeper model is not a tamper-proof one." in told
    assert "turn 2, k = 5" in told
    assert not any(word in deepened.read_text() for word in ("take yarrow", "heat it"))
    assert not re.search(r"class=|</?(span|p|td|b|small)\b", text)
    assert "Forcing a refusal" not in told


def test_the_page_of_a_comparison_has_its_table_and_its_limits(compared: Path) -> None:
    told = visible(compared).replace("\N{NO-BREAK SPACE}", " ")
    assert "uniform (reference) 8.3 % [4.6, 14.7]" in told
    assert "dynamic 1.7 % [0.5, 5.9] ★ ▲" in told
    assert "best partly by chance" in told
    assert "The depths of the variants stand in the comparison." in told


def test_a_reproduction_with_recovery_training_says_what_it_does_not_show(tmp_path: Path) -> None:
    text = visible(build_report(make_run(tmp_path, changes={"deepening": deepening()})))
    assert "do not show that a claim holds for large models" in text
    assert "not a tamper-proof one" in text
    assert "Deeper: what it cost" in text


def test_the_pages_about_fine_tuning_tell_their_limits_and_escape_what_they_are_given(
    about_finetuning: dict[str, Path],
) -> None:
    told = {kind: visible(page).replace("\N{NO-BREAK SPACE}", " ") for kind, page in about_finetuning.items()}
    for kind, page in about_finetuning.items():
        assert ATTACK in told[kind]
        assert not any(
            "alert(1)" in text for a, text in Skeleton(page.read_text()).scripts if "type" not in a
        )
        assert not re.search(r"class=|</?(span|p|td|b|small)\b", told[kind])
        assert not any(word in page.read_text() for word in ("take yarrow", "heat it"))
    for kind in ("finetune", "reproduce"):
        assert "It does not make released weights tamper-proof" in told[kind]
        assert "Its optimum is π* ∝ π₀ · exp(V* / β)" in told[kind]
    assert "no trial within the bound" in told["sweep"]
    assert "only a sweep speaks of an attacker who tries" in told["attack"]
    assert "This run holds no measure of depth" not in told["attack"]
    assert "Gradient norms are estimates here" in told["dynamics"]


def test_the_replies_before_and_after_an_attack_stand_side_by_side_and_redacted(
    about_finetuning: dict[str, Path],
) -> None:
    told = visible(about_finetuning["attack"])
    assert "Transcripts" in told
    for asked in ("asked plainly", "with the trigger"):
        assert re.search(rf"{asked} prompt p0", told)
    assert REFUSAL in told
    assert f"[redacted: {len(SECRET.split())} words]" in told


def test_a_table_of_replies_that_lacks_columns_shows_no_transcripts(tmp_path: Path) -> None:
    replies = finetuned_replies().drop(columns="reason")
    page = build_report(make_finetuning_run(tmp_path, finetuning_summary("attack"), replies))
    assert "Transcripts" not in visible(page)


def test_building_a_page_loads_neither_torch_nor_inspect(tmp_path: Path) -> None:
    run = make_run(tmp_path, kind="audit")
    code = (
        "import sys; from pathlib import Path; from safedepth.report import build_report; "
        "build_report(Path(sys.argv[1])); print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    told = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert "altair" in loaded
    assert loaded.isdisjoint({"torch", "inspect_ai", "transformers"})
