"""The configuration: how a step is cut into batches, and which options are refused with which words."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from safedepth.errors import DataError
from safedepth.train.config import FIXED, RecoveryConfig
from safedepth.train.options import Mix, RecoveryOptions
from safedepth.train.recovery import AdaptiveRecovery, points_of
from train.toys import toy_config


def test_the_defaults_are_the_papers(tmp_path: Path) -> None:
    config = RecoveryConfig(output_dir=str(tmp_path), use_cpu=True)
    assert (config.alpha, config.mix) == (0.2, Mix(16, 64))
    assert (config.recovery, config.prefix_probability, config.longest_prefix) == ("uniform", 0.5, 100)
    assert config.learning_rate == 2e-5
    assert (config.adam_beta1, config.adam_beta2, config.warmup_steps) == (0.9, 0.999, 0)
    # 256 triplets, 16 a step, 10 epochs: 160 updates.
    assert config.steps(256) == 160


def test_steps_follow_from_epochs_unless_their_number_is_given(tmp_path: Path) -> None:
    epochs = {(10.0, 256): 160, (10.0, 250): 160, (1.0, 17): 2, (0.5, 64): 2, (0.01, 16): 1}
    for (passes, triplets), steps in epochs.items():
        config = RecoveryConfig(output_dir=str(tmp_path), use_cpu=True, num_train_epochs=passes)
        assert config.steps(triplets) == steps
    assert toy_config(tmp_path, max_steps=7).steps(256) == 7


@pytest.mark.parametrize("asked", [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 100])
def test_a_step_is_cut_into_the_largest_equal_batches_that_are_not_larger_than_asked_for(
    tmp_path: Path, asked: int
) -> None:
    config = toy_config(tmp_path, per_device_train_batch_size=asked)
    batch, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    assert batch * accumulation == 10
    assert batch == max(divisor for divisor in (1, 2, 5, 10) if divisor <= asked)


def test_an_accumulation_that_fits_is_kept_and_another_is_refused(tmp_path: Path) -> None:
    config = toy_config(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=5)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (2, 5)
    with pytest.raises(DataError, match=r"to be 10, .* found 2 times 4\. Leave the accumulation out"):
        toy_config(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)


@pytest.mark.parametrize("name", FIXED)
def test_an_option_that_would_change_what_a_step_is_is_refused_with_its_reason(
    tmp_path: Path, name: str
) -> None:
    others: dict[str, Any] = {
        "train_sampling_strategy": "random", "loss_type": "dft", "label_smoothing_factor": 0.1,
        "eval_strategy": "steps",
    }  # fmt: skip
    asked = others.get(name, True)
    value, why = FIXED[name]
    with pytest.raises(DataError, match=f"expected --{name} {value}, found {asked}: {why}"):
        toy_config(tmp_path, **{name: asked})
    assert getattr(toy_config(tmp_path, **{name: value}), name) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.1}, r"--alpha in 0\.\.1, found 1\.1"),
        ({"alpha": -0.1}, r"--alpha in 0\.\.1, found -0\.1"),
        ({"recovery": "rude"}, "--recovery out of uniform, dynamic, adaptive, found 'rude'"),
        ({"refusal_style": "rude"}, "--refusal_style out of given, full, escalating, found 'rude'"),
        ({"estimate_every": 0}, "--estimate_every of at least 1, found 0"),
        (
            {"recovery": "adaptive", "dataloader_num_workers": 2},
            "--dataloader_num_workers 0: --recovery adaptive",
        ),
        ({"safety_per_step": 0}, "at least one safety example"),
        ({"prefix_probability": 2.0}, r"probability in 0\.\.1, found 2\.0"),
        ({"longest_prefix": 0}, "at least one token, found 0"),
        ({"recovery": "dynamic", "most_points": 0}, "at least one recovery point an answer, found 0"),
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size of at least 1, found 0"),
        ({"accelerator_config": {"split_batches": True}}, "every process makes its own share of a step"),
        ({"accelerator_config": {"dispatch_batches": True}}, "every process makes its own share of a step"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_numbers_that_contradict_one_another_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        toy_config(tmp_path, **options)


def test_options_name_the_policy(tmp_path: Path) -> None:
    def drawn(**options: Any) -> set[tuple[int, ...]]:
        import random

        policy = toy_config(tmp_path, **options).policy()
        assert not isinstance(policy, AdaptiveRecovery)
        return {points_of(policy, random.Random(seed), 9) for seed in range(300)}

    assert drawn(prefix_probability=1.0, longest_prefix=3) == {(1,), (2,), (3,)}
    assert drawn(recovery="dynamic", longest_prefix=1, most_points=2) == {(0,), (1,), (0, 1)}
    adaptive = toy_config(tmp_path, recovery="adaptive", longest_prefix=7).policy()
    assert isinstance(adaptive, AdaptiveRecovery)
    assert adaptive.longest == 7


def test_every_option_of_ours_says_what_it_does() -> None:
    helps = {option.name: option.metadata["help"] for option in fields(RecoveryOptions)}
    assert len(helps) == 9
    assert all(text.endswith((".", ").")) for text in helps.values())
