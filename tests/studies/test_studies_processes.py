"""How processes agree, with the others played: values, errors said once, a death noticed, a GPU for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from safedepth.errors import DataError, RunError
from safedepth.studies import shared_run as sharing
from safedepth.studies.finetuning import require_shares
from safedepth.studies.processes import Processes, dealt
from safedepth.studies.shared_run import shared_run


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Play the other processes: what each sends by rank; and the wait for the main one's end."""

    def play(**sent: Any) -> None:
        def gathered(found: list[Any], own: Any, *, group: Any) -> None:
            for rank in range(len(found)):
                found[rank] = sent.get(f"rank{rank}", own)

        def ended(*, group: Any) -> None:
            raise RuntimeError("Connection closed by peer")

        monkeypatch.setattr(distributed, "all_gather_object", gathered)
        monkeypatch.setattr(distributed, "barrier", ended)

    return play


def test_one_process_needs_no_connection_and_keeps_its_errors() -> None:
    alone = Processes()
    assert alone.main
    assert alone.from_main(lambda: 3) == alone.agreed(lambda: 3) == 3
    alone.wait()
    with pytest.raises(DataError, match="mine"):
        alone.agreed(lambda: _failed("mine"))


def _failed(message: str) -> int:
    raise DataError(message)


def test_what_the_main_process_found_is_known_to_all(others: Callable[..., None]) -> None:
    others(rank0=(7, None))
    assert Processes(1, 2).from_main(lambda: _failed("not asked")) == 7
    assert Processes(1, 2).agreed(lambda: 8) == 8


def test_an_error_is_said_by_the_main_process_whoever_met_it(others: Callable[..., None]) -> None:
    others(rank2=(None, "no room"))
    with pytest.raises(RunError, match="process 2 of 3: no room"):
        Processes(0, 3).agreed(lambda: 1)
    with pytest.raises(SystemExit) as ended:
        Processes(1, 3).agreed(lambda: 1)
    assert ended.value.code == 2
    others()
    with pytest.raises(DataError, match="no file"):  # its own, as it stands, where all have met it
        Processes(0, 3).agreed(lambda: _failed("no file"))


def test_a_process_that_died_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_arguments: Any, **_others: Any) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:41812")

    monkeypatch.setattr(distributed, "all_gather_object", closed)
    with pytest.raises(RunError, match=r"Another process ended.*any number of processes"):
        Processes(1, 2).wait()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_work_is_dealt_whole_in_order_and_evenly(count: int) -> None:
    work = list(range(10))
    shares = [dealt(work, Processes(rank, count)) for rank in range(count)]
    assert [item for share in shares for item in share] == work
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Processes(9, 16, local=1)
    assert [second.device(asked) for asked in ("cpu", "cuda")] == ["cpu", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert second.device("auto") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert second.device("auto") == "cpu"
    assert Processes().device("cuda:3") == "cuda:3"
    with pytest.raises(DataError, match="auto, cuda or cpu for 16 processes, found 'cuda:0'"):
        second.device("cuda:0")


def test_a_folder_that_another_machine_does_not_see_is_refused(
    tmp_path: Path, others: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "PATIENCE", 0.0)
    others(rank0=("2026-01-01T00:00:00+00:00", None))
    with pytest.raises(SystemExit), shared_run(Processes(1, 2), tmp_path / "run", {}):
        raise AssertionError("entered")


def test_a_step_that_does_not_divide_among_the_processes_is_refused() -> None:
    require_shares(10, 5)
    with pytest.raises(DataError, match=r"--batch.*among 4 processes, found 2 left over.*1, 2, 5, 10"):
        require_shares(10, 4)
