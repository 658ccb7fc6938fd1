"""Muon for the matrices inside the organisms' blocks, in float32 throughout.

`torch.optim.Muon` orthogonalises in bfloat16, which processors without instructions for
it do twenty times slower than float32: there it took four fifths of an organism's
training. Everything else (momentum, rate, decay, coefficients) is as in torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Muon"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by Newton and Schulz (Jordan et al., 2024); matrices only."""

    def __init__(
        self, params: Iterable[Parameter], *, lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("expected no closure; Muon takes one gradient a step")
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(matrix.grad)
                state["momentum"].lerp_(matrix.grad, 1 - momentum)
                update = _orthogonal(matrix.grad.lerp(state["momentum"], momentum))
                matrix.mul_(1 - lr * group["weight_decay"])
                matrix.add_(update, alpha=-lr * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def _orthogonal(gradient: Tensor) -> Tensor:
    """The nearest matrix with all singular values near one, by five quintic iterations."""
    a, b, c = COEFFICIENTS
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.T if tall else gradient
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
