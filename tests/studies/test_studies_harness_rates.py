"""lm-eval's numbers with intervals, on tables written by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from safedepth.measure.statistics import wilson
from safedepth.runs.files import to_json
from safedepth.studies.harness_rates import folder_sha256, harness_entries, harness_notes


def rows(values: list[float], weights: list[float] | None = None, **more: Any) -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame(
        {
            "task": "facts", "subtask": "facts", "metric": "acc", "filter": "none", "doc_id": range(n),
            "value": values, "weight": weights or [1 / n] * n, "higher_is_better": True, "few_shot": 5,
            "version": "2.0", "note": "", **more,
        }
    )  # fmt: skip


def only(table: pd.DataFrame) -> dict[str, Any]:
    (entry,) = harness_entries(table, model="model", seed=0)
    to_json(entry)
    return entry


def test_a_share_has_wilsons_interval() -> None:
    entry = only(rows([1.0, 1.0, 0.0, 1.0]))
    assert (entry["value"], entry["low"], entry["high"], entry["n"]) == (0.75, *wilson(3, 4), 4)
    assert (entry["few_shot"], entry["version"], entry["metric"], entry["unscored"]) == (5, "2.0", "acc", 0)


def test_an_average_has_a_bootstrap_over_documents() -> None:
    values = np.random.default_rng(0).uniform(0.2, 0.8, size=200)
    entry = only(rows(values.tolist()))
    half = 1.96 * values.std() / 200**0.5
    assert entry["value"] == pytest.approx(values.mean())
    assert (entry["low"], entry["high"]) == (
        pytest.approx(values.mean() - half, abs=0.006), pytest.approx(values.mean() + half, abs=0.006),
    )  # fmt: skip


def test_weights_are_kept_and_never_pass_for_a_share() -> None:
    """A task of one document counts as much as one of three: the one alone moves the number by a half."""
    entry = only(rows([1.0, 0.0, 0.0, 0.0], [0.5, 1 / 6, 1 / 6, 1 / 6]))
    assert entry["value"] == pytest.approx(0.5)
    assert entry["low"] == 0.0


def test_filters_become_part_of_the_metrics_name() -> None:
    both = pd.concat([rows([1.0], filter="strict-match"), rows([0.0], filter="flexible-extract")])
    assert [e["metric"] for e in harness_entries(both, model="model", seed=0)] == [
        "acc (strict-match)", "acc (flexible-extract)",
    ]  # fmt: skip


def test_a_number_without_documents_stands_alone_and_is_noted() -> None:
    bare = rows([3.5], doc_id=pd.NA, weight=pd.NA, metric="perplexity", higher_is_better=False)
    entry = only(bare)
    assert (entry["value"], entry["low"], entry["n"]) == (3.5, None, 0)
    assert harness_notes(pd.concat([bare, rows([1.0], note="cut")])) == [
        "lm-eval, facts: cut.",
        "lm-eval, facts: perplexity is no average over documents; it has no interval.",
    ]


def test_a_folder_of_tasks_has_a_hash_that_follows_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: a")
    before = folder_sha256(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert folder_sha256(tmp_path) == before
    (tmp_path / "a.yaml").write_text("task: b")
    assert folder_sha256(tmp_path) != before
