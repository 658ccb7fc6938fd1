"""Recovery training beside its peers: time and peak memory of optimiser steps, and the error of their losses.

    python benchmarks/recovery_training.py [--quick] [--out recovery_training.json]

Two comparisons on a random Llama and toy text of log-normal lengths:

- `RecoveryTrainer` against TRL's plain `SFTTrainer`, on the same examples in the same
  batches: 16 safety examples and 64 anchors a step. What ours adds is the weighted loss and
  making each example when it is read.
- `RecoveryTrainer` against the paper's scheme, on the 4 and 16 examples that one of its four
  GPUs sees: two padded forwards, of all safety examples and of all anchors, with the logits
  of every position, and a pooled mean in each. The optimiser and the loop are the same.

A repeat is one `train()` of one optimiser step, from the first batch fetched to the last
callback, always on the same examples; variants are interleaved in one process per
allocator (see docs/benchmarks.md). Memory is measured in a process per variant, above what
model and libraries take: activations, gradients and the optimiser's state. Losses of the
first step are compared with float64, an example at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from _measure import ALLOCATORS, MEMORY_ENVIRONMENT, in_subprocess, peak_above
from _recovery import OURS, PAPER, PLAIN, Case, Run, random_model
from safedepth.train.draws import Draws
from safedepth.train.examples import IGNORED

CASES = (
    Case("plain", (PLAIN, OURS), safety=16, anchors=64),
    Case("paper", (PAPER, OURS), safety=4, anchors=16),
)
SMALL: dict[str, Any] = {"vocabulary": 4096, "width": 64, "layers": 2, "shorter": 4}
TINY = Case("warm-up", (), safety=1, anchors=1, vocabulary=1024, width=32, layers=1, shorter=8)


@torch.no_grad()
def float64_losses(case: Case, draws: Draws) -> tuple[list[Tensor], list[Tensor]]:
    """Losses of every token with loss, by example: of the safety examples and of the anchors."""
    model = random_model(case).double().eval()
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):  # it would compute in float32
            module.forward = _norm_in_float64.__get__(module)  # type: ignore[method-assign]
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(case.safety + case.anchors):
        draw = draws.draw(number)
        ids, labels = torch.tensor([draw.example.ids]), torch.tensor(draw.example.labels)[1:]
        counted = labels != IGNORED
        hidden = cast(Any, model.model)(input_ids=ids, use_cache=False).last_hidden_state[0, :-1][counted]
        log_probs = (hidden @ model.lm_head.weight.T).log_softmax(-1)
        found[0 if draw.safety else 1].append(-log_probs.gather(-1, labels[counted][:, None])[:, 0])
    return found


def _norm_in_float64(norm: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * (hidden * scale)


def exact_loss(variant: str, alpha: float, losses: tuple[list[Tensor], list[Tensor]]) -> float:
    """What a variant's loss of the step is by its own definition, in float64."""
    safety, anchors = losses
    if variant == PLAIN:
        return torch.cat([*safety, *anchors]).mean().item()
    if variant == OURS:
        means = [torch.stack([one.mean() for one in kind]).mean() for kind in (safety, anchors)]
    else:
        means = [torch.cat(kind).mean() for kind in (safety, anchors)]
    return (alpha * means[0] + (1 - alpha) * means[1]).item()


def measure_time(case: Case, repeats: int) -> dict[str, Any]:
    """Interleaved times of all variants, and the error of their losses; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {variant: Run(case, variant, folder) for variant in case.variants}
        ours = runs[OURS]
        if PLAIN in runs and list(ours.batches()) != list(runs[PLAIN].batches()):
            raise RuntimeError("expected the same batches on both sides, found different ones: a bug here")
        exact = float64_losses(case, ours.draws)
        errors = {}
        for variant, run in runs.items():  # the warm-up
            wanted = exact_loss(variant, run.alpha, exact)
            errors[variant] = abs(run.first_step() - wanted) / wanted
        seconds: dict[str, list[float]] = {variant: [] for variant in runs}
        for _ in range(repeats):
            for variant, run in runs.items():
                seconds[variant].append(run.step())
    lengths = [len(ours.draws.draw(number).example.ids) for number in range(len(ours.draws))]
    batch = ours.trainer.args.per_device_train_batch_size
    return {
        "seconds": seconds,
        "errors": errors,
        "tokens": sum(lengths),
        "padded": sum(batch * max(lengths[i : i + batch]) for i in range(0, len(lengths), batch)),
        "with_loss": sum(len(one) for kind in exact for one in kind),
    }


def measure_memory(case: Case, variant: str) -> float:
    """MB above model and libraries at the peak of one step; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Run(TINY, variant, folder).step()  # libraries load and set up their threads
        run = Run(case, variant, folder)
        return peak_above(run.step)


def run_task(task: dict[str, Any]) -> None:
    torch.set_num_threads(task["threads"])
    transformers.logging.set_verbosity_error()
    case = Case(**task["case"])
    if task["what"] == "time":
        print(json.dumps(measure_time(case, task["repeats"])))
    else:
        print(json.dumps(measure_memory(case, task["variant"])))


def run_case(case: Case, repeats: int, threads: int) -> dict[str, Any]:
    print(f"\n{case.title}", flush=True)
    base = {"case": asdict(case), "threads": threads}
    memory = {
        variant: in_subprocess(__file__, {**base, "what": "memory", "variant": variant}, MEMORY_ENVIRONMENT)
        for variant in case.variants
    }
    for variant, megabytes in memory.items():
        print(f"  memory   {variant:16s} {megabytes:9.1f} MB", flush=True)
    result: dict[str, Any] = {"case": asdict(case), "memory_mb": memory, "time": {}}
    for allocator, environment in ALLOCATORS.items():
        timed = in_subprocess(__file__, {**base, "what": "time", "repeats": repeats}, environment)
        result["time"][allocator] = timed
        for variant, seconds in timed["seconds"].items():
            middle = statistics.median(seconds)
            print(
                f"  {allocator:8s} {variant:16s} {middle:8.3f} s a step"
                f" [{min(seconds):.3f}, {max(seconds):.3f}] {timed['tokens'] / middle:8.0f} tokens/s"
                f"   loss off float64 by {timed['errors'][variant]:.1e} of it",
                flush=True,
            )
    timed = result["time"]["default"]
    print(
        f"  a step: {timed['tokens']} tokens, {timed['with_loss']} with loss, {timed['padded']} as ours pads"
    )
    return result


def against_peer(result: dict[str, Any]) -> tuple[float, float, float]:
    """Peer over ours: memory, and time with the default and the reusing allocator."""
    peer, ours = result["case"]["variants"]
    memory = result["memory_mb"]
    medians = {
        allocator: {variant: statistics.median(seconds) for variant, seconds in timed["seconds"].items()}
        for allocator, timed in result["time"].items()
    }
    default, reuse = (medians[name][peer] / medians[name][ours] for name in ("default", "reuse"))
    return memory[peer] / memory[ours], default, reuse


def show(results: list[dict[str, Any]]) -> None:
    """The lines of docs/benchmarks.md, and the goals."""
    print(
        "\n| peer | a step | time over the peer's, default / reuse | peak memory, peer → ours | loss error |"
    )
    print("|---|---|---|---|---|")
    for result in results:
        peer, ours = result["case"]["variants"]
        memory, default, reuse = against_peer(result)
        error = max(timed["errors"][ours] for timed in result["time"].values())
        megabytes = result["memory_mb"]
        print(
            f"| {peer} | {result['case']['safety']} + {result['case']['anchors']} "
            f"| {1 / default:.2f}× / {1 / reuse:.2f}× "
            f"| {megabytes[peer]:,.0f} → {megabytes[ours]:,.0f} MB ({1 / memory:.2f}×) | {error:.1e} |"
        )
    plain, paper = (against_peer(result) for result in results)
    goals = {
        "time at most 1.1× of SFTTrainer's (both allocators)": min(plain[1:]) >= 1 / 1.1,
        "memory at most 1.05× of SFTTrainer's": plain[0] >= 1 / 1.05,
        "at least 1.5× as fast as the paper's scheme (reuse)": paper[2] >= 1.5,
        "memory at most 1/4 of the paper's scheme": paper[0] >= 4,
    }
    print("\n" + "\n".join(f"- {goal}: {'met' if met else '**missed**'}" for goal, met in goals.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small model, short texts and two repeats: ratios mean nothing"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write every number to this JSON file")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run_task(json.loads(arguments.task))
        return
    cases = [replace(case, **SMALL) if arguments.quick else case for case in CASES]
    repeats = min(2, arguments.repeats) if arguments.quick else arguments.repeats
    results = [run_case(case, repeats, arguments.threads) for case in cases]
    show(results)
    if arguments.out:
        report = {
            "machine": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in ("torch", "transformers", "trl", "safedepth")},
            "threads": arguments.threads,
            "date": time.strftime("%Y-%m-%d"),
            "cases": results,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
