"""Which attacks run, what each needs, and what it costs: errors for those named, reasons for the others."""

from dataclasses import replace
from typing import Any

import pytest

from safedepth.data import read_prompts
from safedepth.errors import DataError, ModelError
from safedepth.studies.attack_cost import Cost, cost_of
from safedepth.studies.attack_plan import ALL, ATTACKS, AttackOptions, Means, attack_task, plan_attacks
from safedepth.studies.audit import AuditConfig
from safedepth.studies.audit_replies import audit_tasks
from safedepth.studies.target import open_target
from safedepth.testbed import Testbed

EVERYTHING = Means(local=True, continues=True, thinks=True, harmful=True)
GIVEN: dict[str, Any] = {
    "trajectories": "t.jsonl",
    "attacker": "safedepth_attacker/toy",
    "suffixes": "s.jsonl",
}


def _left_out(options: AttackOptions, means: Means) -> set[str]:
    return {entry["what"].removeprefix("the attack ") for entry in plan_attacks(options, means).left_out}


def test_all_is_everything_that_there_are_means_for() -> None:
    plan = plan_attacks(AttackOptions(attacks=(ALL,), **GIVEN), EVERYTHING)
    assert plan.attacks == tuple(ATTACKS)
    assert plan.left_out == ()


@pytest.mark.parametrize(
    ("means", "lost"),
    [
        ({"thinks": False}, {"thinking"}),
        ({"harmful": False}, {"prefill", "rank_prefill", "insertion", "on_policy", "thinking"}),
        ({"continues": False}, {"prefill", "rank_prefill", "insertion", "on_policy", "thinking"}),
    ],
)
def test_what_there_are_no_means_for_is_left_out_with_the_reason(
    means: dict[str, Any], lost: set[str]
) -> None:
    assert _left_out(AttackOptions(attacks=(ALL,), **GIVEN), replace(EVERYTHING, **means)) == lost


def test_what_needs_files_or_models_is_left_out_without_them() -> None:
    served = replace(EVERYTHING, local=False)
    assert _left_out(AttackOptions(attacks=(ALL,)), served) == {"multi_turn", "escalation", "suffix"}
    assert _left_out(AttackOptions(attacks=(ALL,)), EVERYTHING) == {"multi_turn", "escalation"}


@pytest.mark.parametrize("name", ["thinking", "escalation", "multi_turn", "suffix"])
def test_an_attack_asked_for_by_name_that_cannot_run_is_an_error(name: str) -> None:
    bare = Means(local=False, continues=True, thinks=False, harmful=True)
    with pytest.raises(DataError, match=name):
        plan_attacks(AttackOptions(attacks=(name,)), bare)


def test_the_default_that_cannot_run_is_left_out_and_no_error() -> None:
    assert _left_out(AttackOptions(), replace(EVERYTHING, harmful=False)) == {"prefill"}


@pytest.mark.parametrize(
    "changes",
    [{"attacks": ("prefil",)}, {"attacks": ()}, {"turns": 0}, {"suffix_steps": 0}, {"settings": "heat=3"}],
)
def test_options_that_mean_nothing_are_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="expected"):
        AttackOptions(**changes)


def test_an_attacker_that_is_no_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="nobody/knows"):
        AttackOptions(attacker="nobody/knows").roles  # noqa: B018 - the property raises


def test_the_cost_counts_every_reply_of_every_sample(testbed: Testbed) -> None:
    prompts = str(testbed.prompts)
    common: dict[str, Any] = {"prompts": prompts, "judge": "oracle", "limit": 3, "max_tokens": 10}
    options = AttackOptions(settings="temperature=0.5,1;top_k=7", **GIVEN)
    todo = [
        attack_task(name, options, depths=(0, 5), **common) for name in ("prefill", "decoding", "escalation")
    ]
    cost = cost_of(todo, speed=100.0)
    assert (cost.replies, cost.tokens) == (3 * (2 + 3 + 4), 270)
    assert cost.seconds == 2.7
    assert "27 replies" in str(cost)


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "server"), (30.0, "30 s"), (600.0, "10 min"), (7200.0, "2.0 h")]
)
def test_a_cost_is_told_in_words(seconds: float | None, words: str) -> None:
    assert words in str(Cost(1, 1, seconds))


def test_an_audits_tasks_leave_room_for_what_is_forced(testbed: Testbed) -> None:
    config = AuditConfig(
        model=str(testbed.organism("aligned")), prompts=str(testbed.prompts), limit=2, device="cpu",
        attack=AttackOptions(
            attacks=("prefill", "insertion", "on_policy", "rank_prefill"), own_depths=(380,),
            benign=str(testbed.file("benign.jsonl")),
        ),
    )  # fmt: skip
    target = open_target(config.model, device="cpu")
    prompts = read_prompts(config.prompts, limit=2)
    plan = plan_attacks(config.attack, Means.of(target, prompts))
    rooms = {
        task.name: task.config.max_tokens
        for task in audit_tasks(config, target, prompts, plan, role="aligned")
    }
    assert target.loaded is not None
    longest = max(len(target.loaded.chat.prompt_ids(prompt.messages)) for prompt in prompts)
    assert rooms["safedepth/on_policy"] == 512 - longest - 380
    assert rooms["safedepth/insertion"] == 512 - longest - 120
    target.close()
