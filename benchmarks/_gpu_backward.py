"""Stages of `gpu.py` with gradients: suffix search, gradient norms by token, constrained fine-tuning."""

from __future__ import annotations

import gc
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from _gpu import Part, Setting, interleaved, median, peak, random_model, ratio, spent
from safedepth.nouns import Head
from safedepth.train.betas import PAPER

__all__ = ["gcg", "gradients", "training"]

TF32 = "exact, products in TF32"
CHUNKS = "exact, 64 tokens a pass"
GROUPS = (16, 128)
"""Candidates of a pass that are tried beside our own choice."""
PROMPT_WORDS, TARGET_WORDS = 62, 13


def gcg(setting: Setting, model: PreTrainedModel) -> Iterator[Part]:
    """The candidate step and the gradient: ours, and nanoGCG's without its prefix cache."""
    import gcg as bench

    wanted = Namespace(prompt=PROMPT_WORDS, target=TARGET_WORDS, candidates=setting.sizes.candidates)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        side, candidates = bench.prepared(model, wanted, folder)
        slope = side.victim.gradient(side.place, side.start)
        losses = partial(side.victim.losses, side.place, candidates, side.start, slope.pairs)
        peer = _nano(folder, model)
        tried = {
            f"{bench.OURS}, groups of {size}": partial(_grouped, side.victim, size, losses) for size in GROUPS
        }
        steps = {bench.OURS: losses, bench.TODAY: peer._losses, **tried}
        seconds = interleaved(steps, setting.sizes.repeats)
        memory = {side_name: peak(work) for side_name, work in steps.items()}
        suffix = side.start[None].to(model.device)
        slopes = interleaved(
            {
                bench.OURS: partial(side.victim.gradient, side.place, side.start),
                bench.TODAY: partial(peer.gcg.compute_token_gradient, suffix),
            },
            setting.sizes.repeats,
        )
        of = {side_name: median(values) for side_name, values in seconds.items()}
        yield "step", {
            "candidates": len(candidates), "before": len(side.place.before), "suffix": len(side.start),
            "after": len(side.place.after), "target": len(side.place.targets[0]), "seconds": seconds,
            "gradient_seconds": slopes, "memory_gb": memory,
            "ratios": [
                ratio(f"candidate step, nanoGCG without cache / {name}", of[bench.TODAY] / of[name], 3.0)
                for name in (bench.OURS, *tried)
            ],
        }  # fmt: skip
        mine, theirs = losses().double(), peer._losses().double().cpu()
        wide = _wider(setting, model)
        exact, _ = bench.exact(side, cast(PreTrainedModel, wide), candidates[: bench.EXACT_ROWS])
        del wide
        exact, few = exact.double().cpu(), len(exact)
        yield "agreement", {
            "against_float32": {
                bench.OURS: float((mine[:few] - exact).abs().max()),
                bench.TODAY: float((theirs[:few] - exact).abs().max()),
            },
            "differ": float((mine - theirs).abs().max()), "same_best": bool(mine.argmin() == theirs.argmin()),
            "losses": [float(mine.min()), float(mine.max())],
        }  # fmt: skip


def _grouped(victim: Any, size: int, losses: Callable[[], Tensor]) -> Tensor:
    usual, victim.group = victim.group, size
    try:
        return losses()
    finally:
        victim.group = usual


def _nano(folder: Path, model: PreTrainedModel) -> Any:
    import nanogcg.gcg as nano  # type: ignore[import-not-found]

    import _gcg_peer

    nano.tqdm = iter  # no progress bar
    return _gcg_peer.Peer(folder, model, cached=False)


def _wider(setting: Setting, model: PreTrainedModel) -> LlamaForCausalLM:
    """The same weights in float32."""
    wide = random_model(setting, dtype=torch.float32)
    wide.load_state_dict(model.state_dict())
    return wide.requires_grad_(False)


def gradients(setting: Setting, model: PreTrainedModel) -> Iterator[Part]:
    """Norms of the first tokens' gradients, exact: ours, and one backward pass a token."""
    from gradient_norms import one_backward_a_token
    from safedepth.measure.gradients import GradientMeter

    sizes = setting.sizes
    yield "errors", _gradient_errors(setting)
    model.requires_grad_(True)
    ids = torch.randint(sizes.vocabulary, (sizes.length,), generator=torch.Generator().manual_seed(0)).to(
        setting.device
    )
    head = Head(cast(Any, model).lm_head.weight)
    meter, wide = GradientMeter(model, head), GradientMeter(model, head, chunk=64)
    first, count = sizes.first, sizes.measured
    some = [first + round(i) for i in np.linspace(0, count - 1, sizes.peer_tokens)]
    exact, chunks = (partial(one.norms, ids, first, count) for one in (meter, wide))
    peer = partial(one_backward_a_token, cast(LlamaForCausalLM, model), ids, some)
    # The forward pass of the peer is counted once, its backward passes are scaled to all tokens.
    forward = partial(_forward, model, ids)
    seconds = interleaved({"peer": peer, "forward": forward, "exact": exact, CHUNKS: chunks}, 3)
    seconds[TF32] = [spent(partial(_in_tf32, exact))[0] for _ in range(3)][1:]
    of = {name: median(values) for name, values in seconds.items()}
    whole = of["forward"] + (of["peer"] - of["forward"]) * count / len(some)
    yield "first tokens", {
        "tokens": count, "of": sizes.length - first, "peer_tokens": len(some), "seconds": seconds,
        "peer_all": whole, "fallback": meter.fallback,
        "memory_gb": {"peer": peak(peer), "exact": peak(exact), CHUNKS: peak(chunks)},
        "ratios": [
            ratio("time, one backward a token / ours", whole / of["exact"], 8.0),
            ratio("time, one backward a token / ours, 64 tokens a pass", whole / of[CHUNKS], 8.0),
            ratio("time, one backward a token / ours with TF32 products", whole / of[TF32], 8.0),
        ],
    }  # fmt: skip
    estimate = partial(meter.estimate, ids, first, count, directions=8, seed=0)
    memory = peak(estimate)  # the warm-up
    estimated = [spent(estimate)[0] for _ in range(3)]
    yield "estimate", {
        "seconds": estimated, "memory_gb": memory,
        "ratios": [ratio("time, one backward a token / estimate", whole / median(estimated), 20.0)],
    }  # fmt: skip
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)


def _forward(model: PreTrainedModel, ids: Tensor) -> None:
    logits = cast(Any, model)(ids[None]).logits
    logits.float()[:, :-1].log_softmax(-1)


def _in_tf32(work: Any) -> Any:
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return work()
    finally:
        torch.set_float32_matmul_precision(usual)


def _gradient_errors(setting: Setting) -> dict[str, Any]:
    """Largest relative errors of norms against float64 with the same weights, in few layers."""
    from gradient_norms import _norm_in_float64, one_backward_a_token
    from safedepth.measure.gradients import GradientMeter

    sizes = setting.sizes
    model = random_model(setting, layers=sizes.few_layers)
    ids = torch.randint(sizes.vocabulary, (64,), generator=torch.Generator().manual_seed(1)).to(
        setting.device
    )
    places = range(32, 40)
    meter = GradientMeter(model, Head(cast(Any, model).lm_head.weight))
    exact = partial(meter.norms, ids, places.start, len(places))
    found = {
        "exact": exact().by_layer, TF32: _in_tf32(exact).by_layer,
        "peer": one_backward_a_token(model, ids, places),
    }  # fmt: skip
    model.zero_grad(set_to_none=True)
    model = model.double()
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):  # it would compute in float32
            module.forward = _norm_in_float64.__get__(module)  # type: ignore[method-assign]
    wanted = one_backward_a_token(model, ids, places)
    return {
        "layers": sizes.few_layers, "fallback": meter.fallback,
        "largest_relative": {name: float(np.abs(one / wanted - 1).max()) for name, one in found.items()},
    }  # fmt: skip


def training(setting: Setting, *, adapter: bool) -> Iterator[Part]:
    """Ten constrained optimiser steps beside ten of TRL's `SFTTrainer` on the same batches."""
    import constrained_training as bench
    from _recovery import OURS, PLAIN, Case

    sizes = setting.sizes
    layers = sizes.layers if adapter else sizes.full_layers
    case = Case(
        "adapter" if adapter else "full", (PLAIN, OURS), safety=0, anchors=sizes.rows_a_step,
        vocabulary=sizes.vocabulary, width=sizes.width, layers=layers, shorter=sizes.shorter,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs, setups = {}, {}
        for variant in case.variants:
            model = random_model(setting, layers=layers)
            setups[variant], runs[variant] = spent(
                partial(bench.Run, case, variant, folder, model=model, on_cpu=not setting.on_gpu)
            )
        yield "set-up", {"seconds": setups, "layers": layers}
        agreement = {variant: _loss_apart(runs[variant], plain=variant == PLAIN) for variant in case.variants}
        if bench._batches(runs[PLAIN]) != bench._batches(runs[OURS]):
            raise RuntimeError("expected the same batches on both sides, found different ones: a bug here")
        seconds = interleaved(
            {variant: run.steps for variant, run in runs.items()},
            min(2, sizes.repeats) if adapter else sizes.repeats,
        )
        pairs = [a / b for a, b in zip(seconds[OURS], seconds[PLAIN], strict=True)]
        yield "ten steps", {
            "layers": layers, "adapter": adapter, "rows_a_step": sizes.rows_a_step, "seconds": seconds,
            "relative_loss_errors": agreement,
            "ratios": [ratio("time, ours / SFTTrainer", median(pairs), 1.05, most=True)],
        }  # fmt: skip
        memory = {variant: peak(run.steps) for variant, run in runs.items()}
        weights = sum(p.numel() * p.element_size() for p in runs[PLAIN].trainer.model.parameters()) / 1e9
        mine, theirs = memory[OURS], memory[PLAIN]
        share = None if mine is None or theirs is None else (mine + weights) / (theirs + weights)
        yield "memory", {
            "gb_above_weights": memory, "weights_gb": weights,
            "ratios": [
                ratio("peak memory with weights, ours / SFTTrainer", share, 1.02, most=True),
            ],
        }  # fmt: skip
    del runs
    gc.collect()


@torch.no_grad()
def _loss_apart(run: Any, *, plain: bool) -> float | None:
    """How far the first loss is from equation (3), or the plain loss, with float32 logits a row at a time."""
    batch = next(iter(run.trainer.get_train_dataloader()))
    model = run.trainer.model.eval()
    terms = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        places = (labels != -100).nonzero()[:, 0]
        row = ids[: int(places[-1]) + 1]
        own = _row_log_probs(model, row, places)
        if plain:
            terms.append(-own)
            continue
        if not hasattr(model, "disable_adapter"):
            return None  # the model as it was is gone
        with model.disable_adapter():
            of = _row_log_probs(model, row, places)
        betas = torch.tensor([PAPER[min(i, len(PAPER) - 1)] for i in range(len(places))], device=own.device)
        terms.append(2 / betas * torch.nn.functional.softplus(betas * (of - own), threshold=1e4))
    wanted = torch.cat(terms).mean().item()
    return abs(float(run.first_loss()) / wanted - 1)


def _row_log_probs(model: Any, ids: Tensor, places: Tensor) -> Tensor:
    logits = model(input_ids=ids[None], use_cache=False).logits[0, places - 1].float()
    found: Tensor = logits.log_softmax(-1).gather(1, ids[places, None])[:, 0]
    return found
