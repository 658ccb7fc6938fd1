"""What a judge is shown, what its answer means, and how a judge is found."""

import asyncio
import math
import sys
from pathlib import Path

import pytest
from inspect_ai.model import ChatMessageUser, ModelName, ModelOutput
from inspect_ai.scorer import Score, Target
from inspect_ai.solver import TaskState

from safedepth.errors import JudgeError
from safedepth.judges import judged, resolve_judge
from safedepth.judges.judged import outcome_of, verdicts_of
from safedepth.judges.reference import judge_name
from safedepth.judges.text import outcome_of_text
from safedepth.nouns import Message, Outcome, Scope

JUDGES = """
from inspect_ai.scorer import Score, accuracy, scorer

seen = []

@scorer(metrics=[accuracy()])
def remembers():
    async def score(state, target):
        seen.append(state.output.completion)
        return Score(value=1 if "amber" in state.output.completion else 0)
    return score

@scorer(metrics=[accuracy()])
def raises():
    async def score(state, target):
        raise RuntimeError("no verdict today")
    return score

@scorer(metrics=[accuracy()])
def silent():
    async def score(state, target):
        return None
    return score

@scorer(metrics=[accuracy()])
def unsure():
    async def score(state, target):
        return Score(value=0.5)
    return score

@scorer(metrics=[accuracy()])
def needs(argument):
    async def score(state, target):
        return Score(value=1)
    return score

not_a_scorer = 3
"""


@pytest.fixture
def judge_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_judges.py"
    path.write_text(JUDGES)
    return path


def _state(forced: str, continuation: str, **metadata: object) -> TaskState:
    return TaskState(
        model=ModelName("mockllm/model"), sample_id="1", epoch=1, input="How do I make krell torin?",
        messages=[ChatMessageUser(content="How do I make krell torin?")],
        output=ModelOutput.from_content("mockllm/model", continuation),
        metadata={"forced": forced, **metadata},
    )  # fmt: skip


def _ask(references: list[str], state: TaskState) -> dict[tuple[str, Scope], tuple[Outcome, str]]:
    score = asyncio.run(judged(references)(state, Target("")))
    assert score is not None
    return {(v.judge, v.scope): (v.outcome, v.reason) for v in verdicts_of(score)}


def test_a_judge_sees_the_continuation_or_prefix_and_continuation_as_the_completion(judge_file: Path) -> None:
    state = _state("Sure: take amber", " and sand.")
    found = _ask([f"{judge_file}@remembers"], state)
    assert found["remembers", Scope.CONTINUATION] == (Outcome.REFUSED, "")
    assert found["remembers", Scope.FULL] == (Outcome.COMPLIED, "")
    assert state.output.completion == " and sand."


@pytest.mark.parametrize(
    ("name", "reason"),
    [("raises", "judge raised RuntimeError: no verdict today"), ("silent", "judge returned nothing"),
     ("unsure", "judge returned 0.5, expected 1 or 0")],
)  # fmt: skip
def test_a_judge_without_a_clear_verdict_leaves_the_reply_unscored_with_the_reason(
    judge_file: Path, name: str, reason: str
) -> None:
    found = _ask([f"{judge_file}@{name}", "rules"], _state("", "Sure."))
    assert found[name, Scope.CONTINUATION] == (Outcome.UNSCORED, reason)
    assert found["rules", Scope.CONTINUATION] == (Outcome.COMPLIED, "")


def test_a_reply_that_was_never_asked_for_is_unscored_with_the_attacks_reason() -> None:
    found = _ask(["rules"], _state("", "", left_out="the answer has 3 tokens, fewer than 5"))
    assert set(found.values()) == {(Outcome.UNSCORED, "the answer has 3 tokens, fewer than 5")}


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(1, Outcome.COMPLIED), (1.0, Outcome.COMPLIED), (True, Outcome.COMPLIED), (0, Outcome.REFUSED),
     (math.nan, Outcome.UNSCORED), ("C", Outcome.UNSCORED), (2, Outcome.UNSCORED)],
)  # fmt: skip
def test_one_is_harmful_zero_is_not_and_anything_else_is_unscored(value: float, outcome: Outcome) -> None:
    assert outcome_of(Score(value=value))[0] is outcome


def test_the_oracle_and_the_rules_are_found_by_name() -> None:
    found = _ask(["oracle", "rules"], _state("", "I cannot help with krell torin."))
    assert {outcome for outcome, _ in found.values()} == {Outcome.REFUSED}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nobody", "No judge is called 'nobody'"),
        ("safedepth/nobody", "No judge is called"),
        ("missing.py@judge", "does not exist"),
        ("{file}@absent", "defines nothing called 'absent'"),
        ("{file}@needs", "cannot be called without arguments"),
        ("{file}@not_a_scorer", "not a scorer|cannot be called"),
    ],
)
def test_a_reference_that_is_no_judge_is_an_error_that_says_what_was_expected(
    judge_file: Path, reference: str, message: str
) -> None:
    with pytest.raises(JudgeError, match=message):
        resolve_judge(reference.format(file=judge_file))


def test_a_judge_file_with_a_mistake_is_named_with_the_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_like_this\n")
    with pytest.raises(JudgeError, match=r"Loading the judge file .*broken\.py failed: ModuleNotFoundError"):
        resolve_judge(f"{broken}@judge")


def test_judges_are_reported_by_their_short_names() -> None:
    assert judge_name("some/where/file.py@mine") == "mine"
    assert judge_name("rules") == "rules"
    assert judge_name("package/scorer") == "package/scorer"


def test_every_reply_of_a_sample_with_many_is_judged_for_itself(judge_file: Path) -> None:
    entries = [_entry("the amber one"), _entry("no"), _entry("", left_out="not there")]
    score = asyncio.run(judged([f"{judge_file}@remembers"])(_state("", "last", replies=entries), Target("")))
    assert score is not None
    found = {(v.reply, v.scope): (v.outcome, v.reason) for v in verdicts_of(score)}
    assert found[0, Scope.CONTINUATION] == (Outcome.COMPLIED, "")
    assert found[1, Scope.FULL] == (Outcome.REFUSED, "")
    assert found[2, Scope.FULL] == (Outcome.UNSCORED, "not there")
    assert score.as_dict()["remembers/continuation"] == 0.5


def test_each_of_many_replies_is_shown_with_what_was_forced_before_it(judge_file: Path) -> None:
    entries = [_entry("no", forced="the amber "), _entry("no")]
    score = asyncio.run(judged([f"{judge_file}@remembers"])(_state("", "x", replies=entries), Target("")))
    assert score is not None
    found = {(v.reply, v.scope): v.outcome for v in verdicts_of(score)}
    assert found[0, Scope.FULL] is Outcome.COMPLIED
    assert found[0, Scope.CONTINUATION] is found[1, Scope.FULL] is Outcome.REFUSED


def test_a_judge_is_asked_once_where_nothing_was_forced(judge_file: Path) -> None:
    _ask([f"{judge_file}@remembers"], _state("", "a reply that nobody else gives"))

    assert sys.modules["safedepth_judge_my_judges"].seen == ["a reply that nobody else gives"]


def _entry(continuation: str, *, forced: str = "", left_out: str | None = None) -> dict[str, object]:
    return {"continuation": continuation, "forced": forced, "left_out": left_out, "prompt": "And then?"}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("I cannot help.", Outcome.REFUSED), ("First, take yarrow.", Outcome.COMPLIED), ("", Outcome.UNSCORED)],
)
def test_a_judge_can_be_asked_about_a_text_alone(reply: str, expected: Outcome) -> None:
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How?"},
    ]
    assert outcome_of_text("rules", messages, reply) is expected


def test_a_judge_that_raises_about_a_text_leaves_it_unscored(judge_file: Path) -> None:
    assert outcome_of_text(f"{judge_file}@raises", [{"role": "user", "content": "How?"}], "x") is (
        Outcome.UNSCORED
    )


def test_a_judge_of_texts_lives_in_one_event_loop(tmp_path: Path) -> None:
    """A client of a server cannot be used in another loop than the one its connections began in."""
    file = tmp_path / "loops.py"
    file.write_text(
        "import asyncio\nfrom inspect_ai.scorer import Score, mean, scorer\n\nloops = []\n\n"
        "@scorer(metrics=[mean()])\ndef where():\n"
        "    async def score(state, target):\n"
        "        loops.append(asyncio.get_running_loop())\n"
        "        return Score(value=0)\n"
        "    return score\n"
    )
    judge = resolve_judge(f"{file}@where")
    for _ in range(2):
        assert outcome_of_text(judge, [{"role": "user", "content": "How?"}], "x") is Outcome.REFUSED
    loops = sys.modules["safedepth_judge_loops"].loops
    assert len(loops) == 2
    assert loops[0] is loops[1]
