"""How a step of fine-tuning under other betas would change a loss: derivatives through AdamW.

With g_t = grad log pi(y_t | ...), N tokens in the batch, and w_t, D_t as in `losses`,

    theta' = theta - A(g),    g = -(1 / N) sum_t w_t g_t            (the constrained objective)
    d L(theta') / d log beta_p = (1 / N) sum_{t at p} (d w_t / d log beta) <J grad L(theta'), g_t>
    d w_t / d log beta = w_t (1 - w_t / 2) beta D_t

where A is AdamW's step and J its derivative by the gradient, a diagonal. <J grad L, g_t>, how much
learning the token y_t alone would raise L, is the derivative of log pi(y_t) along one direction: one
forward-mode pass has it for all tokens at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from safedepth.errors import DataError
from safedepth.train.losses import token_weights
from safedepth.train.positions import group_of, response_positions

__all__ = ["Batch", "Row", "Tensors", "adam_direction", "hypergradient"]

Tensors = Mapping[str, Tensor]
Row = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Batch:
    """Rows padded together: `ids` and `mask` [B, T]; of the N tokens with loss where each is predicted
    (`counted` [B, T - 1]), the `targets` [N], and the `groups` [N] of their positions."""

    ids: Tensor
    mask: Tensor
    counted: Tensor
    targets: Tensor
    groups: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Batch:
        """Of rows of `input_ids` and `labels`. Raises DataError where one has nothing to learn."""
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask, positions = torch.zeros_like(ids), torch.zeros_like(ids)
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[place, :length], mask[place, :length] = torch.tensor(row["input_ids"]), 1
            positions[place, :length] = response_positions(torch.tensor(row["labels"]))
        positions = positions[:, 1:]
        counted = positions > 0
        if not bool(counted.any(dim=1).all()):
            raise DataError("expected a prompt and a response in every row that betas are learnt from")
        parts = (ids, mask, counted, ids[:, 1:][counted], group_of(positions[counted]))
        return cls(*(part.to(device) for part in parts))

    def log_probs(self, model: nn.Module, parameters: Tensors | None = None) -> Tensor:
        """log pi of the tokens with loss [N], float32 or wider; under other `parameters`, if given."""
        given = {"input_ids": self.ids, "attention_mask": self.mask, "use_cache": False}
        output: Any = (
            model(**given)
            if parameters is None
            else torch.func.functional_call(model, dict(parameters), (), given)
        )
        logits = output.logits[:, :-1][self.counted]
        wide = logits if logits.dtype == torch.float64 else logits.float()
        said: Tensor = wide.log_softmax(-1).gather(-1, self.targets.unsqueeze(-1)).squeeze(-1)
        return said


def hypergradient(
    model: nn.Module, batch: Batch, reference: Tensor, log_betas: Tensor, *, at: Tensors, direction: Tensors
) -> Tensor:
    """d L(theta') / d log beta of every group [G], exact for the one step from theta to theta'.

    Args:
        batch: what the step was taken on.
        reference: [N] log-probabilities of its tokens under the reference.
        log_betas: [G] those of the step.
        at: theta, the parameters before the step, by name.
        direction: J grad L(theta'), by the same names (`adam_direction`).
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the one attention with a forward derivative
        pair: Any = torch.func.jvp(partial(batch.log_probs, model), (dict(at),), (dict(direction),))
    said, influence = pair
    betas = log_betas.to(said).exp()[batch.groups]
    weights = token_weights(said, reference, betas)
    slope = weights * (1 - weights / 2) * betas * (reference - said)
    found = torch.zeros(len(log_betas), dtype=torch.float64, device=said.device)
    return found.index_add_(0, batch.groups, (slope * influence).double() / len(said)).cpu()


def adam_direction(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter], towards: Tensors
) -> Tensors:
    """J times `towards`, J the derivative of the step that `optimizer` has just taken by its gradient.

    A(g) = lr m / (sqrt(v) + eps) with the bias-corrected moments m and v, element by element; both
    depend on g. The parameters still have the gradient g. Weight decay does not depend on it.
    """
    options = optimizer.param_groups[0]
    first, second = options["betas"]
    found = {}
    for name, parameter in parameters.items():
        if parameter.grad is None:  # an expert that no token went to, say: the step leaves it alone
            found[name] = torch.zeros_like(parameter)
            continue
        state = optimizer.state[parameter]
        of_first, of_second = 1 - first ** state["step"], 1 - second ** state["step"]
        root = (state["exp_avg_sq"] / of_second).sqrt()
        size = root + options["eps"]
        moment, slope = state["exp_avg"] / of_first, (1 - second) / of_second * parameter.grad
        # Where every gradient so far was 0 the root has no derivative, and the step moves nothing yet.
        turned = torch.where(root > 0, moment * slope / (root * size**2), 0.0)
        found[name] = options["lr"] * ((1 - first) / of_first / size - turned) * towards[name]
    return found
