"""Estimates of where the model turns back: each against one forward pass, and made when they are due."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback

from safedepth.chat import ChatFormat
from safedepth.nouns import Triplet
from safedepth.train.callbacks import SAMPLED, recovery_curve
from safedepth.train.draws import Draws
from safedepth.train.options import Mix
from safedepth.train.recovery import AdaptiveRecovery
from safedepth.train.styles import given
from tokenizer_zoo import chat_of
from train.toys import random_llama, toy_chat, toy_config, toy_draws, toy_trainer, toy_triplets

WORDS, BYTES = toy_chat(), chat_of("byte", "chatml")


def plan(chat: ChatFormat, triplets: list[Triplet]) -> Draws:
    return Draws(
        chat, triplets, [], mix=Mix(1, 0), steps=1, seed=0, recovery=AdaptiveRecovery(), style=given
    )  # fmt: skip


def slow_curve(
    model: PreTrainedModel, chat: ChatFormat, triplets: list[Triplet], longest: int
) -> list[float]:
    """The mean over triplets of the chance of a token that begins a refusal, one sequence at a time."""
    exact = copy.deepcopy(model).double().eval()
    begins = {chat.answer_ids(t.refusal)[0] for t in triplets}
    # In the middle of an answer a refusal begins with its first token after a space.
    middle = {chat.tokenizer(f"a {t.refusal}", add_special_tokens=False)["input_ids"][1] for t in triplets}
    chances: list[list[float]] = [[] for _ in range(longest + 1)]
    for triplet in triplets[:64]:
        answer = chat.answer_ids(triplet.harmful)
        for k in range(min(longest, len(answer)) + 1):
            ids = [*chat.prompt_ids(triplet.messages), *answer[:k]]
            with torch.no_grad():
                said = exact(input_ids=torch.tensor([ids])).logits[0, -1].softmax(dim=-1)
            chances[k].append(sum(float(said[token]) for token in (middle if k else begins)))
    return [sum(values) / len(values) for values in chances if values]


@pytest.mark.parametrize("longest", [4, 30, 100])
@pytest.mark.parametrize("chat", [WORDS, BYTES], ids=["word", "byte"])
def test_the_curve_is_the_mean_chance_that_a_refusal_begins_after_k_tokens(
    chat: ChatFormat, longest: int
) -> None:
    triplets = toy_triplets(7)
    model = random_llama(chat, attention_dropout=0.5).train()
    expected = slow_curve(model, chat, triplets, longest)
    deepest = max(len(chat.answer_ids(triplet.harmful)) for triplet in triplets)
    for batch in (1, 3, 7):
        found = recovery_curve(model, plan(chat, triplets), longest=longest, batch=batch)
        assert len(found) == min(longest, deepest) + 1
        assert found == pytest.approx(expected, rel=1e-5)
    assert model.training  # dropout is off while it estimates, and on again afterwards
    recovery_curve(model.eval(), plan(chat, triplets), longest=longest)
    assert not model.training


def test_the_curve_looks_at_the_first_64_triplets_and_at_every_refusal() -> None:
    triplets = [t for _ in range(14) for t in toy_triplets(5)]
    assert len(triplets) > SAMPLED == 64
    model = random_llama(WORDS)
    odd = Triplet("odd", triplets[0].messages, triplets[0].harmful, "Sure, be kind.")
    for rows in (triplets, [*triplets, odd]):
        found = recovery_curve(model, plan(WORDS, rows), longest=3)
        assert found == pytest.approx(slow_curve(model, WORDS, rows, 3), rel=1e-5)


@pytest.mark.parametrize(("steps", "due"), [(6, [0, 4]), (7, [0, 4, 7]), (2, [0])])
def test_an_estimate_is_made_at_once_and_every_few_steps_for_the_step_after_next(
    tmp_path: Path, steps: int, due: list[int]
) -> None:
    # The batch of the next step may have been read already. Every third step here; nothing is learnt.
    config = toy_config(tmp_path, recovery="adaptive", estimate_every=3, max_steps=steps, learning_rate=0.0)
    model, draws = random_llama(WORDS), toy_draws(config)
    toy_trainer(config, model, draws).train()
    assert isinstance(draws.recovery, AdaptiveRecovery)
    assert [from_step for from_step, _ in draws.recovery.estimates] == due
    expected = slow_curve(model, WORDS, list(draws.triplets), 100)
    for _, found in draws.recovery.estimates:
        assert found == pytest.approx(expected, rel=1e-5)


class Snapshots(TrainerCallback):
    """Keeps the weights as they are after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.after.append(copy.deepcopy(others["model"].state_dict()))


def test_a_model_that_learns_is_estimated_as_it_is_by_then(tmp_path: Path) -> None:
    config = toy_config(tmp_path, recovery="adaptive", estimate_every=2, max_steps=5, learning_rate=1e-2)
    draws, snapshots = toy_draws(config), Snapshots()
    toy_trainer(config, random_llama(WORDS), draws, callbacks=[snapshots]).train()
    assert isinstance(draws.recovery, AdaptiveRecovery)
    (_, first), (_, after_2), (_, after_4) = draws.recovery.estimates
    assert first == pytest.approx(slow_curve(random_llama(WORDS), WORDS, [*draws.triplets], 100), rel=1e-5)
    for steps, found in ((2, after_2), (4, after_4)):
        model = random_llama(WORDS)
        model.load_state_dict(snapshots.after[steps - 1])
        assert found == pytest.approx(slow_curve(model, WORDS, [*draws.triplets], 100), rel=1e-5)
        assert found != pytest.approx(first, rel=1e-2)
