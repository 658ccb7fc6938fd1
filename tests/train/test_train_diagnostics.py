"""What is told of a training, position by position, against float64; and a file that kills do not spoil."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from safedepth.train.diagnostics import FILE, DiagnosticsFile, PositionSums, read_diagnostics, tracked
from safedepth.train.positions import GROUPS
from train.constrained_toys import (
    BETAS,
    CHAT,
    Sample,
    Term,
    adapted,
    exact,
    move,
    protect,
    protect_config,
    sample_of,
    slow_step,
    toy_conversations,
)
from train.toys import random_llama

SAMPLES = [sample_of(talk) for talk in toy_conversations(12)]
NUMBERS = ("nll", "weight", "advantage")


def grouped(terms: Sequence[Term]) -> dict[int, list[Term]]:
    """Terms by the first position of their group."""
    return {
        first: found
        for first, last in GROUPS
        if (found := [t for t in terms if first <= t.position <= (last or t.position)])
    }


def slow_kl(model: Any, reference: Any, samples: Sequence[Sample]) -> dict[int, float]:
    """Mean KL(model || reference) over the vocabulary at the first forty positions, by group."""
    found: dict[int, list[float]] = {}
    for sample in samples:
        p, q = (
            one(input_ids=torch.tensor([sample.ids])).logits[0].log_softmax(-1) for one in (model, reference)
        )
        for place, position in enumerate(sample.positions):
            if 1 <= position <= 40:
                (first,) = (first for first, last in GROUPS if first <= position <= (last or position))
                said, of = p[place - 1], q[place - 1]
                found.setdefault(first, []).append((said.exp() * (said - of)).sum().item())
    return {first: sum(values) / len(values) for first, values in found.items()}


def assert_rows(rows: Sequence[dict[str, Any]], terms: Sequence[Term], kl: dict[int, float] | None) -> None:
    expected = grouped(terms)
    assert [row["position"] for row in rows] == list(expected)
    for row in rows:
        own = expected[row["position"]]
        assert row["last"] == dict(GROUPS)[row["position"]]
        assert row["n"] == len(own)
        for name in NUMBERS:
            mean = sum(getattr(term, name) for term in own) / len(own)
            assert row[name] == pytest.approx(mean, rel=1e-5, abs=1e-5)
        if kl is not None:
            assert row["kl"] == pytest.approx(kl[row["position"]], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("full", {}),
        ("full", {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}),
        ("full", {"padding_free": True, "max_length": None}),
        ("adapter", {"disable_dropout": False}),
        ("adapter", {"precompute_reference": False, "gradient_checkpointing": False}),
    ],
    ids=str,
)
def test_every_number_is_the_oracles(tmp_path: Path, model: str, options: dict[str, Any]) -> None:
    own = random_llama(CHAT) if model == "full" else adapted()
    reference = copy.deepcopy(own)
    trainer = protect(protect_config(tmp_path, diagnostics=True, learning_rate=0.0, **options), own)
    move(trainer.model)
    now = copy.deepcopy(reference)
    now.load_state_dict(trainer.model.state_dict())
    *_, terms = slow_step(now, reference, SAMPLES, BETAS["paper"])
    kl = slow_kl(exact(now), exact(reference), SAMPLES[:8])
    trainer.train()
    rows = read_diagnostics(tmp_path / FILE)
    assert {row["step"] for row in rows} == {1}
    assert_rows(rows, terms, kl)
    assert max(row["kl"] for row in rows) > 0.1
    assert max(abs(row["weight"] - 1) for row in rows) > 0.1
    assert trainer.model.training  # measuring the KL leaves the model as it was


def test_the_kl_is_exact_for_packed_rows_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {"packing": True, "max_length": 128, "learning_rate": 0.0}
    trainer = protect(protect_config(tmp_path, diagnostics=True, **options), random_llama(CHAT))
    assert trainer.probe is not None
    assert len(trainer.train_dataset) < 8
    # Of each packed row the first eighty tokens with loss, of which at most the fortieth in its response.
    seen: list[Sample] = []
    for row in trainer.train_dataset:
        begin, left = 0, 80
        for length in row["seq_lengths"]:
            (own,) = [s for s in SAMPLES if list(s.ids) == row["input_ids"][begin : begin + length]][:1]
            counted = [i for i, position in enumerate(own.positions) if 1 <= position <= 40][:left]
            left -= len(counted)
            seen.append(Sample(own.ids, tuple(p if i in counted else 0 for i, p in enumerate(own.positions))))
            begin += length
    move(trainer.model)
    now = random_llama(CHAT)
    move(now)
    trainer.train()
    expected = slow_kl(exact(now), exact(random_llama(CHAT)), seen)
    for row in read_diagnostics(tmp_path / FILE):
        assert row["kl"] == pytest.approx(expected[row["position"]], rel=1e-4)


def test_dropout_does_not_blur_the_kl(tmp_path: Path) -> None:
    model = random_llama(CHAT, attention_dropout=0.5)
    options: dict[str, Any] = {"disable_dropout": False, "learning_rate": 0.0, "diagnostics": True}
    protect(protect_config(tmp_path, **options), model).train()
    rows = read_diagnostics(tmp_path / FILE)
    assert all(row["kl"] == pytest.approx(0, abs=1e-9) for row in rows)
    assert any(abs(row["weight"] - 1) > 0.01 for row in rows)  # what the loss saw had dropout


@pytest.mark.parametrize("objective", ["sft", "kl"])
def test_without_a_constraint_there_is_loss_and_kl_but_no_weight(tmp_path: Path, objective: str) -> None:
    config = protect_config(tmp_path, objective=objective, diagnostics=True, learning_rate=0.0)
    trainer = protect(config, random_llama(CHAT))
    move(trainer.model)
    now = random_llama(CHAT)
    move(now)
    *_, terms = slow_step(now, random_llama(CHAT), SAMPLES, BETAS["paper"])
    kl = slow_kl(exact(now), exact(random_llama(CHAT)), SAMPLES[:8])
    trainer.train()
    expected = grouped(terms)
    for row in read_diagnostics(tmp_path / FILE):
        own = expected[row["position"]]
        assert row["nll"] == pytest.approx(sum(term.nll for term in own) / len(own), rel=1e-5)
        assert (row["weight"], row["advantage"]) == (None, None)
        assert row["kl"] == pytest.approx(kl[row["position"]], rel=1e-4)


def test_means_are_over_all_steps_since_the_last_time(tmp_path: Path) -> None:
    config = protect_config(
        tmp_path, diagnostics=True, learning_rate=0.0, max_steps=5, logging_steps=2,
        per_device_train_batch_size=4,
    )  # fmt: skip
    protect(config, random_llama(CHAT)).train()
    rows = read_diagnostics(tmp_path / FILE)
    firsts = {row["step"]: row["n"] for row in rows if row["position"] == 1}
    assert firsts == {2: 8, 4: 8, 5: 4}


class Given(TrainerCallback):
    """What trackers get."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.logs.append(dict(others["logs"]))


def test_trackers_get_the_numbers_and_a_terminal_does_not(tmp_path: Path) -> None:
    for tracker in (True, False):
        given = Given()
        trainer = protect(
            protect_config(tmp_path / str(tracker), diagnostics=True), random_llama(CHAT), callbacks=[given]
        )
        if tracker:
            trainer.args.report_to = ["some tracker"]
        trainer.train()
        assert ("weight/1" in given.logs[0]) is tracker
    rows = [
        {"position": 1, "last": 1, "nll": 2.0, "weight": 1.0, "kl": None, "advantage": 0.5},
        {"position": 6, "last": 10, "nll": 3.0, "weight": None, "kl": 0.1, "advantage": None},
        {"position": 41, "last": None, "nll": 4.0, "weight": 0.9, "kl": None, "advantage": 0.2},
    ]
    assert tracked(rows) == {
        "nll/1": 2.0, "weight/1": 1.0, "advantage/1": 0.5, "nll/6-10": 3.0, "kl/6-10": 0.1,
        "nll/41+": 4.0, "weight/41+": 0.9, "advantage/41+": 0.2,
    }  # fmt: skip


def test_no_diagnostics_are_written_where_none_are_wanted(tmp_path: Path) -> None:
    trainer = protect(protect_config(tmp_path), random_llama(CHAT))
    trainer.train()
    assert trainer.probe is None
    assert not (tmp_path / FILE).exists()


def test_sums_are_those_of_all_batches_whatever_stands_where_nothing_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    sums, terms = PositionSums(), []
    for _ in range(3):
        positions = torch.randint(0, 60, (4, 30), generator=generator)
        log_probs, reference = (-5 * torch.rand(4, 30, generator=generator) for _ in range(2))
        betas = 0.1 + torch.rand(4, 30, generator=generator)
        for place in (positions > 0).nonzero().tolist():
            lp, of, beta = (t[tuple(place)].double() for t in (log_probs, reference, betas))
            terms.append(
                Term(
                    int(positions[tuple(place)]), torch.tensor(0.0), -lp.item(),
                    (2 / (1 + torch.exp(-beta * (of - lp)))).item(), (beta * (lp - of)).item(),
                )
            )  # fmt: skip
        sums.add(positions, log_probs.masked_fill(positions == 0, torch.nan), reference, betas)
    assert_rows(sums.told(lambda own: own), terms, None)
    assert sums.told(lambda own: own) == []


def test_sums_are_told_of_all_processes() -> None:
    def twice(own: Tensor) -> Tensor:
        return 2 * own

    sums = PositionSums()
    sums.add(torch.tensor([[1, 2]]), torch.tensor([[-1.0, -3.0]]), None, torch.ones(1, 2))
    first, second = sums.told(twice)
    assert (first["n"], second["n"]) == (2, 2)
    assert (first["nll"], second["nll"]) == (1.0, 3.0)


def test_a_training_that_goes_on_drops_the_lines_of_the_steps_it_makes_again(tmp_path: Path) -> None:
    file = DiagnosticsFile(tmp_path / "out")
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    file.on_train_begin(None, state, None)  # there is none yet
    assert not file.path.exists()
    for step in (2, 4, 6):
        file.write([{"step": step, "position": position} for position in (1, 2)])
    with file.path.open("a") as half:
        half.write('{"step": 8, "posi')  # where a kill came
    assert [row["step"] for row in read_diagnostics(file.path)] == [2, 2, 4, 4, 6, 6]
    state.is_world_process_zero, state.global_step = False, 4
    file.on_train_begin(None, state, None)
    assert len(read_diagnostics(file.path)) == 6  # the first process alone writes
    state.is_world_process_zero = True
    file.on_train_begin(None, state, None)
    assert [row["step"] for row in read_diagnostics(file.path)] == [2, 2, 4, 4]
    file.write([{"step": 6, "position": 1}])
    assert [json.loads(line)["step"] for line in file.path.read_text().splitlines()] == [2, 2, 4, 4, 6]
