"""Per-token KL against its peers: time, peak memory and error, side by side in one run.

    python benchmarks/kl.py [--quick] [--out kl.json]

Peers: the plain version, which holds the logits of both models for every position
[B, T, V], prompts included; and TRL's ChunkedDivergenceFunction on the answer rows.
Hidden states and heads are random, the second model a perturbation of the first, so
that KLs are 1e-3 to 1e-2 nats.

Times are interleaved in one process per allocator: `reuse` keeps freed memory, as a
GPU's allocator does, and is what an algorithm is to be judged by; `default` is glibc as
it comes. Memory is measured in a process per variant, above what the inputs take.
Errors are against float64, on the same inputs, in the same process as the times.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from _measure import ALLOCATORS, MEMORY_ENVIRONMENT, in_subprocess, peak_above
from safedepth.measure.kl import token_kl
from safedepth.nouns import Head

POSITIONS, PROMPT = 256, 64
PERTURBATION = 0.02
ERROR_ROWS = 64


@dataclass(frozen=True)
class Case:
    """A batch of `batch` sequences of 256 tokens, the first 64 of them prompt."""

    vocabulary: int
    width: int
    batch: int

    @property
    def title(self) -> str:
        return (
            f"V={self.vocabulary:,} d={self.width} B={self.batch} ({self.batch * (POSITIONS - PROMPT)} rows)"
        )


QUICK = (Case(32_000, 256, 4), Case(128_256, 256, 2))
FULL = (*QUICK, Case(32_000, 1024, 4), Case(128_256, 1024, 2))


class Inputs:
    """Random hidden states [B, T, d] and heads of two similar models."""

    def __init__(self, case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

        spread = 3 / case.width**0.5
        self.hidden_p = normal(case.batch, POSITIONS, case.width)
        self.head_p = normal(case.vocabulary, case.width).mul_(spread)
        self.hidden_q = normal(*self.hidden_p.shape).mul_(PERTURBATION).add_(self.hidden_p)
        self.head_q = normal(*self.head_p.shape).mul_(PERTURBATION * spread).add_(self.head_p)
        self.answers = torch.zeros(case.batch, POSITIONS, dtype=torch.bool, device=device)
        self.answers[:, PROMPT - 1 : -1] = True  # the positions that predict an answer token
        self.rows_p, self.rows_q = self.hidden_p[self.answers], self.hidden_q[self.answers]


def plain(inputs: Inputs) -> Tensor:
    logits_p = functional.linear(inputs.hidden_p, inputs.head_p).float()[:, :-1]
    logits_q = functional.linear(inputs.hidden_q, inputs.head_q).float()[:, :-1]
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)[inputs.answers[:, :-1]]


def trl(inputs: Inputs) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    forward_kl = 0.0  # the teacher is p
    kl: Tensor
    kl, _ = ChunkedDivergenceFunction.apply(
        inputs.rows_q, inputs.head_q, None, inputs.rows_p, inputs.head_p, None, forward_kl
    )
    return kl


def ours(inputs: Inputs) -> Tensor:
    return token_kl(inputs.rows_p, Head(inputs.head_p), inputs.rows_q, Head(inputs.head_q))


def floor(inputs: Inputs) -> Tensor:
    """Torch's own two matrix products over the answer rows: not a peer, a yardstick."""
    functional.linear(inputs.rows_p, inputs.head_p)
    return functional.linear(inputs.rows_q, inputs.head_q)


VARIANTS: dict[str, Callable[[Inputs], Tensor]] = {"plain": plain, "trl": trl, "ours": ours}


def float64_kl(inputs: Inputs, rows: int) -> Tensor:
    head_p, head_q = inputs.head_p.double(), inputs.head_q.double()
    result = []
    for start in range(0, rows, 16):
        some = slice(start, min(start + 16, rows))
        log_p = (inputs.rows_p[some].double() @ head_p.T).log_softmax(-1)
        log_q = (inputs.rows_q[some].double() @ head_q.T).log_softmax(-1)
        result.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return torch.cat(result)


@torch.no_grad()
def measure_time(case: Case, repeats: int) -> dict[str, Any]:
    """Interleaved times of every variant and their errors; runs in a process of its own."""
    inputs = Inputs(case)
    exact = float64_kl(inputs, ERROR_ROWS)
    variants = {**VARIANTS, "floor": floor}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    errors: dict[str, dict[str, float]] = {}
    for repeat in range(repeats + 1):
        for name, variant in variants.items():
            started = time.perf_counter()
            kl = variant(inputs)
            elapsed = time.perf_counter() - started
            if repeat > 0:
                seconds[name].append(elapsed)
            elif name in VARIANTS:  # the warm-up
                error = (kl[: len(exact)].double() - exact).abs()
                errors[name] = {
                    "absolute": error.max().item(),
                    "relative": (error / exact).max().item(),
                    "negative": int((kl < 0).sum()),
                }
            del kl
    return {
        "seconds": seconds,
        "errors": errors,
        "kl": [exact.min().item(), exact.median().item(), exact.max().item()],
    }


@torch.no_grad()
def measure_memory(case: Case, variant: str) -> float:
    """MB above the inputs at the peak of one call; runs in a process of its own."""
    inputs = Inputs(case)
    warm_up = Inputs(Case(vocabulary=512, width=case.width, batch=1))
    VARIANTS[variant](warm_up)  # libraries load and set up their threads
    return peak_above(lambda: VARIANTS[variant](inputs))


def run_task(task: dict[str, Any]) -> None:
    torch.set_num_threads(task["threads"])
    case = Case(**task["case"])
    if task["what"] == "time":
        print(json.dumps(measure_time(case, task["repeats"])))
    else:
        print(json.dumps(measure_memory(case, task["variant"])))


def run_case(case: Case, repeats: int, threads: int) -> dict[str, Any]:
    print(f"\n{case.title}", flush=True)
    base = {"case": asdict(case), "threads": threads}
    wide = {**base, "case": asdict(case) | {"batch": 4 * case.batch}}
    memory = {
        name: in_subprocess(__file__, {**base, "what": "memory", "variant": name}, MEMORY_ENVIRONMENT)
        for name in VARIANTS
    }
    memory["ours, 4 x the rows"] = in_subprocess(
        __file__, {**wide, "what": "memory", "variant": "ours"}, MEMORY_ENVIRONMENT
    )
    for name, megabytes in memory.items():
        print(f"  memory   {name:20s} {megabytes:9.1f} MB   plain / this {memory['plain'] / megabytes:6.1f}")
    result: dict[str, Any] = {"case": asdict(case), "memory_mb": memory, "time": {}}
    for allocator, environment in ALLOCATORS.items():
        timed = in_subprocess(__file__, {**base, "what": "time", "repeats": repeats}, environment)
        result["time"][allocator] = timed
        _print_times(allocator, timed)
    return result


def _print_times(allocator: str, timed: dict[str, Any]) -> None:
    medians = {name: statistics.median(seconds) for name, seconds in timed["seconds"].items()}
    for name, seconds in timed["seconds"].items():
        line = (
            f"  {allocator:8s} {name:20s} {medians[name] * 1e3:9.1f} ms"
            f"  [{min(seconds) * 1e3:.1f}, {max(seconds) * 1e3:.1f}]"
            f"  plain / this {medians['plain'] / medians[name]:5.2f}"
            f"  trl / this {medians['trl'] / medians[name]:5.2f}"
        )
        if name in timed["errors"]:
            error = timed["errors"][name]
            line += (
                f"  error {error['absolute']:.1e} (relative {error['relative']:.1e}),"
                f" {error['negative']} negative"
            )
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="d = 256 only")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write every number to this JSON file")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run_task(json.loads(arguments.task))
        return
    report = {
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "trl", "safedepth")},
        "threads": arguments.threads,
        "date": time.strftime("%Y-%m-%d"),
        "cases": [
            run_case(case, arguments.repeats, arguments.threads)
            for case in (QUICK if arguments.quick else FULL)
        ],
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
