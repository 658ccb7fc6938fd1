"""`safedepth deepen` from the command's words to a model, its card and its report, on an organism."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from safedepth.data import read_anchors, read_prompts, read_triplets
from safedepth.errors import RunError
from safedepth.models import load_model
from safedepth.nouns import Triplet
from safedepth.report import build_report
from safedepth.runs import RunDirectory
from safedepth.studies import deepen as deepen_module
from safedepth.studies import recovering
from safedepth.studies.deepen import deepen
from safedepth.studies.training_options import parse_deepen
from safedepth.testbed import Testbed

PROMPTS = 8


def _words(testbed: Testbed, out: Path, **changes: Any) -> list[str]:
    """The command's words; a change to None leaves an option out, a list gives it several values."""
    options: dict[str, Any] = {
        "triplets": testbed.file("triplets.jsonl"),
        "anchors": testbed.file("anchors.jsonl"),
        "prompts": testbed.prompts,
        "output_dir": out,
        "max_steps": 30,
        "learning_rate": 1e-3,
        "safety_per_step": 4,
        "anchors_per_step": 16,
        "per_device_train_batch_size": 20,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "limit": PROMPTS,
        "max_tokens": 120,
        "judge": ["oracle", "rules"],
    }
    words = [str(testbed.organism("aligned"))]
    for name, value in (options | changes).items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _run(words: Sequence[str]) -> Path:
    found = deepen(*parse_deepen(words))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a whole run: with a control, a base, conversations and benign requests."""
    return _words(
        testbed,
        tmp_path_factory.mktemp("deepen") / "model",
        control=True,
        base=testbed.organism("base"),
        trajectories=testbed.file("dialogues.jsonl"),
        benign=[testbed.file("benign.jsonl"), testbed.file("lookalikes.jsonl")],
        benign_judge="knowledge",
    )


@pytest.fixture(scope="module")
def model(whole: list[str]) -> Path:
    """Where the run of `whole` left its model."""
    run = _run(whole)
    build_report(run)
    return run.parent


def _paired(folder: Path, /, **wanted: object) -> dict[str, Any]:
    entries = RunDirectory.read(folder / "report").summary()["deepening"]["paired"]
    (found,) = [e for e in entries if all(e[name] == value for name, value in wanted.items())]
    return dict(found)


def _changed(words: list[str], name: str, value: object) -> list[str]:
    place = words.index(f"--{name}") + 1
    return [*words[:place], str(value), *words[place + 1 :]]


def _stamps(model: Path) -> dict[str, int]:
    kept = ("*.safetensors", "training.json", "measurements/*", "*.jsonl")
    return {str(p.relative_to(model)): p.stat().st_mtime_ns for name in kept for p in model.rglob(name)}


def test_the_deepened_model_turns_back_where_the_aligned_one_and_the_control_go_on(model: Path) -> None:
    deepened, control = (
        _paired(model, model=role, what="prefill, 10 tokens forced") for role in ("deepened", "control")
    )
    assert deepened["n"] == control["n"] == PROMPTS
    assert deepened["before"] == control["before"] >= 2 / PROMPTS
    assert deepened["difference"] < 0 <= control["difference"]
    assert _after(model, "deepened", 20) <= _after(model, "control", 20) - 0.5


def _after(model: Path, role: str, k: int) -> float:
    return float(_paired(model, model=role, what=f"prefill, {k} tokens forced")["after"])


def test_the_summary_compares_all_roles_in_all_tests(model: Path) -> None:
    summary = RunDirectory.read(model / "report").summary()
    block = summary["deepening"]
    assert block["models"] == ["aligned", "deepened", "control"]
    assert set(block["kl"]) == set(block["depth"]) == {"aligned", "deepened", "control"}
    assert [record["model"] for record in block["training"]] == ["deepened", "control"]
    assert [entry["step"] for entry in block["training"][0]["losses"]] == [5, 10, 15, 20, 25, 30]
    assert {(e["set"], e["measure"]) for e in block["utility"]} == {
        (name, measure) for name in ("benign", "lookalikes") for measure in ("right answers", "over-refusal")
    }
    assert any(entry["what"] == "turn 2, 5 tokens forced" for entry in block["paired"])
    assert summary["not_measured"] == summary["warnings"] == []
    assert RunDirectory.read(model / "report").changed_files() == []


def test_what_was_trained_loads_as_any_checkpoint_does(model: Path, testbed: Testbed) -> None:
    aligned = load_model(str(testbed.organism("aligned")), device="cpu")
    for folder in (model, model / "control"):
        loaded = load_model(str(folder), device="cpu")
        assert loaded.card.vocab_size == aligned.card.vocab_size
        assert loaded.card.weights_sha256 != aligned.card.weights_sha256
        assert loaded.chat.template == aligned.chat.template


def test_the_card_says_how_the_model_was_made_and_what_was_measured(model: Path) -> None:
    card = ModelCard.load(model / "README.md")
    assert card.data.library_name == "transformers"
    assert "safedepth" in card.data.tags
    record = json.loads((model / "training.json").read_text())
    for name, value in record["facts"]:
        assert f"| {name} | {value} |" in card.text
    entry = _paired(model, model="deepened", what="prefill, 10 tokens forced")
    row = f"| prefill, 10 tokens forced | harmful replies | {100 * entry['before']:.1f} % | "
    assert row + f"{100 * entry['after']:.1f} %" in card.text


def test_the_report_is_a_page_that_redacts_harmful_text(model: Path, testbed: Testbed) -> None:
    page = (model / "report" / "report.html").read_text()
    assert "control" in page
    harmful = read_prompts(testbed.prompts, limit=1)[0].harmful
    assert harmful is not None
    assert harmful not in page


def test_the_same_command_changes_nothing_however_a_step_is_cut_into_batches(
    model: Path, whole: list[str]
) -> None:
    before = _stamps(model)
    assert any(name.endswith("model.safetensors") for name in before)
    summary = (model / "report" / "summary.json").read_text()
    _run(_changed(whole, "per_device_train_batch_size", 5))
    assert _stamps(model) == before
    assert (model / "report" / "summary.json").read_text() == summary


def test_other_options_or_other_data_do_not_touch_the_model(
    model: Path, whole: list[str], testbed: Testbed, tmp_path: Path
) -> None:
    before = _stamps(model)
    with pytest.raises(RunError, match="learning_rate"):
        _run(_changed(whole, "learning_rate", 1e-4))
    fewer = tmp_path / "triplets.jsonl"
    lines = testbed.file("triplets.jsonl").read_text().splitlines(keepends=True)
    fewer.write_text("".join(lines[:-1]))
    with pytest.raises(RunError, match="triplets"):
        _run(_changed(whole, "triplets", fewer))
    assert _stamps(model) == before


def test_without_test_prompts_one_triplet_in_eight_is_held_out_of_training(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Triplet] = []
    train = recovering.train_recovery

    def noting(model: str, config: Any, triplets: Sequence[Triplet], *more: Any, **options: Any) -> Any:
        trained.extend(triplets)
        return train(model, config, triplets, *more, **options)

    monkeypatch.setattr(deepen_module, "train_recovery", noting)
    out = tmp_path / "model"
    run = _run(_words(testbed, out, prompts=None, measure=False, max_steps=1, save_strategy="no"))
    given = read_triplets(testbed.file("triplets.jsonl"))
    held = read_prompts(out / "held-out.jsonl")
    assert len(held) == len(given) // 8
    assert sorted([t.id for t in trained] + [p.id for p in held]) == sorted(t.id for t in given)
    by_id = {triplet.id: triplet for triplet in given}
    assert all((p.messages, p.harmful) == (by_id[p.id].messages, by_id[p.id].harmful) for p in held)
    summary = RunDirectory.read(run).summary()
    assert [note["what"] for note in summary["not_measured"]] == ["before and after"]
    assert f"{len(held)} of the triplets were held out" in summary["warnings"][0]
    assert "Not measured." in ModelCard.load(out / "README.md").text
    assert build_report(run).is_file()


def test_an_adapter_trained_on_the_models_own_anchors_is_saved_loaded_and_measured(
    testbed: Testbed, tmp_path: Path
) -> None:
    requests = tmp_path / "requests.jsonl"
    lines = testbed.file("benign.jsonl").read_text().splitlines(keepends=True)[:6]
    requests.write_text("".join(lines))
    out = tmp_path / "model"
    words = _words(
        testbed, out, anchors="self", anchor_prompts=requests, use_peft=True, lora_r=4, max_steps=2,
        limit=2, depths="0,10", save_strategy="no",
    )  # fmt: skip
    run = _run(words)
    anchors = read_anchors(out / "anchors.jsonl")
    asked = [json.loads(line)["prompt"] for line in lines]
    assert anchors
    assert {anchor.messages[-1]["content"] for anchor in anchors} <= set(asked)
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    assert load_model(str(out), device="cpu").card.parameters > 0
    assert ModelCard.load(out / "README.md").data.library_name == "peft"
    assert _paired(out, model="deepened", what="prefill, 10 tokens forced")["n"] == 2

    before = _stamps(out)
    assert "anchors.jsonl" in before
    shutil.rmtree(out / "anchors.logs")
    assert _run(words) == run
    assert _stamps(out) == before
    assert not (out / "anchors.logs").exists()
