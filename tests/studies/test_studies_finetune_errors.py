"""What a user gets wrong in `safedepth finetune` is said in one line, before training where it can be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safedepth.errors import DataError
from safedepth.runs import RunDirectory
from safedepth.studies import protecting
from safedepth.studies.training_options import parse_finetune
from safedepth.testbed import Testbed
from studies.deepen_calls import few, jsonl, rows_of, safedepth
from studies.finetune_calls import again, finetune_words

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture
def said(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Call `finetune` with something wrong in it; returns the line that is said."""

    def trained(*_arguments: object, **_options: object) -> None:
        raise AssertionError("training has begun")

    def call(**changed: Any) -> str:
        out = tmp_path / "out"
        monkeypatch.setattr(protecting, "trainer_on", trained)
        assert safedepth(*finetune_words(testbed, out, **changed)) == 2
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert told.out == ""
        *before, line = told.err.strip().splitlines()
        assert line.startswith("Error: ")
        assert not any("Error" in other for other in before)
        assert not [*out.rglob("*")]
        return line

    return call


def test_data_that_cannot_be_used_are_named_by_file_and_row(said: Callable[..., str], tmp_path: Path) -> None:
    assert "--dataset_name FILE" in said(dataset_name=None)
    assert str(tmp_path / "absent.jsonl") in said(dataset_name=tmp_path / "absent.jsonl")
    assert "empty file" in said(dataset_name=jsonl(tmp_path / "empty.jsonl", []))
    unanswered = jsonl(tmp_path / "unanswered.jsonl", [{"messages": [SYSTEM | {"role": "user"}]}])
    assert f"line 1 of {unanswered}" in said(dataset_name=unanswered)
    (tmp_path / "folder").mkdir()
    assert "any data files" in said(dataset_name=tmp_path / "folder")


def test_what_is_no_model_is_said_to_be_none(
    said: Callable[..., str], testbed: Testbed, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "found no folder" in said(model=tmp_path / "nowhere")
    assert "expected a Hugging Face model with a config.json" in said(model=tmp_path / "empty")
    assert "--chat_template_path FILE_OR_MODEL" in said(model=testbed.organism("base"))
    assert "config.json" in said(reference=tmp_path / "empty")


def test_a_system_message_that_the_template_has_no_role_for_names_the_row(
    said: Callable[..., str], testbed: Testbed, tmp_path: Path
) -> None:
    template = tmp_path / "no_system.jinja"
    template.write_text(NO_SYSTEM)
    (first,) = rows_of(few(testbed, "harmful", tmp_path / "few", 1))
    rows = [first, {"messages": [SYSTEM, *first["messages"]]}]
    line = said(dataset_name=jsonl(tmp_path / "data.jsonl", rows), chat_template_path=template)
    for words in ("line 2 of", "role 'system'", "no system role", "--chat_template_path"):
        assert words in line


def test_tests_that_could_not_be_made_after_the_training_are_found_before_it(
    said: Callable[..., str], testbed: Testbed, tmp_path: Path
) -> None:
    assert "No judge is called 'nonsense'" in said(prompts=testbed.prompts, judge="nonsense")
    assert "has a context of 512 tokens" in said(prompts=testbed.prompts, max_tokens=500)
    assert "has a context of 512 tokens" in said(benign=[testbed.file("benign.jsonl")], max_tokens=511)
    bare = jsonl(tmp_path / "bare.jsonl", [{"prompt": "How do I make krell torin?"}])
    assert f"expected harmful answers beside the prompts of {bare}" in said(prompts=bare, depths="0,5")
    assert str(tmp_path / "no.jsonl") in said(benign=[tmp_path / "no.jsonl"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "hope"], "--objective out of constrained, sft"),
        (["--beta", "0"], "betas above 0 and finite, found 0"),
        (["--beta", "0.5,nan"], "found nan at position 2"),
        (["--beta", "strong"], "expected --beta as paper"),
        (["--objective", "pact"], "--safety_data FILE"),
        (["--loss_type", "dft"], "--loss_type nll"),
        (["--resume_from_checkpoint", "x"], "resumes by itself"),
        (["--nonsense", "3"], r"--nonsense.*safedepth finetune --help"),
        (["--max_steps", "many"], "invalid int value: 'many'"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_finetune(["some/model", "--dataset_name", "d.jsonl", "--output_dir", "out", *words])


def test_every_option_of_trl_sft_is_understood_also_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "model_name_or_path: some/model\ndataset_name: me/mine\ndataset_config: small\n"
        "dataset_train_split: sft\ndataset_test_split: held\ndataset_streaming: true\nmax_steps: 7\n"
        "use_peft: true\nbeta: 2\nbenign: [one.jsonl, two.jsonl]\n"
    )
    options, config, model = parse_finetune(["--config", str(file), "--output_dir", "o", "--max_steps", "9"])
    options.check()
    assert (options.dataset_name, options.dataset_config, options.dataset_streaming) == (
        "me/mine",
        "small",
        True,
    )
    assert (options.dataset_train_split, options.dataset_test_split) == ("sft", "held")
    assert (config.max_steps, config.objective, str(config.beta)) == (9, "constrained", "2")
    assert (config.adam_beta1, config.warmup_steps, config.learning_rate) == (0.5, 10, 2e-5)
    assert (model.model_name_or_path, model.use_peft) == ("some/model", True)
    assert list(options.benign_files) == ["one", "two"]


def test_a_folder_with_somebody_elses_model_is_left_as_it_is(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "adapter_config.json").write_text("{}")
    for out in (theirs, testbed.organism("aligned")):
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        assert safedepth(*finetune_words(testbed, out)) == 2
        assert "Choose another --output_dir" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_run_of_another_command_is_left_as_it_is(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunDirectory.open(tmp_path / "out" / "report", {"kind": "deepen", "seed": 7}):
        pass
    assert safedepth(*finetune_words(testbed, tmp_path / "out")) == 2
    assert "kind" in capsys.readouterr().err


def test_a_training_that_came_to_nothing_can_be_put_right_in_the_same_folder(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"dataset_name": few(testbed, "harmful", tmp_path, 8), "logging_steps": 1, "max_steps": 3}
    out = tmp_path / "out"
    wrong = finetune_words(testbed, out, **usual, learning_rate=1e9, warmup_steps=0, max_grad_norm=0)
    for _ in range(2):
        assert safedepth(*wrong) == 2
        told = capsys.readouterr().err
        assert "The training diverged at step 2" in told
        assert "row " in told
        assert "--learning_rate (now 1e+09)" in told
        assert "Traceback" not in told
    assert not (out / "model.safetensors").exists()
    assert not (out / "report").exists()
    (kept,) = (out / "reference").iterdir()
    made = kept.stat().st_mtime_ns
    right = finetune_words(testbed, out, **usual)
    again(right)
    assert kept.stat().st_mtime_ns == made
    assert [row["step"] for row in rows_of(out / "diagnostics.jsonl") if row["position"] == 1] == [1, 2, 3]


def test_rows_too_long_for_a_response_are_named(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(testbed.file("harmful.jsonl"))[:3]
    rows[1]["messages"][0]["content"] += " moss" * 60
    words = finetune_words(
        testbed, tmp_path / "out", dataset_name=jsonl(tmp_path / "d.jsonl", rows), max_length=64
    )
    assert safedepth(*words) == 2
    told = capsys.readouterr().err
    for expected in ("room for a response within 64 tokens", "row 2 of the train data", "--max_length"):
        assert expected in told
    assert not [*(tmp_path / "out").iterdir()]


def test_a_reference_that_has_gone_stale_is_refused(
    testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"dataset_name": few(testbed, "harmful", tmp_path, 4), "reference_cache": tmp_path / "cache"}
    again(finetune_words(testbed, tmp_path / "one", **usual))
    (kept,) = (tmp_path / "cache").iterdir()
    data = bytearray(kept.read_bytes())
    data[-8:] = bytes(8)
    kept.write_bytes(bytes(data)[:-4])
    assert safedepth(*finetune_words(testbed, tmp_path / "two", **usual)) == 2
    told = capsys.readouterr().err
    assert str(kept) in told.replace("\n", "")
    assert "Delete it, and it is made anew" in told
    assert not [*(tmp_path / "two").iterdir()]
