"""The command line of `safedepth deepen`: what it understands, and what it says of what it does not."""

from pathlib import Path
from typing import Any

import pytest

from safedepth.errors import DataError
from safedepth.studies.deepen_options import DeepenOptions
from safedepth.studies.training_options import parse_deepen


def test_options_come_by_their_own_names_with_the_papers_defaults() -> None:
    words = "some/model --triplets t.csv --anchors a.jsonl --output_dir out --alpha 0.3 --lora_r 4"
    more = "--judge oracle rules oracle --benign b/one.jsonl two=b/other.csv"
    options, config, model = parse_deepen([*words.split(), *more.split()])
    options.check()
    assert model.model_name_or_path == "some/model"
    assert (model.lora_r, model.use_peft) == (4, False)
    assert (config.alpha, config.safety_per_step, config.anchors_per_step) == (0.3, 16, 64)
    assert options.judges == ("oracle", "rules")
    assert options.benign_judges == ("rules",)
    assert options.benign_files == {"one": "b/one.jsonl", "two": "b/other.csv"}
    assert (options.depth_list, options.turn_depth_list) == ((0, 5, 10, 20, 40), (0, 5))


def test_a_yaml_file_holds_options_and_the_command_line_overrules_it(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "model_name_or_path: some/model\ntriplets: t.csv\nanchors: a.csv\noutput_dir: there\nmax_steps: 7\n"
        "benign: [one.jsonl, two.jsonl]\ndepths: 0,3\nrecovery: dynamic\ncontrol: true\n"
    )
    options, config, model = parse_deepen(["--config", str(file), "--max_steps", "9", "--output_dir", "here"])
    assert model.model_name_or_path == "some/model"
    assert (config.max_steps, config.output_dir, config.recovery) == (9, "here", "dynamic")
    assert (options.triplets, options.depth_list, options.control) == ("t.csv", (0, 3), True)
    assert list(options.benign_files) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("nonsense: 3\n", "nonsense"), ("max_steps: [\n", "cannot be used"), ("- a\n- b\n", "cannot be used")],
)
def test_a_yaml_file_that_cannot_be_used_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        parse_deepen(["some/model", "--output_dir", "out", "--config", str(file)])


def test_a_yaml_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        parse_deepen(["some/model", "--output_dir", "out", "--config", str(tmp_path / "absent.yaml")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["some/model", "--output_dir", "out", "--nonsense", "3"], r"--nonsense.*safedepth deepen --help"),
        (
            ["some/model", "--output_dir", "out", "--max_steps", "many"],
            r"max_steps.*invalid int value: 'many'",
        ),
        (["some/model", "--output_dir"], r"output_dir.*expected one argument"),
        (["some/model"], "--output_dir DIR"),
        (["--output_dir", "out"], "expected a model: safedepth deepen MODEL"),
        (["some/model", "--output_dir", "out", "--alpha", "1.5"], r"--alpha in 0\.\.1, found 1\.5"),
        (["some/model", "--output_dir", "out", "--recovery", "sudden"], "uniform, dynamic, adaptive"),
        (["some/model", "--output_dir", "out", "--packing", "True"], "--packing False, found True"),
        (["some/model", "--output_dir", "out", "--model_revision", "v2"], "--model_revision, found 'v2'"),
        (["some/model", "--output_dir", "out", "--trust_remote_code"], "is not run"),
        (["some/model", "--output_dir", "out", "--resume_from_checkpoint", "x"], "resumes by itself"),
    ],
)
def test_what_cannot_be_understood_is_said(words: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_deepen(words)


GIVEN: dict[str, Any] = {"triplets": "t.jsonl", "anchors": "a.jsonl"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"triplets": None}, "--triplets FILE"),
        ({"anchors": None}, "--anchors FILE"),
        ({"anchors": "self"}, "--anchor_prompts FILE with --anchors self"),
        ({"anchor_prompts": "p.jsonl"}, "--anchor_prompts FILE with --anchors self"),
        ({"depths": "0,two"}, "found '0,two'"),
        ({"depths": ""}, "found ''"),
        ({"depths": "-1,5"}, "numbers of 0 or more"),
        ({"turn_depths": "1.5"}, r"found '1\.5'"),
        ({"benign": ["a/same.jsonl", "b/same.csv"]}, "b/same.csv"),
        ({"benign": ["multi_turn=x.jsonl"]}, "names of their own"),
        ({"benign": ["=x.jsonl"]}, "names of their own"),
        ({"benign": ["x="]}, "names of their own"),
    ],
)
def test_options_that_contradict_one_another_are_refused_before_any_file_is_read(
    options: dict[str, Any], message: str
) -> None:
    DeepenOptions(**GIVEN).check()
    with pytest.raises(DataError, match=message):
        DeepenOptions(**(GIVEN | options)).check()
