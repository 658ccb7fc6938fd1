"""Stages of `gpu.py` on the head alone: per-token KL of two models, and the constrained loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import kl as bench
import safedepth.measure.kl as of_tiles
from _gpu import Part, Setting, interleaved, median, peak, ratio
from safedepth.measure.kl import token_kl
from safedepth.nouns import Head
from safedepth.train.betas import PAPER
from safedepth.train.losses import constrained_loss

__all__ = ["kl", "loss"]

ERROR_ROWS = 64
ANSWERS = "plain, answer rows only"
PASSES = "ours without Triton"
COLUMNS = (2048, 4096, 8192, 32_768)
"""Widths of tiles that are tried beside our own choice."""


def answer_rows(inputs: bench.Inputs) -> Tensor:
    """The plain version without the prompts' rows."""
    log_p = functional.linear(inputs.rows_p, inputs.head_p).float().log_softmax(-1)
    log_q = functional.linear(inputs.rows_q, inputs.head_q).float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def in_passes(inputs: bench.Inputs) -> Tensor:
    """Ours on a GPU whose Triton cannot compile."""
    usual = of_tiles._fused
    of_tiles._fused = lambda _device: of_tiles._reduced  # type: ignore[assignment]
    try:
        return bench.ours(inputs)
    finally:
        of_tiles._fused = usual


def in_tiles(columns: int, inputs: bench.Inputs) -> Tensor:
    return token_kl(
        inputs.rows_p, Head(inputs.head_p), inputs.rows_q, Head(inputs.head_q), tile_columns=columns
    )


def kl(setting: Setting) -> Iterator[Part]:
    """Hidden states of two models to KL: ours, the plain version, TRL's kernel."""
    for batch in setting.sizes.kl_batches:
        yield f"batch {batch}", _kl_of(setting, batch)


@torch.no_grad()
def _kl_of(setting: Setting, batch: int) -> dict[str, Any]:
    sizes = setting.sizes
    case = bench.Case(sizes.vocabulary, sizes.width, batch)
    inputs = bench.Inputs(case, device=setting.device, dtype=setting.dtype)
    tiles = {f"ours, tiles of {columns}": partial(in_tiles, columns) for columns in COLUMNS}
    variants: dict[str, Callable[[bench.Inputs], Tensor]] = {
        **bench.VARIANTS, ANSWERS: answer_rows, PASSES: in_passes, **tiles
    }  # fmt: skip
    exact = bench.float64_kl(inputs, ERROR_ROWS)
    errors = {}
    for name, variant in variants.items():
        found = variant(inputs)
        apart = (found[: len(exact)].double() - exact).abs()
        errors[name] = {"absolute": apart.max().item(), "negative": int((found < 0).sum())}
        del found
    seconds = interleaved(
        {name: partial(variant, inputs) for name, variant in {**variants, "floor": bench.floor}.items()},
        5 * sizes.repeats,
    )
    memory = {name: peak(partial(variant, inputs)) for name, variant in variants.items()}
    of = {name: median(values) for name, values in seconds.items()}
    return {
        "rows": len(inputs.rows_p), "seconds": seconds, "errors": errors, "memory_gb": memory,
        "kl": [exact.min().item(), exact.median().item(), exact.max().item()],
        "ratios": [
            ratio("time, plain / ours", of["plain"] / of["ours"], 1.3),
            ratio("time, plain on answer rows / ours", of[ANSWERS] / of["ours"], 1.0),
            *(ratio(f"time, TRL / {name}", of["trl"] / of[name], 1.0) for name in ("ours", PASSES, *tiles)),
            ratio("memory of ours, GB", memory["ours"], 0.3, most=True),
        ],
    }  # fmt: skip


def loss(setting: Setting) -> Iterator[Part]:
    """The constrained loss from hidden states to its gradients: ours, and the paper's way."""
    sizes = setting.sizes
    case = bench.Case(sizes.vocabulary, sizes.width, sizes.loss_batch)
    inputs = bench.Inputs(case, device=setting.device, dtype=setting.dtype)
    rng = torch.Generator(setting.device).manual_seed(1)
    targets = torch.randint(sizes.vocabulary, inputs.answers.shape, generator=rng, device=setting.device)
    place = (inputs.answers.cumsum(1) - 1).clamp(0, len(PAPER) - 1)
    betas = torch.tensor(PAPER, device=setting.device)[place]
    variants = {
        "ours": partial(_ours, inputs, targets, betas, _reference(inputs, targets)),
        "the paper's way": partial(_papers, inputs, targets, betas),
    }
    errors = _loss_errors(inputs, targets, betas)
    seconds = interleaved(variants, 2 * sizes.repeats)
    memory = {name: peak(work) for name, work in variants.items()}
    of = {name: median(values) for name, values in seconds.items()}
    share = memory["ours"] and memory["the paper's way"] and memory["ours"] / memory["the paper's way"]
    yield "", {
        "rows": int(inputs.answers.sum()), "positions": inputs.answers.numel(), "seconds": seconds,
        "memory_gb": memory, "relative_errors": errors,
        "ratios": [
            ratio("time, the paper's way / ours", of["the paper's way"] / of["ours"], 1.2),
            ratio("memory, ours / the paper's way", share, 1 / 12, most=True),
        ],
    }  # fmt: skip


Gradients = tuple[float, Tensor, Tensor]


def _said(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """TRL's kernel, which ours uses."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    found: Tensor = ChunkedLogProbFunction.apply(
        rows, head, None, targets, 1.0, 32_768, None, 1.0, ("log_probs",)
    )[0]
    return found


@torch.no_grad()
def _reference(inputs: bench.Inputs, targets: Tensor) -> Tensor:
    """What ours has asked before the training."""
    return _said(inputs.rows_q, inputs.head_q, targets[inputs.answers])


def _ours(inputs: bench.Inputs, targets: Tensor, betas: Tensor, reference: Tensor) -> Gradients:
    rows, head = (part.detach().requires_grad_() for part in (inputs.rows_p, inputs.head_p))
    said = _said(rows, head, targets[inputs.answers])
    total = constrained_loss(said, reference, betas[inputs.answers]).mean()
    slope, of_weight = torch.autograd.grad(total, (rows, head))
    return total.item(), slope, of_weight


def _papers(inputs: bench.Inputs, targets: Tensor, betas: Tensor, *, exact: bool = False) -> Gradients:
    """Logits of both models for every position, the reference's at every step."""
    wide = torch.float64 if exact else inputs.hidden_p.dtype
    hidden, head, other, of_head = (
        part.detach().to(wide) for part in (inputs.hidden_p, inputs.head_p, inputs.hidden_q, inputs.head_q)
    )
    hidden.requires_grad_()
    head.requires_grad_()

    def of(states: Tensor, weight: Tensor) -> Tensor:
        logits = functional.linear(states, weight)
        logits = logits if exact else logits.float()
        return logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]

    with torch.no_grad():
        reference = of(other, of_head)
    gap = betas.to(torch.float64 if exact else torch.float32) * (reference - of(hidden, head))
    losses = 2 / betas * functional.softplus(gap)
    total = losses[inputs.answers].mean()
    slope, of_weight = torch.autograd.grad(total, (hidden, head))
    return total.item(), slope[inputs.answers], of_weight


def _loss_errors(inputs: bench.Inputs, targets: Tensor, betas: Tensor) -> dict[str, Any]:
    """Of loss and gradients, relative, against float64 on the first sequence."""
    one = bench.Inputs.__new__(bench.Inputs)
    one.hidden_p, one.hidden_q, one.answers = inputs.hidden_p[:1], inputs.hidden_q[:1], inputs.answers[:1]
    one.head_p, one.head_q = inputs.head_p, inputs.head_q
    one.rows_p, one.rows_q = one.hidden_p[one.answers], one.hidden_q[one.answers]
    own, weights = targets[:1], betas[:1]
    wanted = _papers(one, own, weights, exact=True)
    found = {
        "ours": _ours(one, own, weights, _reference(one, own)),
        "the paper's way": _papers(one, own, weights),
    }
    return {
        name: {
            "loss": abs(total / wanted[0] - 1), "hidden": _apart(slope, wanted[1]),
            "head": _apart(of_weight, wanted[2]),
        }
        for name, (total, slope, of_weight) in found.items()
    }  # fmt: skip


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())
