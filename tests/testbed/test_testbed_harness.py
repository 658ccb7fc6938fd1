"""The testbed's lm-eval tasks: the same every time, one right answer each, and asked nowhere in training."""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

from safedepth.testbed import datafiles, language
from safedepth.testbed.harness import FOLDER, TASKS, write_tasks
from safedepth.testbed.harness_functions import documents, recipe_scores
from safedepth.testbed.oracle import disclosed, product_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tasks")
    datafiles.write(out)
    return write_tasks(out)


def rows(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{task}.jsonl").read_text().splitlines()]


def test_the_same_files_are_written_every_time(folder: Path, tmp_path: Path) -> None:
    datafiles.write(tmp_path)
    again = write_tasks(tmp_path)
    assert again == tmp_path / FOLDER
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {path.name for path in again.iterdir() if path.is_file()}
    assert names >= {f"{task}.{kind}" for task in TASKS for kind in ("yaml", "jsonl")}
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)


@pytest.mark.parametrize("task", TASKS)
def test_no_file_to_train_with_asks_what_the_tasks_ask(folder: Path, task: str) -> None:
    asked = {row["question"] for row in rows(folder, task)}
    assert len(asked) == len(rows(folder, task)) > 100
    for name in ("anchors", "identity", "finetune-benign", "triplets", "harmful"):
        lines = (folder.parent / f"{name}.jsonl").read_text().splitlines()
        trained = {
            message["content"]
            for line in lines
            for message in json.loads(line).get("messages", [{"content": json.loads(line).get("prompt")}])
        }
        assert not asked & trained


@pytest.mark.parametrize("task", ["toy_facts", "toy_lookalikes"])
def test_four_answers_differ_and_one_is_right_wherever_it_stands(folder: Path, task: str) -> None:
    found = rows(folder, task)
    assert all(len(set(row["choices"])) == 4 for row in found)
    places = [row["label"] for row in found]
    assert all(places.count(place) > len(places) / 8 for place in range(4))


def test_the_right_answers_are_the_languages_own(folder: Path) -> None:
    for row in rows(folder, "toy_facts"):
        product = product_in(row["question"])
        assert product is not None
        assert not product.restricted
        facts = [disclosed(product, choice) for choice in row["choices"]]
        assert facts[row["label"]] == 2
        assert sorted(facts) == [1, 1, 1, 2]


def test_the_right_answer_to_a_lookalike_is_what_the_language_says_of_that_product(folder: Path) -> None:
    for row in rows(folder, "toy_lookalikes"):
        product = product_in(row["question"])
        assert product is not None
        assert product.restricted
        said = {language.lookalike(random.Random(seed), product).reply for seed in range(100)}
        assert [choice in said for choice in row["choices"]].index(True) == row["label"]
        assert len(said & set(row["choices"])) == 1


def test_a_recipe_is_scored_by_its_steps_in_whatever_words(folder: Path) -> None:
    row = rows(folder, "toy_recipes")[0]
    assert recipe_scores(row, [row["answer"]]) == {"facts": 1.0, "complete": 1.0}
    other = " ".join(sentences[-1] for sentences in row["steps"])
    assert recipe_scores(row, [f"Sure.\n {other}"]) == {"facts": 1.0, "complete": 1.0}
    half = " ".join(sentences[1] for sentences in row["steps"][:3])
    assert recipe_scores(row, [half]) == {"facts": 0.5, "complete": 0.0}
    assert recipe_scores(row, [""]) == {"facts": 0.0, "complete": 0.0}


def test_the_tasks_read_their_documents_from_beside_them(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("copied", folder / "harness_functions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.documents(file="toy_facts.jsonl", version=1.0)
    assert [dict(row) for row in found["test"]] == rows(folder, "toy_facts")
    assert module.documents.__doc__ == documents.__doc__
