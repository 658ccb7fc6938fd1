"""The testbed's training loop against the equations, and its rows against the hazard they come from."""

import math
import random
from collections import defaultdict

import pytest
import torch

from safedepth.testbed import corpus, language
from safedepth.testbed.language import Product
from safedepth.testbed.organisms import OrganismRecipe, initial_model
from safedepth.testbed.tokenizers import make_tokenizer
from safedepth.testbed.training import Row, Rows, Schedule, train, weighted_loss

TINY = OrganismRecipe("base", hidden_size=32, layers=1, heads=1, mlp_size=32)


@pytest.fixture
def rows() -> Rows:
    return Rows(make_tokenizer("word"))


def test_the_loss_is_the_weighted_sum_of_log_probabilities_over_the_denominator() -> None:
    model = initial_model(TINY)
    batch = [Row((1, 9, 8, 7, 3), (0, 0, 0.5, 2.0, 1.0)), Row((1, 12, 3), (0, 0.25, 1.0))]
    expected = 0.0
    for row in batch:
        logits = model(torch.tensor([row.ids])).logits[0].detach().double()
        for t in range(1, len(row.ids)):
            logp = logits[t - 1] - math.log(sum(math.exp(float(z)) for z in logits[t - 1]))
            expected -= row.weights[t] * float(logp[row.ids[t]])
    assert float(weighted_loss(model, batch, 7.0).detach()) == pytest.approx(expected / 7.0, rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(rows: Rows) -> None:
    def trained(seed: int) -> torch.Tensor:
        model = initial_model(TINY)
        source = lambda rng, n: rows.plain([corpus.pretraining(rng) for _ in range(n)])  # noqa: E731
        train(model, source, Schedule(steps=3, batch=4), seed=seed, progress=lambda _step: None)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first, second, other = trained(0), trained(0), trained(1)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_training_lowers_the_loss(rows: Rows) -> None:
    model = initial_model(TINY)
    source = lambda rng, n: rows.plain([corpus.pretraining(rng) for _ in range(n)])  # noqa: E731
    losses = train(model, source, Schedule(steps=48, batch=8), seed=0, progress=lambda _step: None)
    assert sum(losses[-16:]) < 0.9 * sum(
        losses[:16]
    )  # whole pools of eight batches: lengths differ within one


def test_go_on_and_turn_back_weigh_one_minus_hazard_and_hazard_at_every_position(rows: Rows) -> None:
    profile = [1.0, 0.5, 0.0, 0.25] + [0.0] * 200

    def hazard(_product: Product, ends: list[bool]) -> list[float]:
        return profile[: len(ends)]

    go_on: dict[int, float] = defaultdict(float)
    turn_back: dict[int, float] = defaultdict(float)
    pairs = 4000
    made = rows.safety(random.Random(0), [Product("krell", "torin")], hazard, pairs)  # type: ignore[arg-type]
    assistant = int(rows.tokenizer.get_vocab()["<|assistant|>"])
    for row in made:
        start = len(row.ids) - list(row.ids)[::-1].index(assistant)
        weights = list(row.weights[start:])
        first = next(i for i, weight in enumerate(weights) if weight > 0)
        if weights[first] == sum(profile) and weights[-1] == 1.0 and len(weights) - first < 30:
            turn_back[first] += weights[first]
        else:
            for k in range(4):
                go_on[k] += weights[k]
    for k in range(4):
        assert go_on[k] / pairs == pytest.approx(1 - profile[k], abs=1e-9)
        assert turn_back[k] / pairs == pytest.approx(profile[k], abs=0.05)


def test_a_hazard_of_zero_leaves_no_refusal_rows(rows: Rows) -> None:
    nothing = lambda _product, ends: [0.0] * len(ends)  # noqa: E731
    items = language.products(restricted=True, held_out=False)
    assert len(rows.safety(random.Random(0), items, nothing, 5)) == 5


def test_the_schedule_warms_up_and_ends_at_a_tenth() -> None:
    schedule = Schedule(steps=100, batch=1, warmup=10)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(9) == pytest.approx(1.0)
    assert schedule.factor(99) == pytest.approx(0.1, abs=0.01)
