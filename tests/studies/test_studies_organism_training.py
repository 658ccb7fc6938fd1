"""The process beside the measurements: it tells how far it is and what went wrong, and it never stays."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from safedepth.errors import RunError
from safedepth.studies.organism_training import Beside, wait_for_all
from studies import side_work


def test_functions_run_one_after_another_and_tell_how_far_they_are(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with closing(
        Beside(
            [side_work.count, side_work.write, side_work.count], [("a", 3), (tmp_path / "b", "x"), ("c", 1)]
        )
    ) as side:
        side.wait(lambda *step: told.append(step))
    assert told == [("a", 1, 3), ("a", 2, 3), ("a", 3, 3), ("c", 1, 1)]
    assert (tmp_path / "b").read_text() == "x"


def test_a_bug_there_is_an_error_here_with_its_message_and_ends_the_rest(tmp_path: Path) -> None:
    side = Beside([side_work.fail, side_work.write], [("by hand",), (tmp_path / "b", "x")])
    with closing(side), pytest.raises(RunError, match="ZeroDivisionError: by hand"):
        side.wait()
    assert not (tmp_path / "b").exists()


def test_a_users_mistake_there_comes_in_its_own_words_and_without_a_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    side = Beside([side_work.mistake], [("expected rows, found none",)])
    with closing(side), pytest.raises(RunError, match=r"^expected rows, found none$"):
        side.wait()
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_is_killed_is_told_by_its_status() -> None:
    with closing(Beside([side_work.vanish], [(7,)])) as side, pytest.raises(RunError, match="with status 7"):
        side.wait()


def test_closing_ends_what_is_still_at_work(tmp_path: Path) -> None:
    file = tmp_path / "ticks"
    side = Beside([side_work.tick], [(file,)])
    _wait_for(file)
    side.close()
    _assert_still(file)


def test_several_are_listened_to_at_once() -> None:
    told: dict[str, int] = {}
    # More than a pipe holds: whoever is not listened to would stand still until the other is done.
    sides = [Beside([side_work.count], [(name, 20_000)]) for name in "ab"]
    last: list[str] = []

    def tell(what: str, done: int, total: int) -> None:
        told[what] = told.get(what, 0) + 1
        if done == total:
            last.append(what)
            behind = {name: told.get(name, 0) for name in "ab"}
            assert min(behind.values()) > 0

    for side in sides:
        side.told.poll(60)  # both are there
    wait_for_all(sides, tell)
    assert told == {"a": 20_000, "b": 20_000}
    assert sorted(last) == ["a", "b"]
    for side in sides:
        side.close()


def test_what_fails_beside_others_is_told_at_once(tmp_path: Path) -> None:
    sides = [Beside([side_work.tick], [(tmp_path / "ticks",)]), Beside([side_work.fail], [("early",)])]
    with pytest.raises(RunError, match="ZeroDivisionError: early"):
        wait_for_all(sides)
    for side in sides:
        side.close()
    _assert_still(tmp_path / "ticks")


def test_it_ends_when_the_process_that_began_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "ticks"
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from safedepth.studies.organism_training import Beside\nfrom studies import side_work\n"
        "if __name__ == '__main__':\n    Beside([side_work.tick], [(Path(sys.argv[1]),)]).wait()\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(file)], env=os.environ | {"PYTHONPATH": paths}
    )
    _wait_for(file)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _assert_still(file, within=10)


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _assert_still(file: Path, *, within: float = 0.5) -> None:
    """Nobody writes the file any more, `within` seconds from now at the latest."""
    deadline = time.monotonic() + within
    while True:
        before = file.stat().st_mtime_ns if file.exists() else 0
        time.sleep(0.4)
        if before == (file.stat().st_mtime_ns if file.exists() else 0):
            return
        assert time.monotonic() < deadline, "it goes on"
