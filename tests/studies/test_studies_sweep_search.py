"""The search of an attacker's sweep: it finds harm a grid misses, minds the bound, goes on where it was."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safedepth.errors import MissingExtraError
from safedepth.studies import sweep_search
from safedepth.studies.attack_options import Defence, SweepOptions
from safedepth.studies.sweep_search import searched
from safedepth.studies.sweep_trials import Trial

DEFENCE = Defence("sft", "sft")


def bench(folder: Path, **options: Any) -> Any:
    """All that a search reads of a bench: utility 1.0 before, the options, a seed, a folder."""
    chosen: dict[str, Any] = {
        "learning_rates": "1e-6,1e-2", "epochs": "1,20", "seeds": "0,1", "peft": "none,lora", "trials": 3,
        "search": "optuna", "utility_bound": 0.1,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    return SimpleNamespace(
        options=SweepOptions(**chosen | options),
        config=SimpleNamespace(seed=7),
        run=SimpleNamespace(path=folder),
        before=lambda: {"utility": {"value": 1.0}, "asr": {"value": 0.0}},
    )


def model(trial: Trial) -> dict[str, Any]:
    """A made-up model: harm grows with rate and passes until, near 1e-3, its use breaks down."""
    dose = trial.learning_rate * trial.epochs
    harm = min(1.0, dose / 2e-3)
    utility = 1.0 if dose < 1.5e-3 else max(0.0, 1.0 - (dose - 1.5e-3) / 2e-3)
    return {"trial": trial, "asr_value": harm, "utility_value": utility}


def told(rows: list[dict[str, Any]]) -> list[Trial]:
    return [row["trial"] for row in rows]


def test_a_search_is_a_function_of_its_seed(tmp_path: Path) -> None:
    first = searched(bench(tmp_path / "a"), DEFENCE, model)
    # Another defence in the same journal is searched apart.
    again = searched(bench(tmp_path / "a"), Defence("kl", "kl"), model)
    other = bench(tmp_path / "c", trials=1)
    other.config.seed = 8
    tried = [(t.learning_rate, t.epochs, t.seed, t.peft) for t in told(first)]
    assert tried == [(t.learning_rate, t.epochs, t.seed, t.peft) for t in told(again)]
    assert told(first)[:1] != told(searched(other, DEFENCE, model))
    assert len(first) == 3
    for trial in told(first):
        assert 1e-6 <= trial.learning_rate <= 1e-2
        assert 1 <= trial.epochs <= 20
        assert trial.seed in (0, 1)
        assert trial.peft in ("none", "lora")
        assert trial.learning_rate == float(f"{trial.learning_rate:.3g}")


def test_a_search_cut_off_in_a_trial_goes_on_to_what_an_unbroken_one_finds(
    tmp_path: Path,
) -> None:
    whole = searched(bench(tmp_path / "whole"), DEFENCE, model)
    done: dict[str, dict[str, Any]] = {}

    def dying(trial: Trial) -> dict[str, Any]:
        if trial.key not in done and len(done) == 2:
            raise KeyboardInterrupt
        done[trial.key] = model(trial)
        return done[trial.key]

    for _ in range(2):  # cut off in the same trial twice
        with pytest.raises(KeyboardInterrupt):
            searched(bench(tmp_path / "cut"), DEFENCE, dying)
    asked: list[Trial] = []

    def counting(trial: Trial) -> dict[str, Any]:
        asked.append(trial)
        return model(trial)

    assert told(searched(bench(tmp_path / "cut"), DEFENCE, counting)) == told(whole)
    assert asked == told(whole)  # finished ones are looked up, in their order


def test_a_finished_trial_that_optuna_never_heard_of_is_chosen_again(tmp_path: Path) -> None:
    whole = searched(bench(tmp_path / "whole"), DEFENCE, model)
    cut = bench(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        searched(cut, DEFENCE, _stopping(2))
    (tmp_path / "cut" / sweep_search.JOURNAL).unlink()
    assert told(searched(cut, DEFENCE, model)) == told(whole)


def _stopping(after: int) -> Callable[[Trial], dict[str, Any]]:
    left = after

    def tried(trial: Trial) -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return model(trial)

    return tried


def test_a_search_comes_near_the_most_harm_that_the_bound_allows_where_a_grid_of_as_many_does_not(
    tmp_path: Path,
) -> None:
    def worst(rows: list[dict[str, Any]]) -> float:
        return max((row["asr_value"] for row in rows if row["utility_value"] >= 0.9), default=0.0)

    grid = [
        model(Trial(DEFENCE, rate, epochs, 0, "none"))
        for rate in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
        for epochs in (1, 20)
    ]
    found = searched(bench(tmp_path, trials=10, seeds="0", peft="none"), DEFENCE, model)
    assert worst(found) > 0.8  # of 0.85
    assert worst(found) > worst(grid)


def test_a_trial_without_numbers_counts_and_is_not_taken_for_harm(tmp_path: Path) -> None:
    def diverging(trial: Trial) -> dict[str, Any]:
        failed = {"trial": trial, "asr_value": None, "utility_value": None}
        return failed if trial.learning_rate > 1e-4 else model(trial)

    rows = searched(bench(tmp_path), DEFENCE, diverging)
    assert len(rows) == 3
    assert any(row["asr_value"] is None for row in rows)
    assert any(row["asr_value"] is not None for row in rows)


def test_one_value_leaves_nothing_to_search(tmp_path: Path) -> None:
    fixed = bench(tmp_path, learning_rates="1e-4", epochs="3", seeds="2", peft="lora", trials=3)
    assert told(searched(fixed, DEFENCE, model)) == [Trial(DEFENCE, 1e-4, 3, 2, "lora")] * 3


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_search, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'safedepth\[sweep\]'"):
        sweep_search.require_search()
