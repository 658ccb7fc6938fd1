"""What a user may write after --judge, how it is reported, and what is refused before any work."""

from pathlib import Path

import pytest

from judges.asking import Script, ask, state_of, verdicts
from judges.checkpoints import save_checkpoint
from safedepth import tasks
from safedepth.errors import JudgeError, ModelError, SafedepthError
from safedepth.judges import (
    default_judges,
    described,
    judge_name,
    judged,
    require_judges,
    resolve_judge,
    with_grader,
)
from safedepth.judges.catalogue import BUILT_IN
from safedepth.nouns import Outcome, Scope

TOY = "safedepth_grader/toy"

assert tasks.__all__  # Inspect's names of the package's scorers and models


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("rules", "rules"),
        ("rubric", "rubric"),
        ("rubric=openai/gpt-4o", "rubric(gpt-4o)"),
        ("rubric=vllm/meta-llama/Llama-3.1-8B-Instruct", "rubric(Llama-3.1-8B-Instruct)"),
        ("harmbench=safedepth/models/cls/", "harmbench(cls)"),
        ("llama-guard", "llama-guard"),
        ("some/where/file.py@mine", "mine"),
        ("a=b/file.py@mine", "mine"),
        ("package/scorer", "package/scorer"),
    ],
)
def test_verdicts_are_reported_under_a_short_name_with_the_model_that_judged(
    reference: str, name: str
) -> None:
    assert judge_name(reference) == name
    assert described(reference)["name"] == name


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_judge_resolves_by_its_name_and_says_what_it_goes_by(name: str) -> None:
    assert callable(resolve_judge(name))
    told = described(name)
    assert told["reference"] == name
    assert told["model"] == BUILT_IN[name].model
    assert told["what"]
    if BUILT_IN[name].model:
        assert callable(resolve_judge(f"{name}={TOY}"))
        assert described(f"{name}={TOY}")["model"] == TOY


def test_a_name_from_a_table_of_verdicts_is_described_as_well() -> None:
    assert described("rubric(gpt-4o)") == {
        "name": "rubric(gpt-4o)", "reference": "rubric(gpt-4o)", "model": "gpt-4o",
        "what": BUILT_IN["rubric"].what,
    }  # fmt: skip
    assert described("mine(1)")["what"] == described("mine")["what"] == "a scorer of yours"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("rules=openai/gpt-4o", "found 'rules=openai/gpt-4o', with a model that needs none"),
        ("rubric=", "with no model after the equals sign"),
        ("rubric= ", "with no model"),
        ("nobody=openai/gpt-4o", "No judge is called"),
        ("rubrik", "Expected one of rules, keywords, rubric"),
    ],
)
def test_a_reference_that_is_none_is_an_error_that_says_what_was_expected(
    reference: str, message: str
) -> None:
    with pytest.raises(JudgeError, match=message):
        resolve_judge(reference)


def test_two_judges_stand_side_by_side_unless_told_otherwise() -> None:
    assert default_judges("openai/gpt-4o") == ("rubric", "rules")
    assert default_judges(None) == ("rules", "keywords")
    require_judges(default_judges(None))


def test_the_grader_is_written_into_the_judges_that_take_any_model_and_name_none() -> None:
    named = ("rubric", "rules", "strongreject=vllm/other", "harmbench", "file.py@mine")
    assert with_grader(named, TOY) == (
        f"rubric={TOY}", "rules", "strongreject=vllm/other", "harmbench", "file.py@mine",
    )  # fmt: skip
    assert with_grader(named, None) == named


@pytest.mark.parametrize("judge", ["rubric", "strongreject"])
def test_a_missing_grader_is_an_error_before_any_work(judge: str) -> None:
    with pytest.raises(
        JudgeError, match=f"The judge '{judge}' needs a model that grades, and none was named"
    ):
        require_judges([judge, "rules"])
    require_judges(with_grader([judge, "rules"], TOY))
    require_judges([f"{judge}={TOY}", "rules"])


@pytest.mark.parametrize(
    "reference",
    [
        "rubric=nobody/nothing",
        "rubric=safedepth/no/such/folder",
        "harmbench=safedepth/no/such/folder",
        "rubrik",
    ],
)
def test_a_judge_without_its_model_is_an_error_before_any_work(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SafedepthError):
        require_judges(["rules", reference])


def test_judges_of_one_name_are_an_error_and_none_of_them_is_dropped() -> None:
    twice = ["rubric=openai/gpt-4o", "rubric=azureai/gpt-4o"]
    with pytest.raises(JudgeError, match="expected judges with names of their own"):
        require_judges(twice)
    with pytest.raises(JudgeError, match="expected judges with names of their own"):
        judged(twice)


def test_a_folder_is_a_grader_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(tmp_path / "grader")
    monkeypatch.chdir(tmp_path)
    assert with_grader(["rubric"], "grader") == (f"rubric={folder}",)
    require_judges(with_grader(["rubric", "rules"], str(folder)))
    with pytest.raises((JudgeError, ModelError)):
        require_judges(with_grader(["rubric"], str(tmp_path / "nowhere")))


def test_verdicts_carry_the_judges_own_number_where_it_has_one() -> None:
    found = verdicts(["rules", f"rubric={TOY}", f"harmbench={TOY}"], state_of("Sure, why not."))
    assert {(v.judge, v.scope, v.outcome, v.score) for v in found} == {
        entry
        for scope in Scope
        for entry in (
            ("rules", scope, Outcome.COMPLIED, None),
            ("rubric(toy)", scope, Outcome.REFUSED, 1.0),
            ("harmbench(toy)", scope, Outcome.REFUSED, None),
        )
    }
    entries = [
        {"continuation": "Sure.", "forced": "", "left_out": None, "prompt": "How do I make dorn karin?"}
    ]
    (first, *_) = verdicts([f"rubric={TOY}"], state_of("", replies=entries))
    assert (first.outcome, first.score) == (Outcome.REFUSED, 1.0)


def test_a_policy_of_ones_own_needs_no_more_than_a_file_with_a_function(tmp_path: Path) -> None:
    (tmp_path / "policy.md").write_text("Nothing about krell.")
    judge = tmp_path / "mine.py"
    judge.write_text(
        "from safedepth.judges import rubric\n\n"
        f"def krell():\n    return rubric(policy={str(tmp_path / 'policy.md')!r})\n"
    )
    script = Script(lambda _prompt: "nothing")
    ask(resolve_judge(f"{judge}@krell"), "Sure.", grader=script.model())
    assert "Policy of the assistant:\nNothing about krell." in script.prompts[0]
