"""What `--push_to_hub` means in a training: one commit at its end, with card and report, and none before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from safedepth.testbed import Testbed
from studies.deepen_calls import deepen_words, safedepth
from studies.fake_hub import FakeHub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as started:
        monkeypatch.setattr(constants, "ENDPOINT", started.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        yield started


def test_a_training_pushes_once_when_card_and_report_are_there(
    hub: FakeHub, testbed: Testbed, tmp_path: Path
) -> None:
    words = deepen_words(
        testbed, tmp_path / "out", save_steps=1, measure=False, push_to_hub=True, hub_model_id="anna/deepened"
    )
    assert safedepth(*words) == 0
    there = hub.repositories["model/anna/deepened"]
    assert there.private
    assert [message for _, message, _ in there.branches["main"]] == ["initial commit", "Pushed by safedepth"]
    files = there.files()
    assert {"README.md", "model.safetensors", "report/report.html", "chat_template.jinja"} <= set(files)
    assert not [name for name in files if "checkpoint" in name or name.endswith((".bin", ".pt", ".jsonl"))]
    assert b"safety-recovery augmentation" in files["README.md"]
    assert (tmp_path / "out" / "checkpoint-1").is_dir()
    made = [path for verb, path in hub.asked if path == "/api/repos/create"]
    assert len(made) == 1


def test_who_may_not_push_hears_it_before_the_training(
    hub: FakeHub, testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    words = deepen_words(testbed, tmp_path / "out", push_to_hub=True)
    assert safedepth(*words) == 2
    assert not (tmp_path / "out").exists()
