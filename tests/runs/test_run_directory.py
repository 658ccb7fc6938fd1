"""A run directory keeps what is finished and nothing that is half done."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pytest

from safedepth.errors import RunError
from safedepth.runs import RunDirectory, write_atomically
from safedepth.runs.files import DamagedTableError, from_parquet, to_parquet

CONFIG: dict[str, Any] = {"model": "toy", "depths": (0, 5), "judge": {"name": "oracle", "scopes": ["full"]}}


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "k": pd.array([0, None, 5], dtype="Int64"),
            "reply": ["take yarrow", "", 'ümlaut "quoted"'],
            "kl": [0.1 + 0.2, 1e-300, float("nan")],
        }
    )


def must_not_run() -> pd.DataFrame:
    raise AssertionError("computed although it was stored")


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_config_is_written_whole_and_exactly(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "a" / "run", CONFIG) as run:
        stored = json.loads((run.path / "config.json").read_text())
    assert stored == {"model": "toy", "depths": [0, 5], "judge": {"name": "oracle", "scopes": ["full"]}}


def test_paths_in_a_config_are_stored_as_text(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, {"prompts": Path("a") / "b.csv"}) as run:
        assert run.config == {"prompts": str(Path("a") / "b.csv")}


def test_the_same_config_resumes_and_computes_nothing_again(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        first = run.measurement("replies", table)
        created = run.begun["created"]
    with RunDirectory.open(tmp_path, dict(reversed(CONFIG.items()))) as run:
        second = run.measurement("replies", must_not_run)
        assert run.begun["created"] == created
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    pd.testing.assert_frame_equal(first, table(), check_exact=True)


def test_integers_with_gaps_stay_integers_in_an_arrow_table(tmp_path: Path) -> None:
    arrow = pa.table({"k": pa.array([2**53 + 1, None]), "prefix": pa.array([None, "I cannot"])})
    with RunDirectory.open(tmp_path, CONFIG) as run:
        frame = run.measurement("replies", lambda: arrow)
    assert frame["k"].tolist() == [2**53 + 1, pd.NA]
    assert frame["k"].dtype == pd.Int64Dtype()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"model": "other"}, 'model: "toy" there, "other" now'),
        ({"depths": (0, 5, 10)}, "depths: [0, 5] there, [0, 5, 10] now"),
        ({"seed": 1}, "seed: absent there, 1 now"),
        ({"judge": {"name": "rules", "scopes": ["full"]}}, 'judge.name: "oracle" there, "rules" now'),
    ],
)
def test_another_config_is_refused_and_the_message_names_what_differs(
    tmp_path: Path, changed: Mapping[str, Any], expected: str
) -> None:
    with RunDirectory.open(tmp_path, CONFIG):
        pass
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(RunError) as caught:
        RunDirectory.open(tmp_path, {**CONFIG, **changed})
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [f"  {expected}"]
    assert "--out" in lines[-1]
    assert "delete" in lines[-1]
    assert (tmp_path / "config.json").read_bytes() == before
    RunDirectory.open(tmp_path, CONFIG).close()  # the refusal let go of the lock


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.tex.*--out"):
        RunDirectory.open(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    for path in (tmp_path / "out", tmp_path / "out" / "run"):
        with pytest.raises(RunError, match="a file is where a folder should be"):
            RunDirectory.open(path, CONFIG)


@pytest.mark.parametrize(("number", "message"), [(errno.EACCES, "no permission"), (errno.EROFS, "read-only")])
def test_a_folder_that_cannot_be_made_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(number))
    with pytest.raises(RunError, match=rf"create the run folder .*{message}.*--out"):
        RunDirectory.open(tmp_path / "run", CONFIG)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_write_that_fails_loses_nothing_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        done = run.measurement("kl", table)
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", failing(number))
            with pytest.raises(RunError) as caught:
                run.measurement("replies", table)
        assert message in str(caught.value)
        assert "Nothing finished was lost" in str(caught.value)
        assert [p.name for p in (tmp_path / "measurements").iterdir()] == ["kl.parquet"]
        pd.testing.assert_frame_equal(run.measurement("kl", must_not_run), done, check_exact=True)
        run.measurement("replies", table)


def test_a_failed_overwrite_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    write_atomically(target, b"old")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(RunError):
        write_atomically(target, b"new and longer")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.json", b"old")]


def damage(data: bytes, how: str) -> bytes:
    middle = len(data) // 3
    return {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "foreign": b"this is not a table",
        "one bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }[how]


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign", "one bit"])
def test_a_damaged_table_is_set_aside_with_a_warning_and_computed_again(tmp_path: Path, how: str) -> None:
    large = pd.DataFrame({"kl": [i * 0.37 % 1 for i in range(2000)]})
    with RunDirectory.open(tmp_path, CONFIG) as run:
        good = run.measurement("kl", lambda: large)
    path = tmp_path / "measurements" / "kl.parquet"
    broken = damage(path.read_bytes(), how)
    path.write_bytes(broken)
    with RunDirectory.open(tmp_path, CONFIG) as run:
        with pytest.warns(UserWarning, match=r"kl\.parquet is damaged .* computed again"):
            again = run.measurement("kl", lambda: large)
        pd.testing.assert_frame_equal(again, good, check_exact=True)
        pd.testing.assert_frame_equal(run.measurement("kl", must_not_run), good, check_exact=True)
    assert path.with_name("kl.parquet.damaged-1").read_bytes() == broken


def test_a_flipped_bit_in_the_data_is_never_read_as_a_value() -> None:
    frame = pd.DataFrame({"kl": [i * 0.37 % 1 for i in range(400)]})
    data = to_parquet(frame)
    footer = int.from_bytes(data[-8:-4], "little")  # its length stands before the closing PAR1
    pages = len(data) - footer - 8
    noticed = 0
    for place in range(4, pages, 7):
        broken = bytearray(data)
        broken[place] ^= 4
        try:
            read = from_parquet(bytes(broken))
        except DamagedTableError:
            noticed += 1
        else:
            pd.testing.assert_frame_equal(read, frame, check_exact=True)
    assert noticed > pages / 7 / 2


def test_a_reader_warns_of_a_damaged_table_and_moves_nothing(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        run.measurement("kl", table)
    path = tmp_path / "measurements" / "kl.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged"):
        assert RunDirectory.read(tmp_path).load("kl") is None
    assert [p.name for p in path.parent.iterdir()] == ["kl.parquet"]


def test_an_error_while_computing_stores_nothing(tmp_path: Path) -> None:
    def interrupted() -> pd.DataFrame:
        raise KeyboardInterrupt

    with RunDirectory.open(tmp_path, CONFIG) as run:
        with pytest.raises(KeyboardInterrupt):
            run.measurement("kl", interrupted)
        assert not run.has("kl")
        assert run.load("kl") is None


@pytest.mark.parametrize("name", ["../kl", "a/b", "", "KL", ".hidden"])
def test_a_measurement_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run, pytest.raises(ValueError, match="measurement name"):
        run.measurement(name, must_not_run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_never_holds_a_nan(tmp_path: Path, value: float) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        run.write_summary({"depth": {"value": None}})
        with pytest.raises(ValueError, match="not JSON compliant"):
            run.write_summary({"depth": {"value": value}})
        assert run.summary() == {"depth": {"value": None}}


def test_numpy_values_are_stored_as_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [3], "x": [0.25]})
    with RunDirectory.open(tmp_path, CONFIG) as run:
        run.write_summary({"n": frame["n"].iloc[0], "x": frame["x"].to_numpy()})
        assert run.summary() == {"n": 3, "x": [0.25]}


def test_the_manifest_vouches_for_every_file(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        run.measurement("kl", table)
        run.write_summary({"kind": "audit"})
        (run.logs / "a.eval").write_bytes(b"log")
        assert not run.is_finished
        run.finish()
        manifest = run.manifest()
    assert manifest is not None
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("manifest.json", ".lock")]
    assert manifest["files"] == {
        p.relative_to(tmp_path).as_posix(): {
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            "size": len(p.read_bytes()),
        }
        for p in files
    }
    assert len(files) == 5
    assert manifest["created"] <= manifest["finished"]
    assert manifest["versions"]["pyarrow"] == pa.__version__


def test_a_change_after_the_end_is_seen(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        run.measurement("kl", table)
        run.write_summary({"kind": "audit"})
        run.finish()
    run = RunDirectory.read(tmp_path)
    assert run.is_finished
    assert run.changed_files() == []
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "measurements" / "kl.parquet").unlink()
    assert sorted(run.changed_files()) == ["measurements/kl.parquet", "summary.json"]


def test_a_new_result_takes_the_manifest_away(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        run.finish()
        assert run.is_finished
        run.measurement("kl", table)
        assert not run.is_finished


def test_rewriting_the_report_keeps_the_manifest_true(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, CONFIG) as run:
        run.rewrite({"report.html": b"first"})
        run.finish()
    reader = RunDirectory.read(tmp_path)
    reader.rewrite({"report.html": b"second", "figures/kl.png": b"png"})
    assert reader.changed_files() == []
    assert (tmp_path / "figures" / "kl.png").read_bytes() == b"png"


def test_a_reader_cannot_write_results(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, CONFIG).close()
    reader = RunDirectory.read(tmp_path)
    for write in (lambda: reader.write_summary({}), lambda: reader.measurement("kl", table), reader.finish):
        with pytest.raises(RunError, match="reading only"):
            write()


def test_reading_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="found no folder"):
        RunDirectory.read(tmp_path / "absent")
    with pytest.raises(RunError, match=r"not a run: it holds no config\.json"):
        RunDirectory.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        RunDirectory.read(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunError, match="expected an object"):
        RunDirectory.read(tmp_path)


def test_a_run_without_summary_says_how_to_go_on(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, CONFIG).close()
    with pytest.raises(RunError, match="it continues where it stopped"):
        RunDirectory.read(tmp_path).summary()
