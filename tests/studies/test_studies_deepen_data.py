"""What `safedepth deepen` trains on and tests with: what is held out, anchors in the model's own words."""

import json
from pathlib import Path
from typing import Any

import pytest

from safedepth.data import file_sha256, read_anchors, read_prompts, read_triplets
from safedepth.errors import DataError
from safedepth.models import load_model
from safedepth.nouns import Prompt
from safedepth.studies import recovering, self_anchors
from safedepth.studies.battery import Battery
from safedepth.studies.deepen import deepen
from safedepth.studies.deepen_data import DeepenData
from safedepth.studies.deepen_options import DeepenOptions
from safedepth.studies.target import open_target
from safedepth.studies.training_options import parse_deepen
from safedepth.testbed import Testbed
from studies.deepen_calls import deepen_words, few, jsonl, rows_of, summary_of


def of(triplets: Path, out: Path = Path("out"), *, seed: int = 0, **more: Any) -> DeepenData:
    return DeepenData.of(DeepenOptions(triplets=str(triplets), anchors="a.jsonl", **more), out, seed)


def test_one_triplet_in_eight_is_held_out_and_the_rest_is_trained_on(
    testbed: Testbed, tmp_path: Path
) -> None:
    given = read_triplets(testbed.file("triplets.jsonl"))
    data = of(testbed.file("triplets.jsonl"), tmp_path)
    assert len(data.held_out) == len(given) // 8 == 32
    assert sorted([*data.triplets, *data.held_out], key=lambda t: t.id) == sorted(given, key=lambda t: t.id)
    assert not {t.id for t in data.triplets} & {t.id for t in data.held_out}
    assert "32 of the triplets were held out" in data.notes[0]
    data.write_held_out()
    prompts = read_prompts(data.battery.prompts)
    assert [(p.id, p.messages, p.harmful) for p in prompts] == [
        (t.id, t.messages, t.harmful) for t in data.held_out
    ]


def test_the_seed_decides_what_is_held_out(testbed: Testbed) -> None:
    one, same, other = (of(testbed.file("triplets.jsonl"), seed=seed) for seed in (0, 0, 1))
    assert one.held_out == same.held_out
    assert {t.id for t in one.held_out} != {t.id for t in other.held_out}


def test_a_trajectory_is_held_out_whole_and_ids_may_look_like_turns(testbed: Testbed, tmp_path: Path) -> None:
    trajectories = rows_of(few(testbed, "trajectories", tmp_path, 12))
    rows = [row | {"id": f"data/train-{number}"} for number, row in enumerate(trajectories)]
    single = [
        row | {"id": f"data/test-{n}"} for n, row in enumerate(rows_of(testbed.file("triplets.jsonl"))[:12])
    ]
    file = jsonl(tmp_path / "both.jsonl", [*rows, *single])
    for seed in range(5):
        data = of(file, seed=seed)
        owners = [{t.id.removesuffix(f"/t{t.turn}") for t in part} for part in (data.triplets, data.held_out)]
        assert len(owners[1]) == 24 // 8
        assert len(owners[0]) == 24 - 24 // 8
        assert not owners[0] & owners[1]
    assert any(t.turn > 1 for seed in range(5) for t in of(file, seed=seed).held_out)


def test_with_prompts_of_its_own_nothing_is_held_out(testbed: Testbed, tmp_path: Path) -> None:
    data = of(testbed.file("triplets.jsonl"), tmp_path, prompts=str(testbed.prompts))
    assert len(data.triplets) == 256
    assert (data.held_out, data.notes) == ([], ())
    data.write_held_out()
    assert not [*tmp_path.iterdir()]


def test_every_file_is_hashed_whatever_a_benign_set_is_called(testbed: Testbed) -> None:
    options = DeepenOptions(
        triplets=str(testbed.file("triplets.jsonl")), anchors=str(testbed.file("anchors.jsonl")),
        prompts=str(testbed.prompts), trajectories=str(testbed.file("dialogues.jsonl")),
        benign=[f"{name}={testbed.file('benign.jsonl')}" for name in ("triplets", "anchors", "prompts")],
    )  # fmt: skip
    hashes = DeepenData.of(options, Path("out"), 0).hashes(options)
    files = {"triplets": "triplets", "anchors": "anchors", "prompts": "prompts", "trajectories": "dialogues"}
    expected = {name: file_sha256(testbed.file(f"{file}.jsonl")) for name, file in files.items()}
    benign = file_sha256(testbed.file("benign.jsonl"))
    assert hashes == expected | {f"benign {name}": benign for name in ("triplets", "anchors", "prompts")}


def test_without_test_prompts_or_measuring_a_model_is_trained_on_what_is_not_held_out(
    testbed: Testbed, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = deepen_words(
        testbed, out, triplets=few(testbed, "triplets", tmp_path, 16), prompts=None, measure=False
    )
    assert deepen(*parse_deepen(words[1:])) == out / "report"
    held = {row["id"] for row in rows_of(out / "held-out.jsonl")}
    assert len(held) == 2
    summary = summary_of(out)
    (record,) = summary["deepening"]["training"]
    assert dict(record["facts"])["triplets, anchors"] == "14, 512"
    assert summary["not_measured"] == [
        {"what": "before and after", "why": "it was not asked for (--measure False)"}
    ]
    assert "held out" in summary["warnings"][0]
    assert summary["rates"] == []
    assert not [*(out / "report" / "measurements").iterdir()]
    assert "Not measured." in (out / "README.md").read_text()
    load_model(str(out), device="cpu")


def test_what_is_held_out_is_what_is_tested_with(testbed: Testbed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = deepen_words(
        testbed,
        out,
        triplets=few(testbed, "triplets", tmp_path, 16),
        prompts=None,
        limit=None,
        judge="oracle",
    )
    deepen(*parse_deepen(words[1:]))
    rates = [rate for rate in summary_of(out)["rates"] if rate["scope"] == "continuation"]
    assert {(rate["model"], rate["k"]): rate["n"] + rate["unscored"] for rate in rates} == {
        (role, k): 2 for role in ("aligned", "deepened") for k in (0, 5)
    }


@pytest.fixture
def requests(testbed: Testbed, tmp_path: Path) -> Path:
    """Three recipes, which take more than 40 tokens, and five questions with short answers."""
    rows = [
        *rows_of(few(testbed, "benign", tmp_path, 3)),
        *({"id": r["id"], "prompt": r["prompt"]} for r in rows_of(few(testbed, "lookalikes", tmp_path, 5))),
    ]
    return jsonl(tmp_path / "requests.jsonl", rows)


def test_a_models_own_answers_are_kept_once_and_those_that_do_not_end_left_out(
    testbed: Testbed, tmp_path: Path, requests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = deepen_words(
        testbed, out, anchors="self", anchor_prompts=requests, anchor_tokens=40, measure=False
    )
    deepen(*parse_deepen(words[1:]))
    anchors = read_anchors(out / "anchors.jsonl")
    assert [anchor.id for anchor in anchors] == [f"lookalike-{n:04d}" for n in range(5)]
    model = load_model(str(testbed.organism("aligned")), device="cpu")
    for anchor in anchors:
        ids = model.chat.prompt_ids(anchor.messages)
        answer = [*model.chat.answer_ids(anchor.answer), *model.chat.turn_end_ids]
        logits = model.model(input_ids=_tensor([*ids, *answer])).logits[0]
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == answer  # greedily, to the end of the turn
    assert "3 of the anchor requests had no answer that ended" in summary_of(out)["warnings"][0]

    monkeypatch.setattr(self_anchors, "open_target", _forbidden)
    text = (out / "anchors.jsonl").read_text()
    (out / "anchors.jsonl").write_text(
        "".join(text.splitlines(keepends=True)[:4])
    )  # a person reads and strikes
    (out / "training.json").unlink()
    deepen(*parse_deepen(words[1:]))
    facts = dict(json.loads((out / "training.json").read_text())["facts"])
    assert facts["triplets, anchors"] == "256, 4"


def _tensor(ids: list[int]) -> Any:
    import torch

    return torch.tensor([ids])


def _forbidden(*_arguments: object, **_options: object) -> None:
    raise AssertionError("asked again")


def test_no_answer_that_ends_is_an_error_that_leaves_nothing_in_the_way(
    testbed: Testbed, tmp_path: Path, requests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "_trainer", _forbidden)
    out = tmp_path / "out"
    words = deepen_words(testbed, out, anchors="self", anchor_prompts=requests, measure=False)
    with pytest.raises(DataError, match=r"within\s+2 tokens.*Raise --anchor_tokens"):
        deepen(*parse_deepen([*words[1:], "--anchor_tokens", "2"]))
    monkeypatch.undo()
    deepen(*parse_deepen([*words[1:], "--anchor_tokens", "60"]))
    assert len(read_anchors(out / "anchors.jsonl")) >= 5


def test_the_room_for_replies_is_the_same_before_loading_a_model_and_after(testbed: Testbed) -> None:
    target = open_target(str(testbed.organism("aligned")), device="cpu")
    assert target.loaded is not None
    for tokens in (None, 300, 400):
        battery = Battery(str(testbed.prompts), (0, 40), ("rules",), limit=5, max_tokens=tokens)
        prompts: list[Prompt] = read_prompts(testbed.prompts, limit=5)
        try:
            battery._room(target, prompts, 40)
            fits = True
        except Exception as error:  # noqa: BLE001 - whatever is raised must be raised by the other too
            fits = False
            with pytest.raises(type(error), match="context of 512"):
                battery.require_room("m", target.loaded.chat, 512)
        if fits:
            battery.require_room("m", target.loaded.chat, 512)
    target.close()
