"""Where the trainer has its reference from: itself before its first step, a file, a model; or nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor

from safedepth.errors import ModelError, RunError
from tokenizer_zoo import TEMPLATES, byte_tokenizer, word_tokenizer
from train.constrained_toys import (
    BETAS,
    CHAT,
    CLOSE,
    adapted,
    as_messages,
    as_prompts,
    long_conversation,
    move,
    protect,
    protect_config,
    sample_of,
    slow_step,
    toy_conversations,
)
from train.toys import Gradients, distance, random_llama

TALKS = toy_conversations(12)
SAMPLES = [sample_of(talk) for talk in TALKS]


@contextmanager
def rows_read(model: Any) -> Iterator[list[int]]:
    """How many rows a model reads meanwhile, forward by forward."""
    counts: list[int] = []

    def note(_module: Any, arguments: tuple[Tensor, ...], _output: Any) -> None:
        counts.append(len(arguments[0]))

    handle = model.get_input_embeddings().register_forward_hook(note)
    yield counts
    handle.remove()


def column(trainer: Any) -> list[list[float]]:
    return cast("list[list[float]]", trainer.train_dataset["reference_log_probs"][:])


def test_the_reference_is_asked_once_and_a_second_trainer_reads_what_was_kept(tmp_path: Path) -> None:
    asked, trainers = [], []
    for run in range(2):
        model = random_llama(CHAT)
        config = protect_config(tmp_path / str(run), reference_cache=str(tmp_path / "kept"))
        with rows_read(model) as counts:
            trainers.append(protect(config, model))
        asked.append(sum(counts))
    assert asked == [12, 4]  # four rows are asked anew, to make sure
    assert column(trainers[0]) == column(trainers[1])
    assert len(list((tmp_path / "kept").iterdir())) == 1
    with rows_read(trainers[1].model) as counts:
        trainers[1].train()
    assert sum(counts) == 12  # a step reads its own rows, and nobody else is asked


def test_a_training_that_has_moved_the_model_still_has_the_first_one_as_its_reference(tmp_path: Path) -> None:
    config = protect_config(tmp_path, max_steps=3, learning_rate=1e-2)
    trainer = protect(config, random_llama(CHAT))
    before = column(trainer)
    trainer.train()
    assert column(trainer) == before == column(protect(config, random_llama(CHAT)))
    assert len(list((tmp_path / "reference").iterdir())) == 1


@pytest.mark.parametrize("what", ["model", "template", "data"])
def test_another_model_template_or_data_has_a_file_of_its_own(tmp_path: Path, what: str) -> None:
    config = protect_config(tmp_path)
    first = protect(config, random_llama(CHAT))
    others: dict[str, Any] = {}
    if what == "template":
        others["processing_class"] = word_tokenizer(TEMPLATES["plain"])
    if what == "data":
        others["dataset"] = as_messages([*TALKS[:11], TALKS[0]])
    second = protect(config, random_llama(CHAT, seed=int(what == "model")), **others)
    assert len(list((tmp_path / "reference").iterdir())) == 2
    assert column(first) != column(second)


def test_a_file_of_other_data_under_this_name_is_an_error(tmp_path: Path) -> None:
    for name, talks in (("one", TALKS), ("two", TALKS[:6])):
        protect(
            protect_config(tmp_path, reference_cache=str(tmp_path / name)),
            random_llama(CHAT),
            as_messages(talks),
        )
    (own,), (other,) = (list((tmp_path / name).iterdir()) for name in ("one", "two"))
    other.rename(own)
    with pytest.raises(RunError, match=r"of these 12 rows, found those of another .* Delete it"):
        protect(protect_config(tmp_path, reference_cache=str(tmp_path / "one")), random_llama(CHAT))


def saved(folder: Path, *, seed: int = 1, template: str | None = None, **options: Any) -> str:
    """A model on the disk with its tokenizer."""
    random_llama(CHAT, seed=seed, **options).save_pretrained(folder)
    (word_tokenizer(template) if template else word_tokenizer()).save_pretrained(folder)
    return str(folder)


def test_a_reference_that_is_named_is_loaded_and_asked(tmp_path: Path) -> None:
    name = saved(tmp_path / "other")
    by_name = protect(protect_config(tmp_path / "a", reference=name), random_llama(CHAT))
    loaded = protect(protect_config(tmp_path / "b"), random_llama(CHAT), reference=random_llama(CHAT, seed=1))
    path = protect(protect_config(tmp_path / "c"), random_llama(CHAT), reference=name)
    adapter = protect(protect_config(tmp_path / "d"), random_llama(CHAT), reference=adapted(seed=1))
    assert column(by_name) == column(loaded) == column(path) == column(adapter)
    assert column(by_name) != column(protect(protect_config(tmp_path / "e"), random_llama(CHAT)))


def other_vocabulary(folder: Path) -> str:
    saved(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("precompute", [True, False])
def test_a_reference_that_speaks_another_language_is_refused(tmp_path: Path, precompute: bool) -> None:
    config: Any = lambda name: protect_config(  # noqa: E731
        tmp_path / "out", reference=name, precompute_reference=precompute
    )
    with pytest.raises(ModelError, match="to have the model's tokenizer, found another vocabulary"):
        protect(config(other_vocabulary(tmp_path / "tokenizer")), random_llama(CHAT))
    with pytest.raises(ModelError, match="to have the model's chat template, found another"):
        protect(config(saved(tmp_path / "template", template=TEMPLATES["plain"])), random_llama(CHAT))
    with pytest.raises(ModelError, match=r"over the model's \d+ tokens, found one over 200"):
        protect(config(saved(tmp_path / "larger", vocab_size=200)), random_llama(CHAT))
    with pytest.raises(ModelError):
        protect(config(str(tmp_path / "nowhere")), random_llama(CHAT))


def test_a_stream_is_refused_where_the_reference_must_be_asked_ahead(tmp_path: Path) -> None:
    stream = as_prompts(TALKS).to_iterable_dataset()
    with pytest.raises(ModelError, match=r"found a stream: without the reference's log-probabilities there"):
        protect(protect_config(tmp_path), random_llama(CHAT), stream)


@pytest.mark.parametrize("layout", ["prompts", "messages"])
def test_a_stream_is_learnt_under_the_constraint_with_an_adapter(tmp_path: Path, layout: str) -> None:
    stream = (as_prompts(TALKS) if layout == "prompts" else as_messages(TALKS)).to_iterable_dataset()
    gradients = Gradients()
    config = protect_config(tmp_path, precompute_reference=False, diagnostics=True)
    trainer = protect(config, adapted(), stream, callbacks=[gradients])
    move(trainer.model)
    own, reference = adapted(), adapted()
    move(own)
    _, expected, _ = slow_step(own, reference, SAMPLES, BETAS["paper"])
    trainer.train()
    assert distance(gradients.steps[0], expected) < CLOSE
    assert trainer.probe is None


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("options", [{}, {"padding_free": True, "max_length": None}], ids=str)
def test_a_reference_that_is_asked_at_every_step_is_the_one_that_was_asked_ahead(
    tmp_path: Path, options: dict[str, Any], other: bool
) -> None:
    found = []
    for stored in (True, False):
        gradients = Gradients()
        config = protect_config(
            tmp_path, precompute_reference=stored, max_steps=2, per_device_train_batch_size=6,
            learning_rate=1e-2, diagnostics=True, **options,
        )  # fmt: skip
        reference = random_llama(CHAT, seed=1) if other else None
        trainer = protect(config, adapted(), reference=reference, callbacks=[gradients])
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found.append((gradients.steps, losses, "reference_log_probs" in trainer.train_dataset.column_names))
    assert [had for *_, had in found] == [True, False]
    assert found[0][1] == pytest.approx(found[1][1], rel=CLOSE)
    for one, two in zip(found[0][0], found[1][0], strict=True):
        assert distance(one, two) < CLOSE


def test_a_model_without_an_adapter_cannot_be_its_own_reference_while_it_learns(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="refusing to train without a reference"):
        protect(protect_config(tmp_path, precompute_reference=False), random_llama(CHAT))


@pytest.mark.parametrize("objective", ["constrained", "kl"])
def test_an_adapter_that_changes_the_model_already_cannot_be_taken_off_to_find_the_reference(
    tmp_path: Path, objective: str
) -> None:
    options: dict[str, Any] = {"objective": objective, "precompute_reference": False}
    with pytest.raises(ModelError, match="an adapter that changes nothing before the first step"):
        protect(protect_config(tmp_path, **options), adapted(random=True))
    # PiSSA takes its part out of the weights below: without the adapter they are another model.
    model = random_llama(CHAT)
    pissa = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match="an adapter that changes nothing before the first step"):
        protect(protect_config(tmp_path, **options), get_peft_model(model, pissa))
    protect(protect_config(tmp_path, **options), adapted(random=True), reference=random_llama(CHAT))


def test_a_trained_adapter_is_part_of_the_reference_that_is_asked_ahead(tmp_path: Path) -> None:
    # The model before its first step is the model with what it has learnt so far.
    gradients = Gradients()
    trainer = protect(protect_config(tmp_path), adapted(random=True), callbacks=[gradients])
    trainer.train()
    own = adapted(random=True)
    _, expected, terms = slow_step(own, own, SAMPLES, BETAS["paper"])
    assert {round(term.weight, 12) for term in terms} == {1.0}
    assert distance(gradients.steps[0], expected) < CLOSE


def test_prompt_learning_is_refused(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ModelError, match="adapters that change weights"):
        protect(protect_config(tmp_path), get_peft_model(random_llama(CHAT), config))


def test_data_that_the_reference_was_not_asked_about_is_refused_later(tmp_path: Path) -> None:
    trainer = protect(protect_config(tmp_path, eval_strategy="no"), random_llama(CHAT))
    with pytest.raises(ModelError, match="this data has no log-probabilities of the reference"):
        trainer.evaluate(as_prompts(TALKS[:4]))


def test_every_data_set_for_evaluation_is_asked_about(tmp_path: Path) -> None:
    sets = {"short": as_messages(TALKS[:5]), "long": as_messages([long_conversation()])}
    model = random_llama(CHAT)
    config = protect_config(tmp_path, eval_strategy="steps", eval_steps=1)
    trainer = protect(config, model, eval_dataset=sets)
    assert {name: len(rows["reference_log_probs"]) for name, rows in trainer.eval_dataset.items()} == {
        "short": 5, "long": 3
    }  # fmt: skip
    move(trainer.model)
    now = random_llama(CHAT)
    move(now)
    found = trainer.evaluate()
    for name, samples in (
        ("short", SAMPLES[:5]),
        ("long", [sample_of(long_conversation()[:end]) for end in (2, 4, 6)]),
    ):
        loss, *_ = slow_step(now, random_llama(CHAT), samples, BETAS["paper"])
        assert found[f"eval_{name}_loss"] == pytest.approx(loss, rel=CLOSE)
        again = trainer.evaluate(trainer.eval_dataset[name])
        assert again["eval_loss"] == pytest.approx(loss, rel=CLOSE)
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[-2]["eval_long_loss"]))
