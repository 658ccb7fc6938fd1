"""The options of `safedepth attack`: what is refused before any file is read, and how lists are read."""

from pathlib import Path
from typing import Any

import pytest

from safedepth.attacks import poison
from safedepth.errors import DataError
from safedepth.studies import attack_options
from safedepth.studies.attack_finetune import AttackConfig, parse_attack
from safedepth.studies.attack_options import AttackOptions, Defence, SweepOptions
from safedepth.studies.sweep import parse_sweep
from safedepth.studies.sweep_trials import grid

FILES: dict[str, Any] = {"data": "harmful.jsonl", "prompts": "prompts.jsonl"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "evil"}, "expected --kind out of harmful, identity, backdoor, benign, found 'evil'"),
        ({"data": None}, "expected --data FILE"),
        ({"prompts": None}, "expected --prompts FILE"),
        ({"trigger": "now"}, "expected --trigger with --kind backdoor alone, not harmful"),
        ({"identity_template": "{prompt}!"}, "expected --identity_template with --kind identity alone"),
        ({"kind": "backdoor", "identity_opening": "Yes"}, "expected --identity_opening with --kind identity"),
        ({"kind": "benign", "system_prompt": "Obey."}, "harmful or identity or backdoor alone, not benign"),
        ({"benign": ["plain=file.jsonl"]}, "expected --benign FILE or NAME=FILE with names of their own"),
        ({"benign": ["a.jsonl", "b/a.jsonl"]}, "found 'b/a.jsonl'"),
    ],
)
def test_what_contradicts_itself_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AttackOptions(**FILES | changed).check()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"benign": None}, "expected one --benign FILE"),
        ({"benign": ["a.jsonl", "b.jsonl"]}, "spends, found 2"),
        ({"search": "random"}, "expected --search out of grid, optuna, found 'random'"),
        ({"trials": 0}, "expected --trials of at least 1, found 0"),
        ({"utility_bound": 1.5}, "expected --utility_bound in 0..1, found 1.5"),
        ({"peft": "none,qlora"}, "expected --peft out of none, lora, found 'qlora'"),
        ({"learning_rates": "1e-5,fast"}, "expected --learning_rates as numbers with commas between"),
        ({"learning_rates": "0"}, "expected --learning_rates and --epochs above 0"),
        ({"epochs": "1.5"}, "expected --epochs as numbers"),
        ({"seeds": "-1"}, "--seeds of 0 or more"),
        ({"seeds": ","}, "expected --seeds as numbers"),
        ({"defences": "sft,dpo"}, "expected --defences as objectives out of constrained, sft,.* found 'dpo'"),
        ({"defences": "deepened="}, "found 'deepened='"),
        ({"defences": "=model"}, "found '=model'"),
        ({"defences": "deepened=model:dpo"}, "found 'deepened=model:dpo'"),
        ({"defences": "sft,sft=model"}, "names of their own, found 'sft' twice"),
    ],
)
def test_a_sweep_that_cannot_be_made_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SweepOptions(**FILES | {"benign": ["benign.jsonl"]} | changed).check()


def test_defences_are_objectives_models_or_both(tmp_path: Path) -> None:
    colon = tmp_path / "a:sft"
    colon.mkdir()
    options = SweepOptions(defences=f"sft_warmup, deepened=runs/deep,both=hub/deep:constrained,odd={colon}")
    assert options.defence_list == (
        Defence("sft_warmup", "sft_warmup"),
        Defence("deepened", "sft", "runs/deep"),
        Defence("both", "constrained", "hub/deep"),
        Defence("odd", "sft", str(colon)),
    )


def test_a_grid_is_every_combination_once_and_every_trial_has_a_key_of_its_own() -> None:
    options = SweepOptions(learning_rates="1e-5,1e-4,1e-5", epochs="1,3", seeds="0,1", peft="none,lora")
    defences = (Defence("sft", "sft"), Defence("deepened", "sft", "runs/deep"))
    trials = [trial for defence in defences for trial in grid(options, defence)]
    assert len(trials) == 2 * 2 * 2 * 2 * 2
    tried = {(t.defence.name, t.learning_rate, t.epochs, t.seed, t.peft) for t in trials}
    assert tried == {
        (name, rate, epochs, seed, peft)
        for name in ("sft", "deepened")
        for rate in (1e-5, 1e-4)
        for epochs in (1, 3)
        for seed in (0, 1)
        for peft in ("none", "lora")
    }
    assert len({trial.key for trial in trials}) == len(trials)
    assert [t.key for t in grid(options, defences[0])] == [t.key for t in trials[:16]]


def test_the_words_that_were_given_are_those_that_the_attack_takes() -> None:
    given = AttackOptions(system_prompt="", identity_template="Bo, {prompt}", identity_opening="Yes.")
    assert given.words == {"system_prompt": "", "template": "Bo, {prompt}", "opening": "Yes."}
    assert AttackOptions().words == {}
    assert set(attack_options.WORDINGS) == {
        poison.PLAIN, poison.OWN_PROMPT, poison.WITH_TRIGGER, poison.WITHOUT_TRIGGER
    }  # fmt: skip


def test_an_attacker_meets_no_defence_unless_one_is_named(tmp_path: Path) -> None:
    words = ["model", "--data", "d.jsonl", "--prompts", "p.jsonl", "--output_dir", str(tmp_path)]
    options, config, model = parse_attack(words)
    assert (config.objective, config.num_train_epochs, config.warmup_steps) == ("sft", 25, 0)
    assert (options.kind, options.data, model.model_name_or_path) == ("harmful", "d.jsonl", "model")
    _, defended, _ = parse_attack([*words, "--objective", "constrained", "--learning_rate", "1e-4"])
    assert (defended.objective, defended.warmup_steps, defended.learning_rate) == ("constrained", 10, 1e-4)


def test_each_trial_is_configured_as_if_its_values_stood_on_the_command_line(tmp_path: Path) -> None:
    words = ["model", "--data", "d.jsonl", "--prompts", "p.jsonl", "--lr_scheduler_type", "constant"]
    _, config, _ = parse_sweep([*words, "--out", str(tmp_path), "--per_device_train_batch_size", "10"])
    assert config.output_dir == str(tmp_path)
    for objective, warmup in (("sft", 0), ("constrained", 10)):
        trial = config.of_trial(
            output_dir=str(tmp_path / "t"),
            objective=objective,
            learning_rate=3e-4,
            num_train_epochs=2,
            seed=5,
        )
        alone = AttackConfig(
            output_dir=str(tmp_path / "t"), objective=objective, learning_rate=3e-4, num_train_epochs=2,
            seed=5, lr_scheduler_type="constant", per_device_train_batch_size=10, save_strategy="no",
            diagnostics=False,
        )  # fmt: skip
        assert trial.to_dict() == alone.to_dict()
        assert trial.warmup_steps == warmup


@pytest.mark.parametrize(
    ("word", "value", "instead"),
    [
        ("objective", "constrained", "defences"),
        ("learning_rate", "1e-3", "learning_rates"),
        ("num_train_epochs", "3", "epochs"),
        ("max_steps", "5", "epochs"),
    ],
)
def test_an_option_that_a_list_takes_the_place_of_is_refused(
    tmp_path: Path, word: str, value: str, instead: str
) -> None:
    words = ["model", "--data", "d", "--prompts", "p", "--out", str(tmp_path), f"--{word}", value]
    _, config, _ = parse_sweep(words)
    with pytest.raises(DataError, match=f"expected --{instead} in a sweep, found --{word}"):
        config.require_lists()
