"""What the judges' tests share: a cache of their own, so that no answer of another run is read."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def answer_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inspect's cache of answers in a folder of the test."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
