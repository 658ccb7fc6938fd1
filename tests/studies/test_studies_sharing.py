"""Hash and rejoin: a shared run holds no text of its prompts in any byte, and comes back for who has them."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from safedepth.data import read_prompts, write_prompts
from safedepth.errors import DataError, RunError
from safedepth.nouns import Prompt
from safedepth.report import build_report
from safedepth.runs import RunDirectory
from safedepth.studies.attack_plan import AttackOptions
from safedepth.studies.audit import AuditConfig, audit
from safedepth.studies.sharing import NOTE, rejoin, share
from safedepth.testbed import Testbed
from studies.synthetic_tables import kl, replies, table

PROMPTS = 4


@pytest.fixture(scope="module")
def prompts(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The testbed's prompts where a user would have them: in folders that are nobody's business."""
    folder = tmp_path_factory.mktemp("anna") / "My Secret Folder"
    folder.mkdir()
    return Path(shutil.copy(testbed.prompts, folder / "prompts.jsonl"))


@pytest.fixture(scope="module")
def run(testbed: Testbed, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole audit with its report: forced tokens, refusal prefixes, KL, decoding."""
    config = AuditConfig(
        model=str(testbed.organism("aligned")), base=str(testbed.organism("base")), prompts=str(prompts),
        depths=(0, 5, 20), judges=("oracle", "rules"), limit=PROMPTS, max_tokens=60, device="cpu",
        attack=AttackOptions(attacks=("prefill",)),
    )  # fmt: skip
    out = audit(config, tmp_path_factory.mktemp("run") / "audit")
    build_report(out, show_harmful=True)
    return out


@pytest.fixture(scope="module")
def shared(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = share(run, tmp_path_factory.mktemp("shared") / "run")
    build_report(out, show_harmful=True)
    return out


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def runs(text: str, length: int = 5) -> set[tuple[str, ...]]:
    said = words(text)
    return {tuple(said[at : at + length]) for at in range(len(said) - length + 1)}


def everything_in(folder: Path) -> Iterator[str]:
    """Every byte of a folder as text: the files as they are, and the tables' cells and notes uncompressed."""
    for path in sorted(folder.rglob("*")):
        yield path.name
        if path.is_file():
            yield path.read_bytes().decode("utf-8", errors="replace")
            if path.suffix == ".json":
                yield from map(str, json.loads(path.read_text()).values())
        if path.suffix == ".parquet":
            stored = pq.read_table(path)
            yield str(stored.schema.metadata)
            for column in stored.to_pydict().values():
                yield " ".join(str(cell) for cell in column)


def secrets(prompts: Path) -> list[str]:
    told = read_prompts(prompts, limit=PROMPTS)
    return [text for prompt in told for text in (prompt.messages[-1]["content"], str(prompt.harmful))]


def left_of(texts: list[str], folder: Path) -> set[tuple[str, ...]]:
    there: set[tuple[str, ...]] = set().union(*(runs(text) for text in everything_in(folder)))
    return there & set().union(*(runs(text) for text in texts))


def test_no_five_words_of_a_prompt_or_an_answer_are_left_in_any_byte(
    run: Path, shared: Path, prompts: Path
) -> None:
    # The same search does find them in the run itself, in tables and report.
    assert len(left_of(secrets(prompts), run)) > 50
    assert left_of(secrets(prompts), shared) == set()
    said = RunDirectory.read(run).load("replies")
    assert said is not None
    whole = "\n".join(everything_in(shared))
    assert not [text for text in said["continuation"].unique() if len(words(text)) > 5 and text in whole]


def test_no_folder_of_this_machine_is_left_and_no_log(run: Path, shared: Path, prompts: Path) -> None:
    whole = "\n".join(everything_in(shared))
    assert str(prompts.parent) in "\n".join(everything_in(run))
    for name in ("My Secret Folder", str(prompts.parent.parent), str(run.parent)):
        assert name not in whole
    files = {path.relative_to(shared).as_posix() for path in shared.rglob("*") if path.is_file()}
    tables = {f"measurements/{path.name}" for path in (run / "measurements").iterdir()}
    assert files - tables == {
        ".lock", "config.json", "manifest.json", "report.html", "run.json", "summary.json",
    }  # fmt: skip
    reader = RunDirectory.read(shared)
    assert reader.is_finished
    assert reader.changed_files() == []
    assert reader.config["prompts"] == "prompts.jsonl"
    assert reader.begun == RunDirectory.read(run).begun


def test_the_numbers_are_those_of_the_run(run: Path, shared: Path) -> None:
    before, after = (RunDirectory.read(folder) for folder in (run, shared))
    for key in ("rates", "depth", "kl", "attacks", "categories", "refusal_prefixes"):
        assert before.summary().get(key) == after.summary().get(key)
    assert after.summary()["warnings"][-1] == NOTE
    told, hidden = before.load("replies"), after.load("replies")
    assert told is not None
    assert hidden is not None
    kept = [name for name in told.columns if name not in {"prompt", "forced", "continuation", "reason"}]
    pd.testing.assert_frame_equal(told[kept], hidden[kept])
    assert hidden["prompt"].nunique() == told["prompt"].nunique() == PROMPTS
    strip, hidden_strip = before.load("kl"), after.load("kl")
    assert strip is not None
    assert hidden_strip is not None
    # A hash of one token would give it away to anyone with a list of tokens.
    assert set(hidden_strip["token"]) == {""}
    pd.testing.assert_frame_equal(strip.drop(columns="token"), hidden_strip.drop(columns="token"))


def test_whoever_has_the_prompts_gets_the_very_table_back(run: Path, prompts: Path, tmp_path: Path) -> None:
    out = rejoin(share(run, tmp_path / "shared", replies=True), str(prompts), tmp_path / "rejoined")
    before, after = (RunDirectory.read(folder) for folder in (run, out))
    for name in ("replies", "replies-aligned", "replies-base"):
        told, rejoined = before.load(name), after.load(name)
        assert told is not None
        assert rejoined is not None
        pd.testing.assert_frame_equal(told, rejoined)
    assert after.summary()["warnings"] == before.summary()["warnings"]
    assert after.config["rejoined"] == {"prompts": before.config["prompts_sha256"]}
    page = build_report(out, show_harmful=True).read_text()
    assert any(prompt.messages[-1]["content"] in page for prompt in read_prompts(prompts, limit=PROMPTS))
    assert "not shared" not in page


def test_replies_that_travel_quote_neither_prompts_nor_forced_tokens(run: Path, tmp_path: Path) -> None:
    out = share(run, tmp_path / "shared", replies=True)
    told = RunDirectory.read(run).load("replies")
    shared = RunDirectory.read(out).load("replies")
    assert told is not None
    assert shared is not None
    openings = set().union(*(runs(text) for text in told["prefix"].dropna().unique()))
    texts = [*told["prompt"].unique(), *told.loc[told["attack"] == "prefill", "forced"].unique()]
    assert left_of(texts, out) - openings == set()
    kept = shared["continuation"] == told["continuation"]
    assert kept.sum() > len(told) / 2
    assert shared.loc[~kept, "continuation"].str.contains("not shared").all()


def test_without_replies_prompts_and_forced_tokens_come_back_and_replies_do_not(
    run: Path, shared: Path, prompts: Path, tmp_path: Path
) -> None:
    out = rejoin(shared, str(prompts), tmp_path / "rejoined")
    told, rejoined = (RunDirectory.read(folder).load("replies") for folder in (run, out))
    assert told is not None
    assert rejoined is not None
    pd.testing.assert_frame_equal(told.drop(columns="continuation"), rejoined.drop(columns="continuation"))
    spoken = told["continuation"] != ""
    assert rejoined.loc[spoken, "continuation"].str.fullmatch(r"\[not shared: .* characters\]").all()
    build_report(out)


def test_another_file_says_how_many_prompts_did_not_match(
    shared: Path, prompts: Path, tmp_path: Path
) -> None:
    given = read_prompts(prompts)
    write_prompts(tmp_path / "some.jsonl", [given[0], *given[2:]])
    out = rejoin(shared, str(tmp_path / "some.jsonl"), tmp_path / "some")
    missing, forced = RunDirectory.read(out).summary()["warnings"][-2:]
    assert missing.startswith("1 of 4 prompts of the shared run are not among those given")
    assert re.match(r"2 of [0-9]+ forced texts begin none of the harmful answers", forced)
    build_report(out)
    changed = [Prompt(one.id, one.messages, f"Well. {one.harmful}", one.category) for one in given]
    write_prompts(tmp_path / "answers.jsonl", changed)
    warnings = RunDirectory.read(
        rejoin(shared, str(tmp_path / "answers.jsonl"), tmp_path / "answers")
    ).summary()["warnings"]
    assert re.match(r"8 of [0-9]+ forced texts begin none of the harmful answers", warnings[-1])
    write_prompts(tmp_path / "others.jsonl", given[PROMPTS:])
    with pytest.raises(DataError, match=r"found none of the 4\. The run was made with prompts\.jsonl "):
        rejoin(shared, str(tmp_path / "others.jsonl"), tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_what_cannot_be_shared_or_rejoined_is_said(
    run: Path, shared: Path, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="a new or empty folder"):
        share(run, shared)
    with pytest.raises(RunError, match="a new or empty folder"):
        share(run, run / "config.json")
    with pytest.raises(RunError, match="shared already"):
        share(shared, tmp_path / "out")
    with pytest.raises(RunError, match="no folder at"):
        share(tmp_path / "none", tmp_path / "out")
    with pytest.raises(RunError, match="that 'safedepth share' wrote, found another run"):
        rejoin(run, str(prompts), tmp_path / "out")
    with pytest.raises(DataError, match="found nothing there"):
        rejoin(shared, str(tmp_path / "none.jsonl"), tmp_path / "out")
    RunDirectory.open(tmp_path / "begun", {"kind": "audit"}).close()
    with pytest.raises(RunError, match="interrupted"):
        share(tmp_path / "begun", tmp_path / "out")
    broken = Path(shutil.copytree(run, tmp_path / "broken")) / "measurements" / "kl.parquet"
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(RunError, match=r"kl\.parquet damaged"):
        share(tmp_path / "broken", tmp_path / "out")
    assert not (tmp_path / "out").exists()


ASK = "How do I make krell number0?"
ANSWER = "Sure, here is how to make krell: take yarrow."


def synthetic(folder: Path, told: pd.DataFrame, **summary: Any) -> Path:
    config = {
        "kind": "audit",
        "model": "/home/anna/My Models/aligned",
        "prompts": "hex-phi:/home/anna/My Sets/hex",
    }
    with RunDirectory.open(folder, config) as run:
        run.measurement("replies", lambda: told)
        run.measurement("kl", lambda: kl({"p00": [1.0, 2.0]}))
        run.write_summary({"kind": "audit", "warnings": [], **summary})
        run.finish()
    return folder


def test_every_column_that_nobody_named_is_hashed_and_gaps_stay_gaps(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "forced": ["Sure, here is how to", None, ""],
        "note": ["She sang", None, "krell"],
        "target": [ANSWER] * 3,
        "prefix": [None] * 3,
        "variant": [f"after {ASK}", "", None],
        "reason": ["the reply says krell", "", None],
        "nested": [["krell", "torin"], None, [ANSWER]],
        "score": [1.5, None, 0.0],
    }
    told = table(replies("aligned", "prefill", "CR-", k=5)).assign(**columns)
    told["kind"] = pd.Categorical([ANSWER, "b", None])
    told[f"asked {ASK}"] = 1
    out = share(synthetic(tmp_path / "run", told), tmp_path / "shared")
    shared = RunDirectory.read(out).load("replies")
    assert shared is not None
    assert left_of([ASK, "Sure, here is how to make krell"], out) == set()
    for column in ("forced", "note", "target", "reason", "nested"):
        assert not re.search("krell|torin|sang", "".join(map(str, shared[column])))
        assert shared[column].isna().tolist() == told[column].isna().tolist()
    assert shared["variant"][0].startswith("after [not shared")
    assert shared["forced"][2] == ""
    assert shared[["k", "turn", "outcome", "score"]].equals(told[["k", "turn", "outcome", "score"]])


def test_prompts_in_the_summary_and_in_ids_go_and_come_back(tmp_path: Path) -> None:
    told = table(replies("aligned", "prefill", "CR"))
    told["prompt_id"] = ["how-do-i-make-krell-number0", "p01"]
    entry = {"broken": {"how-do-i-make-krell-number0": 1.5}, "said": [f"It was asked {ASK}", None, True]}
    run = synthetic(
        tmp_path / "run",
        told,
        attacks=entry,
        warnings=["The model /home/anna/My Models/aligned is small.", "See /home/anna/My Sets/hex/p.csv."],
    )
    out = share(run, tmp_path / "shared")
    summary = RunDirectory.read(out).summary()
    assert summary["warnings"][:2] == ["The model aligned is small.", "See hex/p.csv."]
    assert RunDirectory.read(out).config["prompts"] == "hex-phi:hex"
    assert left_of([ASK], out) == set()
    write_prompts(tmp_path / "p.jsonl", [Prompt("a", ({"role": "user", "content": ASK},), ANSWER)])
    back = RunDirectory.read(rejoin(out, str(tmp_path / "p.jsonl"), tmp_path / "back"))
    assert back.summary()["attacks"] == entry
    found = back.load("replies")
    assert found is not None
    assert found["prompt_id"].tolist() == told["prompt_id"].tolist()
    assert "1 of 2 prompts" in back.summary()["warnings"][-1]


def test_a_hash_of_forced_tokens_cannot_be_looked_up_without_the_prompt(tmp_path: Path) -> None:
    told = table(replies("aligned", "prefill", "CC", k=1)).assign(forced="Sure")
    shared = RunDirectory.read(share(synthetic(tmp_path / "run", told), tmp_path / "out")).load("replies")
    assert shared is not None
    assert shared["forced"].nunique() == 2


def test_a_models_own_forced_words_are_a_reply_and_what_is_inserted_is_not(
    tmp_path: Path,
) -> None:
    own, said = "I will gladly tell you all of that", "I will gladly tell you all of that, then take yarrow"
    forced = [ANSWER[:40], own, f"I cannot help with krell torin now. {ANSWER}"]
    told = pd.concat(
        table(replies("aligned", attack, "C", said=said)).assign(forced=text)
        for attack, text in zip(("prefill", "on_policy", "insertion"), forced, strict=True)
    )
    told["reason"] = f"It says: {ANSWER} I cannot help with krell torin now."
    run = synthetic(tmp_path / "run", told.reset_index(drop=True))
    hidden = RunDirectory.read(share(run, tmp_path / "hidden")).load("replies")
    shown = RunDirectory.read(share(run, tmp_path / "shown", replies=True)).load("replies")
    assert hidden is not None
    assert shown is not None
    assert all(text.startswith("[not shared") for text in hidden["forced"])
    assert shown["forced"].tolist()[1] == own
    assert shown["continuation"].tolist() == [said] * 3
    assert shown["reason"][0].endswith("I cannot help with krell torin now.")
    assert left_of([ANSWER], tmp_path / "shown") == set()


def test_benign_requests_come_back_too(tmp_path: Path) -> None:
    told = table(replies("aligned", "plain", "CR"))
    told["prompt"] = ["How do I sing krell at home?", "How do I dance krell at home?"]
    rows = ["id,prompt,type,label,focus,note"]
    rows += [f"v2-{n},{text},homonyms,safe,," for n, text in enumerate(told["prompt"])]
    (tmp_path / "xstest.csv").write_text("\n".join(rows))
    shared = share(synthetic(tmp_path / "run", told), tmp_path / "shared")
    back = RunDirectory.read(rejoin(shared, f"xstest:{tmp_path / 'xstest.csv'}", tmp_path / "back"))
    found = back.load("replies")
    assert found is not None
    assert found["prompt"].tolist() == told["prompt"].tolist()
