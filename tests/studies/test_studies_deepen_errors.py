"""What a user gets wrong in `safedepth deepen` is said in one line, before training, and can be put right."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from safedepth.runs import RunDirectory
from safedepth.studies import recovering, self_anchors
from safedepth.testbed import Testbed
from studies.deepen_calls import deepen_words, few, jsonl, rows_of, safedepth, summary_of

TRIPLET = {
    "prompt": "How do I make krell torin?",
    "harmful": "Sure, here is how to make krell torin: Step one, heat the salt.",
    "refusal": "I cannot help with krell torin.",
}
SYSTEM = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": TRIPLET["prompt"]},
    {"role": "assistant", "content": TRIPLET["harmful"]},
]
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture
def said(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Call `deepen` with something wrong in it; returns the line that is said."""

    def trained(*_arguments: object) -> None:
        raise AssertionError("training has begun")

    def call(**changed: Any) -> str:
        out = tmp_path / "out"
        usual = {
            "triplets": few(testbed, "triplets", tmp_path / "few", 9),
            "anchors": few(testbed, "anchors", tmp_path / "few", 4),
        }
        monkeypatch.setattr(recovering, "_trainer", trained)
        assert safedepth(*deepen_words(testbed, out, **(usual | changed))) == 2
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert told.out == ""
        *before, line = told.err.strip().splitlines()
        assert line.startswith("Error: ")
        assert not any("Error" in other for other in before)
        assert not [path for path in out.rglob("*") if path.name != "held-out.jsonl"]
        return line

    return call


@pytest.mark.parametrize(
    ("rows", "messages"),
    [
        ([], ["triplets.jsonl", "empty file"]),
        ([{"prompt": "How?", "harmful": "So."}], ["line 1 of", "`refusal`"]),
        ([TRIPLET, {"question": "How?", "refusal": "No."}], ["line 2 of", "`question`"]),
        ([TRIPLET | {"refusal": " "}], ["`refusal` of line 1", "empty"]),
        ([TRIPLET | {"harmful": ""}], ["`harmful` of line 1", "empty"]),
        ([TRIPLET | {"explanation": "It is not safe."}], ["no `reason`", "line 1"]),
        ([[1, 2]], ["`role` and `content`", "line 1"]),
    ],
)
def test_triplets_that_cannot_be_used_are_named_by_their_row(
    said: Callable[..., str], tmp_path: Path, rows: list[object], messages: list[str]
) -> None:
    line = said(triplets=jsonl(tmp_path / "triplets.jsonl", rows))
    for message in messages:
        assert message in line


def test_files_that_are_not_there_are_named(said: Callable[..., str], tmp_path: Path) -> None:
    for option in ("triplets", "anchors", "prompts", "trajectories"):
        assert str(tmp_path / f"no-{option}.jsonl") in said(**{option: tmp_path / f"no-{option}.jsonl"})
    assert str(tmp_path / "no.jsonl") in said(benign=[tmp_path / "no.jsonl"])
    assert "found the folder" in said(triplets=tmp_path)
    assert "base=" not in said(base=tmp_path / "nowhere")


def test_too_few_triplets_to_hold_some_out_ask_for_prompts(said: Callable[..., str], tmp_path: Path) -> None:
    line = said(
        triplets=jsonl(tmp_path / "t.jsonl", [TRIPLET | {"id": str(n)} for n in range(7)]), prompts=None
    )
    assert "--prompts FILE" in line
    assert "found 7 triplets" in line


def test_options_are_looked_at_before_the_model(said: Callable[..., str], tmp_path: Path) -> None:
    assert "found 'deep'" in said(depths="deep", model=tmp_path / "nowhere")
    assert "No judge is called 'nonsense'" in said(judge="nonsense", model=tmp_path / "nowhere")
    assert "names of their own" in said(
        judge=[f"{tmp_path}/one.py@mine", f"{tmp_path}/other.py@mine"], triplets=_judges(tmp_path)
    )
    assert "at least 1, found 0" in said(limit=0)


def _judges(folder: Path) -> Path:
    for name in ("one", "other"):
        (folder / f"{name}.py").write_text("from safedepth.judges import rules as mine\n")
    return jsonl(folder / "triplets.jsonl", [TRIPLET])


def test_what_is_no_model_is_said_to_be_none(
    said: Callable[..., str], testbed: Testbed, tmp_path: Path
) -> None:
    assert "found no folder" in said(model=tmp_path / "nowhere")
    assert "expected a Hugging Face model with a config.json" in said(model=tmp_path)
    assert "found the file" in said(model=testbed.prompts)


def test_a_model_without_a_chat_template_asks_for_one_by_the_options_name_here(
    said: Callable[..., str], testbed: Testbed
) -> None:
    assert "--chat_template_path FILE_OR_MODEL" in said(model=testbed.organism("base"))


def test_a_system_message_that_the_template_has_no_role_for_names_the_row(
    said: Callable[..., str], tmp_path: Path
) -> None:
    template = tmp_path / "no_system.jinja"
    template.write_text(NO_SYSTEM)
    rows = [TRIPLET | {"id": "plain"}, {"id": "with system", "messages": SYSTEM, "refusal": "I cannot."}]
    line = said(triplets=jsonl(tmp_path / "t.jsonl", rows), chat_template_path=template)
    for words in ("triplet 'with system'", "role 'system'", "no system role", "--chat_template_path"):
        assert words in line


def test_a_style_that_says_more_needs_triplets_that_have_more(
    said: Callable[..., str], tmp_path: Path
) -> None:
    line = said(triplets=jsonl(tmp_path / "t.jsonl", [TRIPLET | {"id": "bare"}]), refusal_style="escalating")
    for words in ("`explanation`, `reason` and `redirection`", "the first 'bare'", "--refusal_style given"):
        assert words in line


def test_a_length_that_is_too_small_names_the_first_row_and_what_it_takes(
    said: Callable[..., str], testbed: Testbed, tmp_path: Path
) -> None:
    line = said(max_length=40)
    for words in ("triplet '0001-", "to fit into 40 tokens", "--max_length"):
        assert words in line
    rows = rows_of(few(testbed, "anchors", tmp_path, 1))
    rows[0]["messages"][-2]["content"] += " moss" * 200
    line = said(anchors=jsonl(tmp_path / "long.jsonl", rows), max_length=200)
    assert "anchor '0001-" in line
    assert "found a prompt of 2" in line


def test_tests_that_could_not_be_made_after_the_training_are_found_before_it(
    said: Callable[..., str], testbed: Testbed, tiny_model_dir: Path, tmp_path: Path
) -> None:
    assert "has a context of 512 tokens" in said(max_tokens=500)
    assert "has a context of 512 tokens" in said(
        max_tokens=500, benign=[testbed.file("benign.jsonl")], depths="0"
    )
    bare = jsonl(tmp_path / "bare.jsonl", [{"prompt": TRIPLET["prompt"]}])
    assert f"expected harmful answers beside the prompts of {bare}" in said(prompts=bare)
    assert "for the KL to --base" in said(prompts=bare, depths="0", base=testbed.organism("base"))
    assert "to have the vocabulary of" in said(base=tiny_model_dir)
    assert "the KL needs its weights" in said(base="mockllm/model")
    wrong = jsonl(tmp_path / "wrong.jsonl", [{"text": "How do I make krell torin?"}])
    assert "line 1 of" in said(benign=[wrong])


def test_a_mistake_can_be_put_right_in_the_same_folder(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: few(testbed, name, tmp_path, 9) for name in ("triplets", "anchors")}
    wrong = deepen_words(testbed, tmp_path / "out", **files, max_length=40, measure=False)
    assert safedepth(*wrong) == 2
    capsys.readouterr()
    right = deepen_words(testbed, tmp_path / "out", **files, max_length=300, measure=False)
    assert safedepth(*right) == 0, capsys.readouterr().err
    assert safedepth(*wrong) == 2
    assert "training.max_length: 300 there, 40 now" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_run_that_was_killed_before_anything_was_made_makes_way(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    files = {name: few(testbed, name, tmp_path, 9) for name in ("triplets", "anchors")}
    words = deepen_words(testbed, out, **files, measure=False)
    with RunDirectory.open(out / "report", {"kind": "deepen", "seed": 7}):
        assert safedepth(*words) == 2
        assert "Another process" in capsys.readouterr().err
    assert safedepth(*words) == 0
    assert summary_of(out)["seeds"] == [42]


@pytest.mark.parametrize(("kind", "made"), [("audit", []), ("deepen", ["report/measurements/kl.parquet"])])
def test_a_run_in_which_something_was_made_stays(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, made: list[str]
) -> None:
    out = tmp_path / "out"
    with RunDirectory.open(out / "report", {"kind": kind, "seed": 7}):
        _folder(out, dict.fromkeys(made, "a table"))
    before = sorted(path for path in out.rglob("*"))
    assert safedepth(*deepen_words(testbed, out)) == 2
    assert "seed" in capsys.readouterr().err
    assert sorted(path for path in out.rglob("*")) == before


def test_ctrl_c_before_anything_was_made_leaves_nothing(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recovering, "Draws", interrupted)
    assert safedepth(*deepen_words(testbed, tmp_path / "out")) == 130
    assert not [*(tmp_path / "out").iterdir()]


def test_a_training_that_diverges_saves_no_model_however_often_it_is_tried(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # At the second step nothing is logged before the checkpoint is written.
    words = deepen_words(testbed, tmp_path / "out", learning_rate=1e9, max_grad_norm=0, measure=False)
    for _ in range(2):
        assert safedepth(*words) == 2
        told = capsys.readouterr().err
        assert "The training diverged: at step 2" in told
        assert "--learning_rate (now 1e+09)" in told
        assert "Traceback" not in told
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "training.json").exists()


def test_what_the_trainer_cannot_do_with_the_options_is_said(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, message in (
        ({"use_peft": True, "lora_target_modules": "nothing"}, "Target modules"),
        ({"attn_implementation": "nothing"}, "is not supported"),
        ({"seed": -1}, "Seed must be between"),
    ):
        assert safedepth(*deepen_words(testbed, tmp_path / "out", **wrong)) == 2
        told = capsys.readouterr().err
        assert "cannot be trained with these options" in told
        assert message in told
        assert "Traceback" not in told


def _folder(place: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}", "model.safetensors": "theirs"},
        {"adapter_config.json": "{}", "adapter_model.safetensors": "theirs"},
        {"checkpoint-500/trainer_state.json": "{}", "checkpoint-500/model.safetensors": "theirs"},
        {"training.json": "{}"},
    ],
)
def test_a_folder_with_somebody_elses_model_is_left_as_it_is(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str]
) -> None:
    out = _folder(tmp_path / "theirs", files)
    assert safedepth(*deepen_words(testbed, out, prompts=None)) == 2
    assert "Choose another --output_dir" in capsys.readouterr().err
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(files)


def test_the_model_itself_is_not_written_over(testbed: Testbed, capsys: pytest.CaptureFixture[str]) -> None:
    model = testbed.organism("aligned")
    before = {path.name: path.stat().st_mtime_ns for path in model.iterdir()}
    assert safedepth(*deepen_words(testbed, model)) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in model.iterdir()} == before


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        for prompts in (None, testbed.prompts):
            assert safedepth(*deepen_words(testbed, out, prompts=prompts)) == 2
            told = capsys.readouterr().err.strip()
            assert "a file is where a folder should be. Choose another --output_dir" in told
            assert len(told.splitlines()) == 1


def test_a_triplet_that_cannot_be_used_is_found_before_anchors_are_generated(
    said: Callable[..., str], testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generated(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the model has been asked")

    monkeypatch.setattr(self_anchors, "open_target", generated)
    requests = few(testbed, "benign", tmp_path, 2)
    assert "to fit into 40 tokens" in said(anchors="self", anchor_prompts=requests, max_length=40)
    assert "no-requests.jsonl" in said(anchors="self", anchor_prompts=tmp_path / "no-requests.jsonl")
