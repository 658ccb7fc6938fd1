"""A step of the trainer against the formula: gradient and losses, however the step is cut and padded."""

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from safedepth.train.recovery import dynamic
from train.toys import (
    Gradients,
    distance,
    random_llama,
    slow_step,
    toy_chat,
    toy_config,
    toy_draws,
    toy_trainer,
    toy_triplets,
)

CHAT = toy_chat()
CLOSE = 1e-5
"""How far a float32 gradient may be from the float64 one, as a share of its norm (found: 1.1e-6)."""


def one_step(
    folder: Path, *, model: PreTrainedModel | None = None, **options: Any
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """The distance of a step's gradient from the oracle's, what was logged, and the oracle's losses."""
    config = toy_config(folder, max_grad_norm=0.0, **options)
    draws = toy_draws(config, recovery=dynamic(probability=0.8, longest=20))
    model = model or random_llama(CHAT)
    safety, anchor, expected = slow_step(model, draws, 0, config.alpha)
    gradients = Gradients()
    trainer = toy_trainer(config, model, draws, callbacks=[gradients])
    trainer.train()
    (found,) = gradients.steps
    return distance(found, expected), trainer.state.log_history[0], {"safety": safety, "anchor": anchor}


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 10, 64])
def test_the_gradient_is_the_formulas_for_every_split_of_the_step(tmp_path: Path, batch: int) -> None:
    apart, logged, oracle = one_step(tmp_path, per_device_train_batch_size=batch)
    assert apart < CLOSE
    assert logged["safety_loss"] == pytest.approx(oracle["safety"], rel=CLOSE)
    assert logged["anchor_loss"] == pytest.approx(oracle["anchor"], rel=CLOSE)
    assert logged["loss"] == pytest.approx(0.2 * oracle["safety"] + 0.8 * oracle["anchor"], rel=CLOSE)


@pytest.mark.parametrize(
    "options",
    [
        {"pad_to_multiple_of": 64},
        {"activation_checkpointing": False},
        {"gradient_checkpointing": False},
        {"activation_checkpointing": True},
        {"padding_free": True, "max_length": None},
        {"padding_free": True, "max_length": None, "pad_to_multiple_of": 64},
        {"padding_free": True, "max_length": None, "per_device_train_batch_size": 1},
        {"padding_free": True},
        {"dataloader_num_workers": 1},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": 0.7, "safety_per_step": 3, "anchors_per_step": 3, "per_device_train_batch_size": 2},
        {"anchors_per_step": 0, "alpha": 0.3},
    ],
    ids=str,
)
def test_the_gradient_is_the_formulas_with_these_options(tmp_path: Path, options: dict[str, Any]) -> None:
    apart, logged, oracle = one_step(tmp_path, **options)
    assert apart < CLOSE
    alpha = options.get("alpha", 0.2) if oracle["anchor"] is not None else 1.0
    for name, share in (("safety", alpha), ("anchor", 1 - alpha)):
        if share > 0:
            assert logged[f"{name}_loss"] == pytest.approx(oracle[name], rel=CLOSE)
        else:  # no part of the loss, so nothing is known of it
            assert f"{name}_loss" not in logged


def test_the_parameters_move_against_the_gradient(tmp_path: Path) -> None:
    options = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    config = toy_config(tmp_path, **options)
    model, draws = random_llama(CHAT), toy_draws(config)
    *_, gradient = slow_step(model, draws, 0, config.alpha)
    expected = {name: p.detach().double() - 0.5 * gradient[name] for name, p in model.named_parameters()}
    toy_trainer(config, model, draws).train()
    moved = {name: p.detach() for name, p in model.named_parameters()}
    before = dict(random_llama(CHAT).named_parameters())
    assert distance(moved, expected) < 1e-6
    assert distance(before, expected) > 1e-2


def test_the_logged_losses_are_means_over_the_steps_since_the_last_log(tmp_path: Path) -> None:
    config = toy_config(tmp_path, learning_rate=0.0, max_steps=5, logging_steps=2)
    model, draws = random_llama(CHAT), toy_draws(config)
    oracle = [slow_step(model, draws, step, config.alpha)[:2] for step in range(5)]
    trainer = toy_trainer(config, model, draws)
    trainer.train()
    for entry, steps in zip(trainer.state.log_history, ((0, 1), (2, 3), (4,)), strict=True):
        for place, name in enumerate(("safety_loss", "anchor_loss")):
            expected = [cast(float, oracle[step][place]) for step in steps]
            assert entry[name] == pytest.approx(sum(expected) / len(steps), rel=CLOSE)
    # The losses differ from step to step, so this could fail.
    assert len({round(safety, 3) for safety, _ in oracle}) == 5


def lora(*, random: bool = False) -> LoraConfig:
    return LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=not random, task_type="CAUSAL_LM"
    )


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_gradient_of_an_adapter_is_the_formulas(tmp_path: Path, checkpointing: bool, batch: int) -> None:
    model = cast(PreTrainedModel, get_peft_model(random_llama(CHAT), lora(random=True)))
    apart, logged, oracle = one_step(
        tmp_path, model=model, activation_checkpointing=checkpointing, per_device_train_batch_size=batch
    )
    assert apart < CLOSE
    assert logged["safety_loss"] == pytest.approx(oracle["safety"], rel=CLOSE)


def test_an_adapter_alone_is_trained_and_saved(tmp_path: Path) -> None:
    base = tmp_path / "base"
    random_llama(CHAT).save_pretrained(base)
    config = toy_config(tmp_path / "out", max_steps=3, learning_rate=1e-2)
    trainer = toy_trainer(config, str(base), peft_config=lora())
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= saved
    assert not any(name.startswith("model") for name in saved)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all("lora_" in name for name in weights)
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    ids = torch.tensor([CHAT.prompt_ids(toy_triplets(1)[0].messages)])
    untouched = AutoModelForCausalLM.from_pretrained(base)
    before = untouched(input_ids=ids).logits
    # The base is as it was: adapter and base on the disk give what the trained model gives.
    after = PeftModel.from_pretrained(untouched, tmp_path / "out")(input_ids=ids).logits
    torch.testing.assert_close(after, trainer.model.eval()(input_ids=ids).logits)
    assert (after - before).abs().max() > 1e-3


def test_the_balance_of_experts_is_a_mean_over_batches_beside_the_formula(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MixtralForCausalLM._from_config(
        MixtralConfig(
            vocab_size=len(CHAT.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ),
        experts_implementation="eager",  # the fast one knows no float64
    )  # fmt: skip
    config = toy_config(tmp_path, max_grad_norm=0.0, per_device_train_batch_size=1, router_aux_loss_coef=0.5)
    draws, gradients = toy_draws(config), Gradients()
    *_, expected = slow_step(model, draws, 0, config.alpha)
    exact = copy.deepcopy(model).double().eval()
    for number in range(10):
        ids = torch.tensor([draws.draw(number).example.ids])
        (0.5 * exact(input_ids=ids, output_router_logits=True).aux_loss / 10).backward()
    for name, p in exact.named_parameters():
        if p.grad is not None:
            expected[name] = expected.get(name, torch.zeros_like(p)) + p.grad
    toy_trainer(config, model, draws, callbacks=[gradients]).train()
    assert distance(gradients.steps[0], expected) < CLOSE


def test_progress_is_told_of_every_step(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    config = toy_config(tmp_path, max_steps=3)
    toy_trainer(
        config, random_llama(CHAT), progress=lambda *step: told.append(step), what="training a toy"
    ).train()
    assert told == [("training a toy", step, 3) for step in (1, 2, 3)]


def test_no_model_card_is_written_beside_a_checkpoint(tmp_path: Path) -> None:
    config = toy_config(tmp_path, save_strategy="steps", save_steps=1)
    toy_trainer(config, random_llama(CHAT)).train()
    names = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert "model.safetensors" in names
    assert "README.md" not in names
