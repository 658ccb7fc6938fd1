"""A step of the constrained trainer against the equations: loss and gradient, however the step is cut."""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.diagnostics import read_diagnostics
from tokenizer_zoo import CHATML, word_tokenizer
from train.constrained_toys import (
    BETAS,
    CHAT,
    CLOSE,
    Beta,
    Sample,
    Term,
    adapted,
    as_messages,
    as_prompts,
    as_text,
    as_tokens,
    long_conversation,
    move,
    protect,
    protect_config,
    sample_of,
    slow_step,
    text_sample,
    toy_conversations,
)
from train.toys import Gradient, Gradients, distance, random_llama

TALKS = toy_conversations(12)
SAMPLES = tuple(sample_of(talk) for talk in TALKS)
FLAT = {"padding_free": True, "max_length": None}
PACKED = {"packing": True, "max_length": 128}
MODELS: dict[str, Callable[[], Any]] = {
    "untied": lambda: random_llama(CHAT),
    "tied": lambda: random_llama(CHAT, tie_word_embeddings=True),
    "adapter": adapted,
}


@cache
def oracle(
    model: str, moved: float, samples: Sequence[Sample], beta: Beta
) -> tuple[float, Gradient, list[Term]]:
    """What a step is when the model has moved away from the reference, which it was."""
    own = MODELS[model]()
    reference = copy.deepcopy(own)
    move(own, by=moved)
    return slow_step(own, reference, samples, beta)


def one_step(
    folder: Path,
    *,
    model: str = "untied",
    dataset: Any = None,
    samples: Sequence[Sample] = SAMPLES,
    beta: Beta = BETAS["paper"],
    moved: float = 0.1,
    options: dict[str, Any] | None = None,
    **others: Any,
) -> tuple[ConstrainedSFTTrainer, list[Term]]:
    """A step whose loss and gradient are compared with the oracle's, the model having moved away before."""
    gradients = Gradients()
    config = protect_config(folder, **options or {})
    trainer = protect(config, MODELS[model](), dataset, callbacks=[gradients], **others)
    move(trainer.model, by=moved)
    loss, expected, terms = oracle(model, moved, tuple(samples), beta)
    trainer.train()
    (found,) = gradients.steps
    assert distance(found, expected) < CLOSE
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=CLOSE)
    return trainer, terms


@pytest.mark.parametrize(
    ("model", "beta"),
    [*(("untied", beta) for beta in BETAS), ("tied", "paper"), ("adapter", "paper"), ("adapter", "30")],
)
def test_loss_and_gradient_are_the_equations_for_every_beta(tmp_path: Path, model: str, beta: str) -> None:
    _, terms = one_step(tmp_path, model=model, beta=BETAS[beta], options={"beta": beta})
    # The model has gone far enough that the constraint does something.
    assert max(abs(term.weight - 1) for term in terms) > (0.003 if beta == "0.01" else 0.3)


def test_a_users_function_of_positions_is_a_schedule_too(tmp_path: Path) -> None:
    def betas(positions: Tensor) -> Tensor:
        return 3 / positions.clamp(min=1) + 0.05

    one_step(tmp_path, beta=lambda t: 3 / t + 0.05, betas=betas)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("untied", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 12}),
        ("untied", {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}),
        ("adapter", {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}),
        ("untied", {"pad_to_multiple_of": 64, "per_device_eval_batch_size": 1}),
        ("untied", {"activation_checkpointing": False}),
        ("adapter", {"activation_checkpointing": False}),
        ("untied", {"gradient_checkpointing": False, "dataloader_num_workers": 1}),
        ("untied", {**FLAT, "pad_to_multiple_of": 64}),
        ("tied", {**FLAT, "per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}),
        ("adapter", {**FLAT, "activation_checkpointing": False}),
        ("untied", {**PACKED, "shuffle_dataset": True, "pad_to_multiple_of": 64}),
        ("untied", {**PACKED, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}),
        ("adapter", PACKED),
    ],
    ids=str,
)
def test_the_step_is_the_equations_however_it_is_cut_and_padded(
    tmp_path: Path, model: str, options: dict[str, Any]
) -> None:
    one_step(tmp_path, model=model, options=options)


@pytest.mark.parametrize("packing", [False, True])
def test_the_step_is_the_equations_where_responses_are_cut(tmp_path: Path, packing: bool) -> None:
    cut = [Sample(one.ids[:40], one.positions[:40]) for one in SAMPLES]
    with pytest.warns(UserWarning, match="4 of 12 responses of the train data are cut at 40 tokens"):
        trainer, _ = one_step(tmp_path, samples=cut, options={"max_length": 40, "packing": packing})
    assert trainer.notes == ["4 of 12 responses of the train data are cut at 40 tokens (--max_length)"]


TURNS = [*TALKS[:4], long_conversation()]
ANSWERS = [*SAMPLES[:4], *(sample_of(long_conversation()[:end]) for end in (2, 4, 6))]


@pytest.mark.parametrize(
    ("dataset", "samples"),
    [
        (as_messages(TURNS), ANSWERS),
        (as_prompts(TURNS), [*SAMPLES[:4], ANSWERS[-1]]),
        (as_text(TALKS), [text_sample(talk) for talk in TALKS]),
        (as_tokens(SAMPLES), SAMPLES),
    ],
    ids=["messages", "prompt and completion", "text", "tokens"],
)
def test_rows_of_every_layout_are_learnt_from_their_answers_first_token_on(
    tmp_path: Path, dataset: Any, samples: Sequence[Sample]
) -> None:
    trainer, terms = one_step(tmp_path, dataset=dataset, samples=samples)
    assert len(trainer.train_dataset) == len(samples)
    assert [term.position for term in terms].count(1) == len(samples)


MARKED = CHATML.replace(
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ m.content + '<|im_end|>\n' }}{% endif %}",
)


@pytest.mark.parametrize("options", [{}, PACKED, FLAT], ids=str)
def test_positions_begin_anew_with_every_turn_of_a_row(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = sample_of(long_conversation())
    positions = [0] * len(whole.ids)
    for one in ANSWERS[-3:]:
        for place, position in enumerate(one.positions):
            positions[place] = position or positions[place]
    samples = [*SAMPLES[:4], Sample(whole.ids, tuple(positions))]
    _, terms = one_step(
        tmp_path, dataset=as_messages(TURNS), samples=samples,
        options={"assistant_only_loss": True, **options}, processing_class=word_tokenizer(MARKED),
    )  # fmt: skip
    assert [term.position for term in terms].count(1) == 7


@pytest.mark.parametrize("model", MODELS)
def test_at_the_first_step_nothing_is_held_back(tmp_path: Path, model: str) -> None:
    # Every token weighs 1, so the gradient is that of plain fine-tuning.
    _, terms = one_step(tmp_path, model=model, moved=0, options={"diagnostics": True, "learning_rate": 0.0})
    assert [term.weight for term in terms] == pytest.approx([1] * len(terms), abs=1e-12)
    rows = read_diagnostics(tmp_path / "diagnostics.jsonl")
    assert sum(row["n"] for row in rows) == len(terms)
    for row in rows:
        assert row["weight"] == pytest.approx(1, abs=1e-5)
        assert row["advantage"] == pytest.approx(0, abs=1e-5)
        assert row["kl"] == pytest.approx(0, abs=1e-6)


def test_another_model_may_be_the_reference(tmp_path: Path) -> None:
    model, other, gradients = random_llama(CHAT), random_llama(CHAT, seed=1), Gradients()
    loss, expected, terms = slow_step(model, other, SAMPLES, BETAS["paper"])
    assert max(abs(term.weight - 1) for term in terms) > 0.9
    trainer = protect(protect_config(tmp_path), model, reference=other, callbacks=[gradients])
    trainer.train()
    assert distance(gradients.steps[0], expected) < CLOSE
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=CLOSE)
