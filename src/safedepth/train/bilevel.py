"""Betas that are learnt: a few held-out refusals decide which positions deserve a strong constraint.

Two levels. The inner one fine-tunes under betas, with AdamW; the outer one changes the betas so
that the refusals are likelier after a step, by its exact derivative (`hypergradient`).

One step is unrolled, not the whole training: betas that pay off only later are not seen. The first
step says nothing, since the model still agrees with its reference there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safedepth.errors import DataError, RunError
from safedepth.nouns import Progress
from safedepth.train.hypergradient import Batch, Row, adam_direction, hypergradient
from safedepth.train.importance import HIGH, LOW, require_bounds
from safedepth.train.losses import constrained_loss
from safedepth.train.positions import GROUPS

__all__ = ["Bilevel", "Learnt", "learn_betas", "within_budget"]

WIDTHS = torch.tensor([(last or 2 * first - 2) - first + 1 for first, last in GROUPS], dtype=torch.float64)
"""Tokens of each group of positions; of the open one as many as lie before it."""


@dataclass(frozen=True)
class Bilevel:
    """How betas are learnt: `rounds` of `steps` inner steps, each from the model as it was given.

    The strength of a token is 0 where its beta is `low` and 1 where it is `high`, in orders of
    magnitude between. Every schedule spends a `budget` of it, in tokens at full strength (the paper
    holds five), so that only its shape is learnt. A round moves the strength that matters most by `rate`.
    """

    rounds: int = 12
    steps: int = 12
    batch: int = 10
    learning_rate: float = 3e-4
    rate: float = 0.25
    low: float = LOW
    high: float = HIGH
    budget: float = 5.0
    seed: int = 0

    def check(self) -> None:
        """Raise DataError for numbers that cannot be used."""
        require_bounds(self.low, self.high)
        if min(self.rounds, self.steps - 1, self.batch) < 1 or min(self.learning_rate, self.rate) <= 0:
            raise DataError(f"expected rounds, two steps, batch and rates above 0, found {self}")
        if not 0 < self.budget < float(WIDTHS.sum()):
            raise DataError(f"expected a budget in 0..{float(WIDTHS.sum()):g} tokens, found {self.budget}")

    def log_betas(self, strengths: Tensor) -> Tensor:
        """Log betas of strengths in 0..1."""
        return math.log(self.low) + strengths * math.log(self.high / self.low)


@dataclass(frozen=True)
class Learnt:
    """One beta for each group of positions, and the mean safety loss in nats of every round on the way."""

    betas: tuple[float, ...]
    safety: tuple[float, ...]


def within_budget(strengths: Tensor, budget: float) -> Tensor:
    """The strengths [G] nearest to these, each token counting alike, in 0..1 and worth `budget` tokens.

    That is all of them shifted together, and cut off at 0 and 1.
    """
    least, most = -float(strengths.max()), 1 - float(strengths.min())
    for _ in range(60):
        middle = (least + most) / 2
        if float(((strengths + middle).clamp(0, 1) * WIDTHS).sum()) < budget:
            least = middle
        else:
            most = middle
    return (strengths + most).clamp(0, 1)


def learn_betas(
    model: nn.Module,
    rows: Sequence[Row],
    safety: Sequence[Row],
    how: Bilevel | None = None,
    *,
    progress: Progress | None = None,
) -> Learnt:
    """Betas under which fine-tuning `model` on `rows` leaves the refusals of `safety` likeliest.

    Both are rows of `input_ids` and `labels` (-100 where nothing is learnt); those of `safety` are
    requests with refusals, other than any that are trained on. The parameters that require gradients
    are trained, and put back. Needs the memory of training plus three copies of them. Of all rounds
    that with the lowest safety loss is returned.

    Raises DataError where either is empty, RunError where the inner training diverges.
    """
    how = how or Bilevel()
    how.check()
    for name, given in (("rows to train on", rows), ("refusals to keep", safety)):
        if not given:
            raise DataError(f"expected {name} to learn betas from, found none")
    inner = _Inner(model, rows, safety, how)
    strengths = within_budget(torch.zeros_like(WIDTHS), how.budget)
    tried: list[tuple[float, Tensor]] = []
    try:
        for number in range(how.rounds):
            log_betas = how.log_betas(strengths)
            loss, gradient = inner.run(log_betas)
            tried.append((loss, log_betas))
            slope = gradient / WIDTHS  # what a token of each group is worth
            moved = strengths - how.rate * slope / slope.abs().max().clamp(min=1e-30)
            strengths = within_budget(moved, how.budget)
            if progress is not None:
                progress("learning betas", number + 1, how.rounds)
    finally:
        inner.restore()
    _, best = min(tried, key=lambda one: one[0])
    return Learnt(tuple(best.exp().tolist()), tuple(loss for loss, _ in tried))


class _Inner:
    """The fine-tuning whose outcome betas are judged by: the same batches in every round."""

    def __init__(self, model: nn.Module, rows: Sequence[Row], safety: Sequence[Row], how: Bilevel) -> None:
        self.model, self.how = model, how
        self.modes = [(module, module.training) for module in model.modules()]
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise DataError("expected a model with parameters that require gradients, found none")
        self.begun = self._copy()
        device = next(iter(self.parameters.values())).device
        self.batches = list(_batches(rows, how, device))
        self.safety = list(_batches(safety, how, device))
        model.eval()  # no dropout, as the objective is trained
        with torch.no_grad():
            self.references = [batch.log_probs(model) for batch in self.batches]

    def run(self, log_betas: Tensor) -> tuple[float, Tensor]:
        """Mean safety loss after the steps but the first, and its derivative by the log betas, summed."""
        self._put_back()
        optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.how.learning_rate, betas=(0.5, 0.999), weight_decay=0.0
        )
        total, gradient = 0.0, torch.zeros_like(log_betas)
        for step, (batch, reference, safety) in enumerate(
            zip(self.batches, self.references, self.safety, strict=True)
        ):
            at = self._copy()
            optimizer.zero_grad()
            said = batch.log_probs(self.model)
            betas = log_betas.to(said).exp()[batch.groups]
            constrained_loss(said, reference, betas).mean().backward()
            optimizer.step()
            loss = -safety.log_probs(self.model).mean()
            if not bool(torch.isfinite(loss)):
                raise RunError(
                    f"Learning betas, the inner training diverged at step {step + 1}: the safety loss is no "
                    f"finite number. Lower its learning rate (now {self.how.learning_rate:g})"
                )
            if step:
                found = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True)
                towards = dict(zip(self.parameters, found, strict=True))
                direction = adam_direction(optimizer, self.parameters, towards)
                gradient += hypergradient(self.model, batch, reference, log_betas, at=at, direction=direction)
                total += loss.item()
        return total / (len(self.batches) - 1), gradient

    def restore(self) -> None:
        """The model as it was given: weights, modes, no gradients."""
        self._put_back()
        for parameter in self.parameters.values():
            parameter.grad = None
        for module, mode in self.modes:
            module.training = mode

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def _put_back(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(self.begun[name])


def _batches(rows: Sequence[Row], how: Bilevel, device: torch.device) -> list[Batch]:
    """One batch for every inner step: the rows in an order drawn anew for each pass."""
    random = torch.Generator().manual_seed(how.seed)
    order: list[int] = []
    while len(order) < how.steps * how.batch:
        order += torch.randperm(len(rows), generator=random).tolist()
    chosen = [order[i * how.batch : (i + 1) * how.batch] for i in range(how.steps)]
    return [Batch.of([rows[i] for i in some], device) for some in chosen]
