"""What the constrained trainer refuses, with which words, and when it stops."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from transformers import TrainerCallback

from safedepth.errors import DataError, RunError
from safedepth.train.constrained_config import FIXED, ConstrainedSFTConfig
from train.constrained_toys import (
    CHAT,
    as_messages,
    as_prompts,
    as_tokens,
    long_conversation,
    protect,
    protect_config,
    sample_of,
    toy_conversations,
)
from train.toys import random_llama

TALKS = toy_conversations(12)
SAMPLES = [sample_of(talk) for talk in TALKS]
USER = {"role": "user", "content": "How do I make krell?"}


@pytest.mark.parametrize("name", FIXED)
def test_an_option_that_would_make_positions_or_the_loss_wrong_is_refused(tmp_path: Path, name: str) -> None:
    others: dict[str, Any] = {
        "loss_type": "dft", "label_smoothing_factor": 0.1, "packing_strategy": "wrapped",
        "truncation_mode": "keep_end",
    }  # fmt: skip
    with pytest.raises(DataError) as refusal:
        protect_config(tmp_path, **{name: others[name]})
    value, why = FIXED[name]
    assert str(refusal.value) == f"expected --{name} {value}, found {others[name]}: {why}"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"packing_strategy": "bfd_split"}, "expected --packing_strategy bfd"),
        ({"completion_only_loss": False}, "expected --completion_only_loss to be True or left out"),
        ({"objective": "dpo"}, "expected --objective out of constrained, sft, .*found 'dpo'"),
        ({"objective": "pact"}, "expected --safety_data FILE with --objective pact"),
        ({"objective": "safeinstr"}, "expected --safety_data FILE with --objective safeinstr"),
        ({"kl_weight": 0.0}, "expected --kl_weight above 0"),
        ({"kl_weight": float("nan")}, "expected --kl_weight above 0"),
        ({"safety_tokens": 0}, "--safety_tokens of at least 1"),
        ({"safety_share": 0.0}, "expected --safety_share in 0..1"),
        ({"safety_share": 1.5}, "expected --safety_share in 0..1"),
        ({"beta": "0"}, "betas above 0 and finite, found 0.0 at position 1"),
        ({"beta": "0.5,nan"}, "betas above 0 and finite, found nan at position 2"),
        ({"beta": "nothing.json"}, "a JSON list of betas in nothing.json"),
        ({"beta": "strong"}, "expected --beta as paper"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        protect_config(tmp_path, **options)


def test_zero_3_is_refused_where_a_reference_is_asked_before_the_training(tmp_path: Path) -> None:
    third, second = SimpleNamespace(zero_stage=3), SimpleNamespace(zero_stage=2)
    constrained = ConstrainedSFTConfig(output_dir=str(tmp_path))
    constrained.require_askable(None)
    constrained.require_askable(second)
    ConstrainedSFTConfig(output_dir=str(tmp_path), objective="sft").require_askable(third)
    with pytest.raises(DataError, match=r"ZeRO-3.*configs/fsdp2\.yaml"):
        constrained.require_askable(third)


def test_a_schedule_that_gives_no_betas_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    for betas in (lambda t: t - 5.0, lambda t: torch.ones(3), lambda t: torch.full(t.shape, torch.nan)):
        with pytest.raises(DataError, match="expected the schedule to give"):
            protect(protect_config(tmp_path), random_llama(CHAT), betas=betas)
    assert not (tmp_path / "reference").exists()


def as_inputs(*, labels: bool = True) -> Dataset:
    """Rows of token ids whose fifth has no response, or that have no labels at all."""
    rows = as_tokens(SAMPLES)
    if not labels:
        return rows.remove_columns("labels")
    none = [[-100] * len(row) if place == 4 else row for place, row in enumerate(rows["labels"])]
    return rows.remove_columns("labels").add_column("labels", none)


ROWS: dict[str, tuple[Any, str]] = {
    "no answer": (
        lambda: as_messages([*TALKS[:4], [USER]]), "answers of the assistant, with words, .* in row 5 of"
    ),
    "an empty answer": (
        lambda: as_messages([TALKS[0], [USER, {"role": "assistant", "content": " "}]]), "none in row 2 of"
    ),
    "an empty completion": (
        lambda: as_prompts([TALKS[0], [USER, {"role": "assistant", "content": ""}]]),
        "a completion with words in every row, found none in row 2 of the data",
    ),
    "labels on nothing": (as_inputs, "a response in every row of the train data, found none in row 5"),
    "no labels": (
        lambda: as_inputs(labels=False),
        r"a prompt before every response of the train data, found none in rows 1, 2, 3, 4, 5 and 7 more",
    ),
    "plain text": (
        lambda: Dataset.from_list([{"text": "How do I make krell? Sure"}] * 2),
        r"a prompt before every response of the train data, found none in rows 1, 2\. Give rows of messages",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_data_without_a_response_is_refused_with_its_rows(tmp_path: Path, name: str) -> None:
    rows, problem = ROWS[name]
    with pytest.raises(DataError, match=problem):
        protect(protect_config(tmp_path), random_llama(CHAT), rows())


@pytest.mark.parametrize("packing", [False, True])
def test_a_prompt_that_fills_the_length_is_refused_and_rows_are_counted_by_conversation(
    tmp_path: Path, packing: bool
) -> None:
    lengths = [sample_of(long_conversation()[:end]).positions.index(1) for end in (2, 4, 6)]
    rows = as_messages([*TALKS[:2], long_conversation(), TALKS[2]])
    config = protect_config(tmp_path, max_length=lengths[1], packing=packing)
    problem = rf"within {lengths[1]} tokens, found prompts as long as that in row 3 of the train data\. Raise"
    with pytest.raises(DataError, match=problem):
        protect(config, random_llama(CHAT), rows)
    # One token more, and there is room for the beginning of the second answer, not of the third.
    with pytest.raises(DataError, match=problem.replace(f"{lengths[1]}", f"{lengths[1] + 1}")):
        protect(protect_config(tmp_path, max_length=lengths[1] + 1), random_llama(CHAT), rows)


def test_responses_that_are_cut_are_warned_of_in_every_data_set(tmp_path: Path) -> None:
    config = protect_config(tmp_path, max_length=47)
    with pytest.warns(UserWarning, match="their end is not learnt") as warned:
        trainer = protect(config, random_llama(CHAT), eval_dataset={"more": as_messages(TALKS[4:5])})
    assert trainer.notes == [
        "2 of 12 responses of the train data are cut at 47 tokens (--max_length)",
        "1 of 1 responses of the more data are cut at 47 tokens (--max_length)",
    ]
    said = [str(one.message) for one in warned if issubclass(one.category, UserWarning)]
    assert said == [f"{note}: their end is not learnt." for note in trainer.notes]


def poisoned(column: list[list[float]], row: int) -> list[list[float]]:
    """The reference's numbers with one that is none."""
    return [
        [float("nan") if place == row and t == 2 else value for t, value in enumerate(values)]
        for place, values in enumerate(column)
    ]


@pytest.mark.parametrize("batch", [12, 4, 1])
def test_a_loss_that_is_no_number_stops_the_training_and_names_the_row(tmp_path: Path, batch: int) -> None:
    config = protect_config(
        tmp_path, per_device_train_batch_size=batch, max_steps=12, learning_rate=3e-4, num_train_epochs=1
    )
    talks = [TALKS[1], long_conversation(), *TALKS[2:9]]
    trainer = protect(config, random_llama(CHAT), as_messages(talks))
    column = trainer.train_dataset["reference_log_probs"][:]
    rows = trainer.train_dataset.remove_columns("reference_log_probs")
    # The eighth answer is that of the sixth conversation.
    trainer.train_dataset = rows.add_column("reference_log_probs", poisoned(column, 7))
    with pytest.raises(
        RunError, match=r"diverged at step \d+: the loss is no finite number in row 6 of the data"
    ):
        trainer.train()


@pytest.mark.parametrize("options", [{"padding_free": True, "max_length": None}, {"packing": True}], ids=str)
def test_without_padding_the_row_is_named_by_what_it_says(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = protect(protect_config(tmp_path, **options), random_llama(CHAT), as_messages(TALKS[1:5]))
    column = trainer.train_dataset["reference_log_probs"][:]
    rows = trainer.train_dataset.remove_columns("reference_log_probs")
    trainer.train_dataset = rows.add_column("reference_log_probs", poisoned(column, 0))
    # From the beginning of its own sequence to the token that it is about.
    reads = r"in a row that reads \.\.\.'<\|im_start\|> user How do I make [^.]* assistant \w+ \S+ \S+' of"
    with pytest.raises(RunError, match=reads):
        trainer.train()


class Break(TrainerCallback):
    """Makes a weight no number, once, as a training that diverges does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == 2:
            weight: Tensor = others["model"].get_output_embeddings().weight
            weight.data[5] = torch.nan


@pytest.mark.parametrize("objective", ["constrained", "sft", "kl"])
def test_a_model_that_diverges_stops_the_training_at_that_step(tmp_path: Path, objective: str) -> None:
    config = protect_config(
        tmp_path, objective=objective, max_steps=5, per_device_train_batch_size=4, learning_rate=3e-4,
        diagnostics=True,
    )  # fmt: skip
    trainer = protect(config, random_llama(CHAT), callbacks=[Break()])
    with pytest.raises(RunError) as failure:
        trainer.train()
    assert "diverged at step 3: the loss is no finite number in row " in str(failure.value)
    assert "Lower --learning_rate (now 0.0003) or clip gradients (--max_grad_norm 1, now 0)" in str(
        failure.value
    )
    assert trainer.state.global_step == 2


def test_a_row_of_a_stream_is_named_by_what_it_says(tmp_path: Path) -> None:
    stream = as_prompts(TALKS).to_iterable_dataset()
    config = protect_config(tmp_path, objective="sft", max_steps=4, per_device_train_batch_size=4)
    trainer = protect(config, random_llama(CHAT), stream, callbacks=[Break()])
    with pytest.raises(RunError, match=r"step 3: .* in a row that reads \.\.\.'<\|im_start\|> user How do I"):
        trainer.train()


def test_the_configuration_says_what_each_option_does() -> None:
    from dataclasses import fields

    own = {"objective", "beta", "reference", "reference_cache", "precompute_reference", "kl_weight"}
    helps = {field.name: field.metadata.get("help") for field in fields(ConstrainedSFTConfig)}
    assert all(helps[name] for name in own)
