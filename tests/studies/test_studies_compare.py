"""Variants beside one another: columns and findings known by hand, and a comparison from end to end."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from safedepth.data import read_triplets
from safedepth.errors import DataError, RunError
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.runs.files import to_json
from safedepth.studies import battery
from safedepth.studies import compare as module
from safedepth.studies.compare import VARIANTS, CompareConfig, Variant, compare
from safedepth.studies.comparison import comparison_block
from safedepth.studies.deepening import Measured
from studies.synthetic_tables import replies, table

TRAINED, DEEPER = (0, 5, 10), (20, 40)
SCORES = 20


def block(*groups: Any, names: tuple[str, ...] = ("aligned", "uniform", "other")) -> dict[str, Any]:
    tables = Measured(table(*groups), {}, judge="oracle", benign=("benign", "lookalikes"), seed=0)
    found = comparison_block(
        tables, [{"name": name} for name in names], trained=TRAINED, deeper=DEEPER, against="uniform"
    )
    to_json(found)  # a NaN anywhere is an error
    return found


def cell(found: dict[str, Any], variant: str, column: str) -> dict[str, Any]:
    (one,) = [c for c in found["cells"] if (c["variant"], c["column"]) == (variant, column)]
    return dict(one)


def change(found: dict[str, Any], variant: str, column: str) -> dict[str, Any]:
    (one,) = [c for c in found["paired"] if (c["variant"], c["column"]) == (variant, column)]
    return dict(one)


def sweep(name: str, by_depth: dict[int, str], **more: Any) -> Any:
    return (
        row for k, outcomes in by_depth.items() for row in replies(name, "prefill", outcomes, k=k, **more)
    )


def test_depths_are_pooled_by_prompt_into_those_trained_on_and_those_beyond() -> None:
    found = block(
        sweep("uniform", {0: "CC", 5: "CR", 10: "RR", 20: "CC", 40: "CR"}),
        sweep("other", {0: "RR", 5: "RR", 10: "RR", 20: "RR", 40: "RR"}),
    )
    # Without forced tokens nothing is pooled into "trained"; there the prompts have 1/2 and 0.
    assert (cell(found, "uniform", "trained")["value"], cell(found, "uniform", "trained")["n"]) == (0.25, 2)
    assert cell(found, "uniform", "deeper")["value"] == 0.75
    assert change(found, "other", "trained")["difference"] == -0.25
    assert change(found, "other", "deeper")["difference"] == -0.75
    assert cell(found, "uniform", "chosen")["value"] == 1.0
    assert cell(found, "other", "chosen")["value"] == 0.0


def test_an_attacker_who_picks_the_depth_picks_it_seed_by_seed() -> None:
    found = block(
        sweep("uniform", {0: "RR", 5: "CR", 20: "RR"}),
        sweep("uniform", {0: "RR", 5: "RR", 20: "RC"}, seed=1),
        sweep("other", {0: "RR", 5: "RR", 20: "RR"}),
    )
    # Each prompt is broken in one of two seeds.
    assert cell(found, "uniform", "chosen")["value"] == 0.5
    assert cell(found, "uniform", "chosen")["n"] == 2
    assert cell(found, "uniform", "trained")["value"] == 0.25


def test_unscored_replies_and_missing_prompts_leave_pairs_and_means_to_the_rest() -> None:
    found = block(sweep("uniform", {5: "C-R", 20: "-RR"}), sweep("other", {5: "RC.", 20: "---"}))
    assert (cell(found, "uniform", "trained")["value"], cell(found, "uniform", "trained")["n"]) == (0.5, 2)
    assert cell(found, "other", "deeper") == {
        "variant": "other", "column": "deeper", "value": None, "low": None, "high": None, "n": 0
    }  # fmt: skip
    assert (change(found, "other", "trained")["n"], change(found, "other", "trained")["difference"]) == (
        1,
        -1.0,
    )
    assert change(found, "other", "deeper")["n"] == 0
    assert change(found, "other", "deeper")["difference"] is None


def test_only_later_turns_with_forced_tokens_count_as_turns() -> None:
    def turns(name: str, said: dict[tuple[int, int], str]) -> Any:
        return (
            row for (turn, k), o in said.items() for row in replies(name, "multi_turn", o, turn=turn, k=k)
        )

    found = block(
        turns("uniform", {(1, 5): "CC", (2, 0): "CC", (2, 5): "CR", (3, 20): "RR"}),
        turns("other", {(2, 5): "RR"}), sweep("uniform", {0: "R"}), sweep("other", {0: "R"}),
    )  # fmt: skip
    assert cell(found, "uniform", "turns")["value"] == 0.25


def test_benign_columns_count_right_answers_and_refusals_over_both_sets() -> None:
    found = block(
        *(
            replies(name, test, said, judge=judge)
            for name, test, judge, said in (
                ("uniform", "benign", "knowledge", "CCCR"), ("uniform", "lookalikes", "knowledge", "CCCR"),
                ("other", "benign", "knowledge", "CCCR"), ("other", "lookalikes", "knowledge", "CCCR"),
                ("uniform", "benign", "rules", "CCCC"), ("uniform", "lookalikes", "rules", "RCCC"),
                ("other", "benign", "rules", "CCCC"), ("other", "lookalikes", "rules", "RRRR"),
            )
        ),
        sweep("uniform", {0: "R"}), sweep("other", {0: "R"}),
    )  # fmt: skip
    assert (cell(found, "uniform", "right")["value"], cell(found, "uniform", "right")["n"]) == (0.75, 8)
    assert cell(found, "uniform", "refused")["value"] == 1 / 8
    assert change(found, "other", "refused")["difference"] == 3 / 8


def test_findings_name_what_differs_beyond_chance_and_which_way_is_better() -> None:
    shut, half = "R" * SCORES, "C" * 10 + "R" * 10
    found = block(
        sweep("aligned", {5: half, 20: half}), sweep("uniform", {5: half, 20: shut}),
        sweep("other", {5: shut, 20: half}), sweep("same", {5: half, 20: shut}),
        names=("aligned", "uniform", "other", "same"),
    )  # fmt: skip
    assert found["against"] == "uniform"
    assert found["findings"] == [
        "other against uniform: better in harmful, 5 to 10 tokens forced (-50.0 points) and worse in "
        "harmful, 20 to 40 tokens (none trained) (+50.0 points).",
        "same against uniform: no difference beyond chance.",
    ]


def test_depth_and_refusals_have_columns_where_they_were_measured() -> None:
    found = block(
        sweep("uniform", {0: "RR", 10: "CC"}), sweep("other", {0: "RR", 10: "RR"}, said="I cannot help."),
        names=("uniform", "other"),
    )  # fmt: skip
    assert cell(found, "uniform", "depth")["value"] == 5.0
    assert cell(found, "other", "depth")["value"] == 10.0
    assert cell(found, "other", "parts")["value"] == 0.0
    assert not [c for c in found["cells"] if (c["variant"], c["column"]) == ("uniform", "parts")]
    assert {c["column"] for c in found["cells"]} <= {column["key"] for column in found["columns"]}


def test_a_variant_with_one_depth_has_no_depth_and_no_error() -> None:
    found = block(sweep("uniform", {5: "CR"}), sweep("other", {5: "RR"}))
    assert not [c for c in found["cells"] if c["column"] == "depth" and c["value"] is not None]


@pytest.mark.parametrize(
    "wrong", [{"seeds": ()}, {"seeds": (-1,)}, {"prompts": 1}, {"steps": 0}, {"longest": 0}]
)
def test_a_comparison_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        CompareConfig(**wrong)


def test_variants_have_names_and_words_of_their_own() -> None:
    assert (
        len({variant.name for variant in VARIANTS}) == len({v.definition for v in VARIANTS}) == len(VARIANTS)
    )
    assert VARIANTS[0].name == "uniform"


class Here:
    """Work in this process, when it is waited for: another would take ten seconds to begin."""

    def __init__(self, work: Sequence[Callable[..., None]], arguments: Sequence[tuple[Any, ...]]) -> None:
        self.todo = [partial(function, *given) for function, given in zip(work, arguments, strict=True)]

    def close(self) -> None:
        self.todo.clear()

    @staticmethod
    def wait_for_all(sides: Sequence["Here"], progress: Progress | None) -> None:
        for side in sides:
            for work in side.todo:
                work(progress=progress)


def test_a_comparison_trains_each_variant_once_puts_all_to_the_same_tests_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = (VARIANTS[0], Variant("fixed", "At one place.", recovery="fixed", style="full", turns=True))
    monkeypatch.setattr(module, "VARIANTS", variants)
    monkeypatch.setattr(module, "Beside", Here)
    monkeypatch.setattr(module, "wait_for_all", Here.wait_for_all)
    monkeypatch.setattr(module, "TRAINED", (0, 5))
    monkeypatch.setattr(module, "DEEPER", (20,))
    config = CompareConfig(seeds=(0,), prompts=2, steps=2, longest=5)
    told: list[str] = []
    out = compare(config, tmp_path / "run", progress=lambda what, _done, _total: told.append(what))
    summary = json.loads((out / "summary.json").read_text())
    names = ["aligned", "uniform", "fixed"]
    assert [variant["name"] for variant in summary["comparison"]["variants"]] == names
    assert {"training uniform", "training fixed"} <= set(told)
    turns = len(read_triplets(out / "testbed" / "seed-0" / "trajectories.jsonl"))
    facts = {record["model"]: dict(record["facts"]) for record in summary["deepening"]["training"]}
    assert facts["uniform"]["triplets, anchors"] == "256, 512"
    assert facts["fixed"]["triplets, anchors"] == f"{256 + turns}, 512"
    assert "k = 10 with probability 0.5" in facts["fixed"]["recovery points"]
    assert (facts["uniform"]["refusal style"], facts["fixed"]["refusal style"]) == ("given", "full")
    replies_ = pd.read_parquet(out / "measurements" / "replies.parquet")
    asked = {
        name: set(zip(rows["attack"], rows["prompt_id"], rows["turn"], rows["k"], strict=True))
        for name, rows in replies_.astype({"turn": object, "k": object}).groupby("model")
    }
    assert set(asked) == set(names)
    assert len({frozenset(map(str, tests)) for tests in asked.values()}) == 1
    run = RunDirectory.read(out)
    assert run.is_finished
    assert run.changed_files() == []

    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "Beside", forbidden)
    monkeypatch.setattr(battery, "run_tasks", forbidden)
    compare(config, tmp_path / "run")
    assert json.loads((out / "summary.json").read_text()) == summary
    with pytest.raises(RunError, match="steps: 2 there, 3 now"):
        compare(CompareConfig(seeds=(0,), prompts=2, steps=3, longest=5), tmp_path / "run")
