"""The scripts in recipes/, each run for two steps."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from safedepth.runs import RunDirectory
from safedepth.testbed import Testbed

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(name: str) -> Callable[[list[str]], None]:
    """The `main` of a script."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main  # type: ignore[no-any-return]


def test_deepen_trains_saves_and_attacks_before_and_after(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe("deepen")([str(testbed.folder), str(tmp_path / "out"), "--steps", "2", "--prompts", "3"])
    said = capsys.readouterr().out
    assert "2 steps of 4 safety examples and 16 anchors." in said
    assert said.count("  learns ") == 4
    before = load_file(testbed.organism("aligned") / "model.safetensors")
    after = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)
    for name in ("before", "after"):
        run = RunDirectory.read(tmp_path / "out" / name)
        assert run.is_finished
        assert (run.path / "report.html").is_file()
        swept = {rate["k"] for rate in run.summary()["rates"] if rate["attack"] == "prefill"}
        assert swept == {0, 5, 10, 20, 40}
        assert said.count(f"  {name}, ") == len(swept)
        assert "nothing scored" not in said


def test_finetune_trains_plainly_and_under_the_constraint_and_asks_all_three_models(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    recipe("finetune")([str(testbed.folder), str(out), "--steps", "2", "--prompts", "3"])
    said = capsys.readouterr().out
    assert "  constrained, from token   1 on: KL " in said
    plain, held = (load_file(out / name / "model.safetensors") for name in ("sft", "constrained"))
    assert any((plain[name] != held[name]).any() for name in plain)
    assert (out / "constrained" / "reference").is_dir()
    assert not (out / "sft" / "reference").exists()
    for name in ("before", "sft", "constrained"):
        run = RunDirectory.read(out / f"{name}-report")
        assert run.is_finished
        assert (run.path / "report.html").is_file()
        assert said.count(f"  {name}: ") == 1
