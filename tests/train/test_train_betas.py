"""Beta schedules: the paper's, one number, a list, a file, a function; and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safedepth.errors import DataError
from safedepth.train.betas import (
    checked_betas,
    listed_betas,
    paper_betas,
    read_betas,
    table_of,
    uniform_betas,
)

TO_TEN = torch.arange(1, 11)
PAPER = [0.5, 2, 2, 2, 2, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_the_papers_schedule_is_weak_then_strong_then_weak() -> None:
    assert paper_betas(TO_TEN).tolist() == pytest.approx(PAPER)
    assert read_betas("paper") is paper_betas
    assert uniform_betas(2)(TO_TEN).tolist() == [2.0] * 10


def test_a_schedule_has_the_shape_of_the_positions_and_is_float32() -> None:
    for schedule in (paper_betas, uniform_betas(0.3), listed_betas([1, 2])):
        found = schedule(torch.tensor([[1, 2, 7], [0, 0, 1]]))
        assert found.shape == (2, 3)
        assert found.dtype == torch.float32
        assert bool((found > 0).all())  # also where there is no response
    assert paper_betas(torch.ones(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("paper", PAPER),
        (" paper ", PAPER),
        ("2", [2.0] * 10),
        (0.25, [0.25] * 10),
        ("1e-3", [1e-3] * 10),
        ("0.5,2,2,2,2,0.1", PAPER),
        ("0.5, 3", [0.5] + [3.0] * 9),
    ],
)
def test_what_a_user_writes_is_understood(said: str | float, expected: list[float]) -> None:
    assert read_betas(said)(TO_TEN).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("content", [[0.5, 3, 0.2], {"betas": [0.5, 3, 0.2], "note": "how it was found"}])
def test_a_json_file_holds_a_list(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "betas.json"
    path.write_text(json.dumps(content))
    assert read_betas(str(path))(TO_TEN).tolist() == pytest.approx([0.5, 3] + [0.2] * 8)


def test_a_python_file_holds_a_function_called_betas_or_as_said(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "def betas(positions):\n    return 1 / positions.clamp(min=1)\n"
        "def steep(positions):\n    return positions.float() ** 2 + 1\n"
    )
    assert read_betas(str(path))(TO_TEN).tolist() == pytest.approx([1 / t for t in range(1, 11)])
    assert read_betas(f"{path}@steep")(TO_TEN).tolist() == pytest.approx([t**2 + 1 for t in range(1, 11)])


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("0", "betas above 0 and finite, found 0.0 at position 1"),
        ("-1", "found -1.0 at position 1"),
        ("0.5,2,-0.1", "found -0.1 at position 3"),
        ("nan", "found nan at position 1"),
        ("2,inf", "found inf at position 2"),
        ("papers", "expected --beta as paper, one number"),
        ("", "expected --beta as paper"),
        ("0.5,,2", "expected --beta as paper"),
        ("0.5;2", "expected --beta as paper"),
        ("none.json", "a JSON list of betas in none.json"),
        ("none.py", "a Python file with the schedule, found none at none.py"),
        ("none.py@betas", "a Python file with the schedule, found none at none.py"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_was_found(said: str, problem: str) -> None:
    with pytest.raises(DataError) as refusal:
        read_betas(said)
    assert problem in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "at least one beta, found an empty list"),
        ("[0.5, 0]", "found 0 at position 2"),
        ("[0.5, null]", "found None at position 2"),
        ("[true]", "found True at position 1"),
        ('["2"]', "found '2' at position 1"),
        ("[NaN]", "found nan at position 1"),
        ("2", "found neither"),
        ('{"beta": [1]}', "found neither"),
        ("[0.5,", "a JSON list of betas in"),
    ],
)
def test_a_json_file_with_anything_else_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "betas.json"
    path.write_text(content)
    with pytest.raises(DataError) as refusal:
        read_betas(str(path))
    assert problem in str(refusal.value)


def test_a_python_file_without_the_function_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("steep = 3\n")
    with pytest.raises(DataError, match=r"a function betas in .*own\.py, found none"):
        read_betas(str(path))
    with pytest.raises(DataError, match=r"a function steep in .*own\.py, found int"):
        read_betas(f"{path}@steep")


SCHEDULES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "one value too many": (lambda t: torch.ones(len(t) + 1), r"to give \[64\] betas, found \[65\]"),
    "one value for all": (lambda _t: torch.tensor(2.0), r"to give \[64\] betas, found \[\]"),
    "no tensor": (lambda t: [2.0] * len(t), r"to give \[64\] betas, found list"),
    "nothing": (lambda _t: None, r"to give \[64\] betas, found NoneType"),
    "zero": (lambda t: (t > 3).float(), "above 0 and finite, found 0"),
    "negative": (lambda t: 10.0 - t, "above 0 and finite, found 0"),
    "no number": (lambda t: torch.full(t.shape, math.nan), "above 0 and finite, found nan"),
    "infinite": (lambda t: torch.full(t.shape, math.inf), "above 0 and finite, found inf"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_function_that_gives_no_betas_is_refused_at_once(name: str) -> None:
    schedule, problem = SCHEDULES[name]
    with pytest.raises(DataError, match=problem):
        checked_betas(schedule, "mine")


def test_a_function_is_looked_at_again_whenever_it_is_asked() -> None:
    late = checked_betas(lambda t: torch.where(t > 100, -1.0, 2.0), "mine")
    assert late(torch.arange(50)).tolist() == [2.0] * 50
    with pytest.raises(DataError, match="expected mine to give betas above 0 and finite, found -1"):
        late(torch.arange(200))
    whole = checked_betas(lambda t: t.clamp(min=1))  # whole numbers will do
    assert whole(TO_TEN).dtype == torch.float32


def test_the_table_lists_positions_and_betas() -> None:
    assert table_of(paper_betas, tokens=6) == [[1, 0.5], [2, 2.0], [3, 2.0], [4, 2.0], [5, 2.0], [6, 0.1]]
    assert len(table_of(uniform_betas(1))) == 20
