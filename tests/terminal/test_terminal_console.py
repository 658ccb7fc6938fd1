"""Being told to end: by a person, by a batch system, by a launcher; said once, and the way back is named."""

import os
import signal

import pytest
import typer

from safedepth.terminal.console import ENDED, INTERRUPTED, progress_bars, speaker


def ended(number: int, *, shown: bool = True) -> int:
    """The exit status after this signal during work."""
    before = signal.getsignal(signal.SIGTERM)
    status = 0
    try:
        with progress_bars(shown=shown) as progress:
            progress("work", 1, 2)
            os.kill(os.getpid(), number)
    except typer.Exit as left:
        status = left.exit_code
    assert signal.getsignal(signal.SIGTERM) == before
    return status


def test_sigterm_ends_the_work_as_ctrl_c_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert ended(signal.SIGTERM) == ENDED
    told = capsys.readouterr().err
    assert "Ended from outside (SIGTERM). What is finished is kept; the same command goes on" in told
    assert "Another process" not in told
    assert ended(signal.SIGINT) == INTERRUPTED
    assert "Interrupted. What is finished is kept" in capsys.readouterr().err


def test_of_several_processes_each_says_who_it_is_and_ctrl_c_is_said_by_the_main_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert speaker() == "process 3 of 8: "
    assert ended(signal.SIGTERM, shown=False) == ENDED
    assert "process 3 of 8: Ended from outside (SIGTERM). Another process" in capsys.readouterr().err
    assert ended(signal.SIGINT, shown=False) == INTERRUPTED
    assert capsys.readouterr().err == ""
