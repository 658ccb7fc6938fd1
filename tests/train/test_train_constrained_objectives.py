"""The other objectives, the defaults, and that TRL's trainer can be replaced by this one without more ado."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from safedepth.errors import DataError
from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.protect_options import OBJECTIVES
from tokenizer_zoo import word_tokenizer
from train.constrained_toys import (
    BETAS,
    CHAT,
    CLOSE,
    Sample,
    answer_of,
    as_prompts,
    exact,
    gradient_of,
    log_probs_of,
    move,
    protect,
    protect_config,
    sample_of,
    slow_step,
    toy_conversations,
)
from train.toys import Gradients, distance, random_llama, toy_triplets

TALKS = toy_conversations(12)
SAMPLES = [sample_of(talk) for talk in TALKS]
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def slow_nll(model: Any, samples: Sequence[Sample]) -> tuple[float, Any]:
    copied = exact(model)
    terms = [-log_p for sample in samples for log_p in log_probs_of(copied, sample).values()]
    loss = torch.stack(terms).mean()
    return loss.item(), gradient_of(copied, loss)


PLAIN: dict[str, Any] = {
    "max_steps": 4, "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
    "use_cpu": True, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "bf16": False,
    "dataloader_pin_memory": False, "activation_checkpointing": True,
}  # fmt: skip


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("options", [{}, {"packing": True, "max_length": 128}], ids=str)
def test_plain_fine_tuning_is_trls_to_the_last_bit(
    tmp_path: Path, adapter: bool, options: dict[str, Any]
) -> None:
    trainers = []
    for ours in (False, True):
        common = {**PLAIN, **options, "output_dir": str(tmp_path / str(ours))}
        args = (
            ConstrainedSFTConfig(**common, objective="sft", adam_beta1=0.9) if ours else SFTConfig(**common)
        )
        trainer = (ConstrainedSFTTrainer if ours else SFTTrainer)(
            random_llama(CHAT), args, train_dataset=as_prompts(TALKS), processing_class=word_tokenizer(),
            peft_config=LORA if adapter else None,
        )  # fmt: skip
        trainer.train()
        trainers.append(trainer)
    theirs, own = ([entry for entry in t.state.log_history if "grad_norm" in entry] for t in trainers)
    assert len(own) == 4
    assert own == theirs
    weights = [dict(t.model.state_dict()) for t in trainers]
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())
    start = random_llama(CHAT).state_dict()
    if not adapter:
        assert not torch.equal(weights[1]["lm_head.weight"], start["lm_head.weight"])


def test_plain_fine_tuning_asks_no_reference(tmp_path: Path) -> None:
    trainer = protect(protect_config(tmp_path, objective="sft"), random_llama(CHAT))
    assert "reference_log_probs" not in trainer.train_dataset.column_names
    assert not (tmp_path / "reference").exists()


def test_the_defaults_are_the_papers(tmp_path: Path) -> None:
    for objective in OBJECTIVES:
        config = ConstrainedSFTConfig(
            output_dir=str(tmp_path), use_cpu=True, objective=objective, safety_data="refusals.jsonl"
        )
        assert (config.adam_beta1, config.adam_beta2, config.learning_rate) == (0.5, 0.999, 2e-5)
        assert config.warmup_steps == (0 if objective == "sft" else 10)
        assert (config.beta, config.disable_dropout, config.diagnostics) == ("paper", True, True)
    assert ConstrainedSFTConfig(output_dir=str(tmp_path)).objective == "constrained"
    chosen = ConstrainedSFTConfig(output_dir=str(tmp_path), warmup_steps=0.1, adam_beta1=0.9)
    assert (chosen.warmup_steps, chosen.adam_beta1) == (0.1, 0.9)


def test_warm_up_is_linear_over_ten_steps_and_plain_fine_tuning_has_none(tmp_path: Path) -> None:
    for objective, rates in (("sft_warmup", [0.0, 0.1, 0.2, 0.3]), ("sft", [1.0, 0.95, 0.9, 0.85])):
        config = protect_config(
            tmp_path, objective=objective, warmup_steps=None, max_steps=20, learning_rate=1.0, optim="sgd"
        )
        trainer = protect(config, random_llama(CHAT))
        trainer.create_optimizer_and_scheduler(20)
        found = []
        for _ in range(4):
            found.append(trainer.lr_scheduler.get_last_lr()[0])
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        assert found == pytest.approx(rates)


@pytest.mark.parametrize("disable", [True, False])
def test_dropout_is_off_unless_it_is_wanted(tmp_path: Path, disable: bool) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")
    config = protect_config(tmp_path, disable_dropout=disable)
    trainer = protect(config, random_llama(CHAT, attention_dropout=0.5), peft_config=lora)
    off = [m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert (max(off) == 0) is disable
    model = trainer.model.train()
    torch.manual_seed(0)
    ids = torch.tensor([SAMPLES[4].ids])
    first, second = (model(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second) is disable


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("safety") / "safety.jsonl"
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in refused()))
    return str(path)


def refused() -> list[list[Any]]:
    return [[*triplet.messages, answer_of(triplet.refusal)] for triplet in toy_triplets(3)]


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.25, 3), (0.5, 6), (1.0, 12), (0.001, 1)])
def test_safety_examples_are_mixed_in_by_their_share(
    tmp_path: Path, refusals: str, share: float, count: int
) -> None:
    gradients = Gradients()
    config = protect_config(
        tmp_path, objective="safeinstr", safety_data=refusals, safety_share=share,
        per_device_train_batch_size=32,
    )  # fmt: skip
    trainer = protect(config, random_llama(CHAT), callbacks=[gradients])
    mixed = [*SAMPLES, *[sample_of(refused()[i % 3]) for i in range(count)]]
    assert [tuple(ids) for ids in trainer.train_dataset["input_ids"]] == [sample.ids for sample in mixed]
    loss, expected = slow_nll(random_llama(CHAT), mixed)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=CLOSE)
    assert distance(gradients.steps[0], expected) < CLOSE


@pytest.mark.parametrize("objective", ["sft", "sft_warmup", "safeinstr"])
def test_evaluation_is_on_the_data_given_alone(tmp_path: Path, refusals: str, objective: str) -> None:
    config = protect_config(tmp_path, objective=objective, safety_data=refusals, eval_strategy="steps")
    trainer = protect(config, random_llama(CHAT), eval_dataset=as_prompts(TALKS[:3]))
    loss, _ = slow_nll(random_llama(CHAT), SAMPLES[:3])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=CLOSE)


def test_a_configuration_of_trls_will_do(tmp_path: Path) -> None:
    gradients = Gradients()
    given = SFTConfig(
        output_dir=str(tmp_path), max_steps=1, learning_rate=3e-4, per_device_train_batch_size=12, bf16=False,
        report_to="none", disable_tqdm=True, use_cpu=True, logging_steps=1, max_grad_norm=0.0,
        dataloader_pin_memory=False, activation_checkpointing=False, adam_beta2=0.95, save_strategy="no",
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = ConstrainedSFTTrainer(
        random_llama(CHAT), given, train_dataset=as_prompts(TALKS), processing_class=word_tokenizer(),
        callbacks=[gradients],
    )  # fmt: skip
    args = trainer.args
    assert isinstance(args, ConstrainedSFTConfig)
    for name in ("learning_rate", "per_device_train_batch_size", "activation_checkpointing", "adam_beta2"):
        assert getattr(args, name) == getattr(given, name)
    assert args.lr_scheduler_type == "constant"
    # Where it leaves TRL's default, the paper's stands.
    assert (args.objective, args.adam_beta1, args.warmup_steps) == ("constrained", 0.5, 10)
    move(trainer.model)
    now = random_llama(CHAT)
    move(now)
    _, expected, _ = slow_step(now, random_llama(CHAT), SAMPLES, BETAS["paper"])
    trainer.train()
    assert distance(gradients.steps[0], expected) < CLOSE


def test_a_model_by_its_name_and_no_configuration_at_all_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random_llama(CHAT).save_pretrained("toy")
    word_tokenizer().save_pretrained("toy")
    trainer = ConstrainedSFTTrainer("toy", train_dataset=as_prompts(TALKS), peft_config=LORA)
    assert isinstance(trainer.args, ConstrainedSFTConfig)
    assert trainer.args.output_dir == "toy-constrained"
    assert len(trainer.train_dataset["reference_log_probs"]) == 12


def test_an_argument_that_would_replace_the_loss_is_refused(tmp_path: Path) -> None:
    for name in ("data_collator", "compute_loss_func"):
        with pytest.raises(DataError, match=f"expected no {name}: batches carry positions"):
            protect(protect_config(tmp_path), random_llama(CHAT), **{name: lambda *_: None})
    with pytest.raises(DataError, match="a ConstrainedSFTConfig or an SFTConfig, found dict"):
        ConstrainedSFTTrainer(random_llama(CHAT), {}, train_dataset=as_prompts(TALKS))


def test_half_precision_holds_nothing_back_at_the_first_step_either(tmp_path: Path) -> None:
    found = {}
    for half in (False, True):
        gradients = Gradients()
        config = protect_config(tmp_path / str(half), bf16=half, learning_rate=0.0)
        trainer = protect(config, random_llama(CHAT), callbacks=[gradients])
        trainer.train()
        found[half] = gradients.steps[0]
        assert trainer.state.log_history[0]["loss"] == pytest.approx(slow_first_loss(), rel=1e-3)
    assert distance(found[True], found[False]) < 0.05


def slow_first_loss() -> float:
    """2 log(2) / beta of every token: the loss where model and reference agree."""
    model = random_llama(CHAT)
    return slow_step(model, model, SAMPLES, BETAS["paper"])[0]
