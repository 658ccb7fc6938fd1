"""Where prompts come from: names, paths and the hub; hashes, known releases, and warnings."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled

from data.benchmark_files import ASK, PUBLISHED, ask, csv_text, hex_phi_folder, jsonl, write
from safedepth.data import file_sha256, read_prompts, read_requests, resolved, source_of
from safedepth.data.releases import RELEASES, Release
from safedepth.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def published(folder: Path, name: str) -> Path:
    file, content = PUBLISHED[name]
    return write(folder / file, content)


def test_a_plain_path_is_a_source_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", jsonl({"prompt": ASK}))
    source = source_of(path)
    assert source.entry == {
        "benchmark": None,
        "location": str(path),
        "files": ["p.jsonl"],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "release": None,
        "revision": None,
        "warnings": [],
    }
    assert resolved(path) == resolved(resolved(path)) == str(path)
    assert file_sha256(path) == source.sha256


def test_what_is_resolved_means_the_same_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path / "data", "advbench")
    monkeypatch.chdir(tmp_path)
    spec = resolved("advbench:data/harmful_behaviors.csv")
    assert spec == resolved(spec) == f"advbench:{tmp_path / 'data' / 'harmful_behaviors.csv'}"
    before = read_prompts("advbench:data/harmful_behaviors.csv")
    monkeypatch.chdir(tmp_path / "data")
    assert read_prompts(spec) == before
    assert resolved("harmful_behaviors.csv") == str(tmp_path / "data" / "harmful_behaviors.csv")


def test_a_release_that_is_known_is_named_and_another_copy_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published(tmp_path, "advbench")
    spec, sha256 = f"advbench:{path}", hashlib.sha256(path.read_bytes()).hexdigest()
    (warning,) = source_of(spec).warnings
    assert sha256 in warning
    assert "none of the releases known here" in warning
    known = {sha256: Release("advbench", "AdvBench harmful_behaviors.csv", 5, ())}
    monkeypatch.setattr("safedepth.data.releases.RELEASES", known)
    source = source_of(spec)
    assert (source.release, source.warnings) == ("AdvBench harmful_behaviors.csv", ())
    # The bytes are what counts: a plain path to them is that release too, and one byte makes another file.
    assert source_of(path).release == "AdvBench harmful_behaviors.csv"
    path.write_bytes(path.read_bytes() + b"\n")
    assert source_of(path).release is None


def test_the_known_releases_are_hashes_with_their_origin() -> None:
    assert len(RELEASES) >= 9
    for sha256, release in RELEASES.items():
        assert len(sha256) == 64
        assert set(sha256) <= set("0123456789abcdef")
        assert release.rows > 0
        for carrier in release.carriers:
            place, commit = carrier.split("@")
            assert place.count("/") >= 2
            assert len(commit) == 40
    # Nobody may hand these on, so nobody can have hashed them for us.
    assert {release.benchmark for release in RELEASES.values()}.isdisjoint({"hex-phi", "harmful-answers"})


def test_a_set_without_known_releases_says_which_hash_to_report(tmp_path: Path) -> None:
    source = source_of(f"hex-phi:{hex_phi_folder(tmp_path)}")
    (warning,) = source.warnings
    assert "No release of HEx-PHI is known" in warning
    assert source.sha256 in warning
    lines = sorted(
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in tmp_path.iterdir()
    )
    assert source.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert len(source.files) == 10


def test_missing_withdrawn_and_short_categories_are_warned_of(tmp_path: Path) -> None:
    hex_phi_folder(tmp_path, numbers=(1, 2, *range(5, 12)))
    hex_phi_folder(tmp_path, numbers=(6,), each=29)
    _, missing, withdrawn, short = source_of(f"hex-phi:{tmp_path}").warnings
    assert missing.endswith("missing: 3 Hate, Harassment, Violence; 4 Malware.")
    assert "withdrew" in withdrawn
    assert short.endswith("other numbers: 6 Economic Harm: 29.")


def test_repeated_rows_are_counted_and_named_but_not_quoted(tmp_path: Path) -> None:
    rows = [[ask(0), "Sure"], [ask(1), "Sure"], [ask(0), "Sure, here"], [ask(0), "No"]]
    spec = f"advbench:{write(tmp_path / 'a.csv', csv_text(['goal', 'target'], *rows))}"
    warning = source_of(spec).warnings[-1]
    assert warning == (
        "2 of 4 rows repeat an earlier one (row 3 (line 4) of a.csv repeats row 1 (line 2) of a.csv; row 4 "
        "(line 5) of a.csv repeats row 1 (line 2) of a.csv)."
    )
    assert len(read_prompts(spec)) == 4  # counted, not removed
    plain = write(tmp_path / "p.jsonl", jsonl(*({"id": n, "prompt": ask(n % 2)} for n in range(8))))
    (warning,) = source_of(plain).warnings
    assert warning.startswith("6 of 8 rows repeat an earlier one (line 3 of p.jsonl repeats line 1 of")
    assert warning.endswith("; and so on).")
    assert not any(ask(n) in warning for n in range(2))


def test_harmbench_says_which_rows_it_judges_otherwise(tmp_path: Path) -> None:
    warning = source_of(f"harmbench:{published(tmp_path, 'harmbench')}").warnings[-1]
    assert warning.startswith("1 of 5 rows are HarmBench's copyright behaviours")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hexphi:{tmp}", r"a file or a benchmark, found neither under 'hexphi:.*hex-phi, advbench"),
        ("advbensh", "The benchmarks are hex-phi"),
        ("advbench", r"a path after the name \(advbench:PATH\).*llm-attacks"),
        ("advbench:", "expected advbench:PATH .your copy., advbench or advbench@REVISION"),
        ("hex-phi@", "hex-phi@REVISION"),
        ("hex-phi@main:{tmp}", "hex-phi@REVISION"),
        ("advbench:{tmp}", "the file of AdvBench, found the folder .*`goal` and `target`"),
        ("xstest:{tmp}", "the file of XSTest, found the folder"),
        ("hex-phi:{tmp}", r"expected category_\*\.csv in the folder .*found nothing\."),
        ("hex-phi:{tmp}/none", "found nothing there"),
        ("advbench:{tmp}/none.csv", "found nothing there"),
        ("{tmp}", "found the folder"),
        ("{tmp}/none.csv", "found nothing there"),
    ],
)
def test_what_is_no_source_is_an_error_that_says_what_to_write(
    tmp_path: Path, spec: str, message: str
) -> None:
    for read in (source_of, read_prompts):
        with pytest.raises(DataError, match=message):
            read(spec.format(tmp=tmp_path))


def test_a_folder_without_category_files_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "HEx-PHI.jsonl", "")
    with pytest.raises(DataError, match=r"found HEx-PHI\.jsonl\. .*hex-phi:.*/FILE"):
        source_of(f"hex-phi:{tmp_path}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], Any]], list[Any]]:
    """The hub with one snapshot that `fill` makes, or with the error it raises; gives the calls made."""

    def serve(fill: Callable[[Path], Any]) -> list[Any]:
        calls: list[Any] = []

        def snapshot_download(
            repo_id: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]
        ) -> str:
            calls.append((repo_id, repo_type, revision, allow_patterns))
            folder = tmp_path / "snapshots" / COMMIT
            folder.mkdir(parents=True, exist_ok=True)
            fill(folder)
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return serve


def test_a_name_alone_comes_from_the_hub_and_is_told_to_be_pinned(hub: Any) -> None:
    calls = hub(hex_phi_folder)
    source = source_of("hex-phi")
    assert calls == [("LLM-Tuning-Safety/HEx-PHI", "dataset", None, ["category_*.csv"])]
    assert (source.location, source.revision) == ("hub:LLM-Tuning-Safety/HEx-PHI", COMMIT)
    assert [warning.partition(":")[0] for warning in source.warnings] == ["No commit of HEx-PHI was named"]
    assert f"hex-phi@{COMMIT}" in source.warnings[0]
    assert resolved("hex-phi") == f"hex-phi@{COMMIT}"
    assert source_of(f"hex-phi@{COMMIT}").warnings == ()
    assert len(read_prompts(f"hex-phi@{COMMIT}")) == 300
    before = len(calls)
    assert resolved(f"hex-phi@{COMMIT}") == f"hex-phi@{COMMIT}"
    assert len(calls) == before, "what is pinned already needs no hub"
    # A branch is a name, but moves.
    assert source_of("hex-phi@main").warnings == source.warnings


def test_sets_that_lie_in_a_folder_of_the_hub(hub: Any) -> None:
    def jailbreakbench(folder: Path) -> None:
        file, content = PUBLISHED["jailbreakbench"]
        write(folder / "data" / file, content)
        write(folder / "data" / "benign-behaviors.csv", content.replace("make", "sing"))

    calls = hub(jailbreakbench)
    assert len(read_prompts("jailbreakbench")) == len(read_requests("jailbreakbench")) == 5
    assert calls[0][3] == ["data/harmful-behaviors.csv", "data/benign-behaviors.csv"]
    hub(lambda folder: published(folder, "xstest"))
    assert len(read_prompts("xstest")) == 5
    hub(lambda folder: published(folder / "data" / "safety_bench", "harmful-answers"))
    assert len(read_prompts("harmful-answers")) == 5
    hub(lambda folder: (folder / "category_1.csv").unlink(missing_ok=True))
    with pytest.raises(DataError, match=rf"category_\*\.csv in the hub's .* at {COMMIT}, found none"):
        source_of("hex-phi")


def refused(kind: type[Exception]) -> Exception:
    """An error of the hub's client, without the answer of a server that it is usually made from."""
    error = kind.__new__(kind)
    error.args = ("the hub's words\nand more",)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(GatedRepoError), "does not grant it. Ask for it at .*hf auth login.*hex-phi:PATH"),
        (refused(huggingface_hub.errors.RepositoryNotFoundError), "shows you none. Log in"),
        (refused(huggingface_hub.errors.RevisionNotFoundError), "commit of .* in hex-phi@v9, found none"),
        (LocalEntryNotFoundError("offline and not cached\nmore"), "found: offline and not cached. Fetch it"),
        (OfflineModeIsEnabled("offline mode"), "found: offline mode. Fetch it where there is a network"),
        (ValueError("no such revision form"), "found: no such revision form"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_an_error_that_says_what_to_do(
    hub: Any, error: Exception, message: str
) -> None:
    def refuse(_folder: Path) -> None:
        raise error

    hub(refuse)
    for read in (source_of, read_prompts, resolved):
        with pytest.raises(DataError, match=message):
            read("hex-phi@v9")
