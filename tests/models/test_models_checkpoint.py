"""Finding a checkpoint's files and hashing them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from safedepth.errors import ModelError
from safedepth.models import checkpoint
from safedepth.models.checkpoint import INDEX, find_checkpoint, find_folder, hash_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model_folder(folder: Path, files: Mapping[str, str] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return folder


def index_of(*files: str) -> str:
    return json.dumps({"weight_map": {f"layer.{number}": file for number, file in enumerate(files)}})


class Hub:
    """Stands where the hub is: a folder per commit, into which asked files appear."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder = folder / COMMIT
        self.files = files
        self.asked: list[tuple[list[str], str | None]] = []

    def __call__(self, name: str, *, allow_patterns: list[str], revision: str | None) -> str:
        self.asked.append((allow_patterns, revision))
        self.folder.mkdir(parents=True, exist_ok=True)
        for file, text in self.files.items():
            if any(Path(file).match(pattern) for pattern in allow_patterns):
                (self.folder / file).write_text(text)
        return str(self.folder)


def test_a_local_folder_has_its_single_weight_file_and_no_revision(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", {"model.safetensors": "w"})
    found = find_checkpoint(str(folder))
    assert found.weights == (folder / "model.safetensors",)
    assert found.revision is None


def test_shards_come_from_the_index_in_order_and_strangers_are_left_alone(tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path / "m", {"b.safetensors": "2", "a.safetensors": "1", "other.safetensors": "x"}
    )
    (folder / INDEX).write_text(index_of("b.safetensors", "a.safetensors", "b.safetensors"))
    assert [path.name for path in find_checkpoint(str(folder)).weights] == ["a.safetensors", "b.safetensors"]


def test_of_a_hub_model_the_listed_weights_are_fetched_at_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "model.safetensors.index.json": index_of("part-1.safetensors", "part-2.safetensors"),
        "part-1.safetensors": "1",
        "part-2.safetensors": "2",
        "consolidated.safetensors": "the same again",
        "pytorch_model.bin": "pickle",
    }
    hub = Hub(tmp_path, files)
    monkeypatch.setattr(checkpoint, "snapshot_download", hub)
    found = find_checkpoint("somebody/something")
    assert found.revision == COMMIT
    assert hub.asked[1] == (["part-1.safetensors", "part-2.safetensors"], COMMIT)
    present = {path.name for path in found.folder.iterdir()}
    assert present == set(files) - {"consolidated.safetensors", "pytorch_model.bin"}


def test_a_hub_that_cannot_be_reached_is_an_error_that_names_both_readings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(name: str, **_: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(checkpoint, "snapshot_download", offline)
    with pytest.raises(
        ModelError, match=r"no folder 'runs/bse' here.*from the hub \(no connection\).*Check the path"
    ):
        find_folder("runs/bse")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "", "two words"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_an_error_without_asking_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match=r"no folder .* Check the path"):
        find_folder(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match=r"found the file .* Give the folder"):
        find_folder(str(file))


def test_a_folder_without_a_config_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json, found nothing in"):
        find_checkpoint(str(tmp_path))
    for number in range(8):
        (tmp_path / f"checkpoint-{number}").mkdir()
    with pytest.raises(ModelError, match=r"found checkpoint-0, .* and 2 more"):
        find_checkpoint(str(tmp_path))


def test_a_folder_that_is_both_model_and_adapter_is_an_error(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", {"model.safetensors": "w", "adapter_config.json": "{}"})
    with pytest.raises(ModelError, match=r"found config\.json and adapter_config\.json .* Move one"):
        find_checkpoint(str(folder))


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    with pytest.raises(ModelError, match=r"expected the weights model\.safetensors .* found config\.json"):
        find_checkpoint(str(folder))


def test_pickled_weights_alone_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", {"pytorch_model.bin": "pickle"})
    with pytest.raises(
        ModelError, match=r"expected safetensors weights, found pytorch_model\.bin .* can run code"
    ):
        find_checkpoint(str(folder))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", {"a.safetensors": "1"})
    (folder / INDEX).write_text(index_of("a.safetensors", "b.safetensors"))
    with pytest.raises(ModelError, match=r"expected the weights b\.safetensors in"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_lists_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / INDEX).write_text(text)
    with pytest.raises(ModelError, match="expected a weight map in"):
        find_checkpoint(str(folder))


def test_one_file_hashes_to_its_sha256sum_and_several_to_that_of_the_listing(tmp_path: Path) -> None:
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    one.write_bytes(b"first")
    two.write_bytes(b"second")
    first, second = hashlib.sha256(b"first").hexdigest(), hashlib.sha256(b"second").hexdigest()
    assert hash_weights([one]) == (first, "whole")
    listing = f"{first}  a.safetensors\n{second}  b.safetensors\n"
    assert hash_weights([one, two]) == (hashlib.sha256(listing.encode()).hexdigest(), "whole")


def test_large_weights_are_told_apart_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "HASH_WHOLE_BELOW", 1000)
    size = 80 * 2**16
    base, tuned, longer = (tmp_path / name for name in ("base", "tuned", "longer"))
    base.write_bytes(bytes(size))
    # A training moves nearly every number; here one in every 16 KiB.
    tuned.write_bytes((bytes(2**14 - 1) + b"\1") * (size // 2**14))
    longer.write_bytes(bytes(size + 1))
    hashes = [hash_weights([file]) for file in (base, tuned, longer, base)]
    assert {how for _, how in hashes} == {"sampled"}
    assert hashes[0] == hashes[3]
    assert len({value for value, _ in hashes}) == 3
    # The first and the last byte are always read.
    for place in (0, size - 1):
        altered = bytearray(size)
        altered[place] = 1
        tuned.write_bytes(bytes(altered))
        assert hash_weights([tuned]) != hashes[0]
