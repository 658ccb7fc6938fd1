"""The commands that hand results on, as a user types them: what they say, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from safedepth.runs import RunDirectory
from studies.deepen_calls import safedepth
from studies.synthetic_tables import replies, table


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunDirectory.open(tmp_path / "run", {"kind": "audit"}) as opened:
        opened.measurement("replies", lambda: table(replies("aligned", "prefill", "CR", said="Sure.", k=0)))
        whole = {"kind": "audit", "created": opened.begun["created"], "judge": "oracle", "warnings": []}
        opened.write_summary(whole | {"models": {"aligned": {"name": "organism"}}})
        opened.finish()
    return tmp_path / "run"


def test_export_names_the_files_and_says_that_texts_stayed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", run, "--format", "jailbreakbench", "--out"]
    assert safedepth(*words, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "attack-artifacts/plain/black_box/organism.json" in said
    assert "Hashes stand for texts" in said
    assert safedepth(*words, tmp_path / "whole", "--requests", "--replies") == 0
    assert "Hashes" not in capsys.readouterr().out
    assert "Sure." in (tmp_path / "whole/attack-artifacts/plain/black_box/organism.json").read_text()


def test_a_layout_that_is_none_and_a_run_without_logs_are_errors(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert safedepth("export", run, "--format", "csv", "--out", tmp_path / "out") == 2
    assert "expected --format jailbreakbench or tamperbench, found 'csv'" in capsys.readouterr().err
    assert safedepth("bundle", run, "--out", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert "in full and with nothing redacted" in told.out  # before anything is written
    assert "found none there" in told.err
    assert not (tmp_path / "out").exists()
