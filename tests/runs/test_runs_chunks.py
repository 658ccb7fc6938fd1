"""Pieces of a measurement: in order whatever the order of their making, whole or absent, read with care."""

from pathlib import Path

import pandas as pd
import pytest

from safedepth.errors import RunError
from safedepth.runs import Chunks, RunDirectory


def piece(index: int) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": [f"p{index}", f"p{index}b"], "kl": [index / 3, index / 7]})


def test_pieces_are_merged_in_their_order_whoever_stored_them_first(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, "kl", 3)
    assert chunks.missing() == [0, 1, 2]
    for index in (2, 0):
        chunks.store(index, piece(index))
    assert Chunks(tmp_path, "kl", 3).missing() == [1]
    assert chunks.stored() == 2
    chunks.store(1, piece(1))
    expected = pd.concat([piece(index) for index in range(3)], ignore_index=True)
    pd.testing.assert_frame_equal(chunks.merged(), expected, check_exact=True)


def test_a_cut_into_another_number_of_pieces_is_another_measurement(tmp_path: Path) -> None:
    Chunks(tmp_path, "kl", 3).store(0, piece(0))
    assert Chunks(tmp_path, "kl", 2).missing() == [0, 1]
    with pytest.raises(ValueError, match="from 0 to 1, found 2"):
        Chunks(tmp_path, "kl", 2).store(2, piece(2))


def test_a_damaged_piece_is_missing_and_computed_again(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, "kl", 2)
    for index in range(2):
        chunks.store(index, piece(index))
    (path,) = chunks.folder.glob("00001-*")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.warns(UserWarning, match="00001-of-00002.parquet is damaged"):
        assert chunks.missing() == [1]


def test_a_piece_that_never_shows_up_is_said_to_be_on_another_disk(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, "kl", 1)
    with pytest.raises(RunError, match=r"00000-of-00001\.parquet.*after 0 s.*all machines share"):
        chunks.merged(patience=0)


def test_removed_pieces_leave_no_folder_and_no_line_in_the_manifest(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", {}) as run:
        first, other = Chunks(run.path, "kl", 1), Chunks(run.path, "answers", 1)
        for chunks in (first, other):
            chunks.store(0, piece(0))
        run.measurement("kl", first.merged)
        first.remove()
        assert (run.path / "chunks" / "answers").is_dir()
        other.remove()
        assert not (run.path / "chunks").exists()
        run.finish()
        manifest = run.manifest()
    assert manifest is not None
    assert not [name for name in manifest["files"] if name.startswith("chunks")]
