"""Gradient norms of token losses against one backward pass a token: time, peak memory and error.

    python benchmarks/gradient_norms.py [--quick] [--out gradient_norms.json]

The peer is the paper's scheme: one forward pass, and for every token a backward pass
through the whole graph, whose gradients are read layer by layer. Ours are exact norms of
all layers, exact norms of the last three blocks, final norm and head (what the paper
reports), and estimates of the whole model's along 8 directions.

The peer's cost is the same for every token, so it is timed on a few, evenly spaced, and
scaled. Variants are interleaved in one process per allocator (see docs/benchmarks.md), on
one thread, and timed in that process's CPU seconds, which other work does not count to.
Memory is measured in a process per variant, above what model and libraries take. Errors
are against float64, one token after another, in the same process as the times.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from _measure import ALLOCATORS, MEMORY_ENVIRONMENT, in_subprocess, peak_above
from safedepth.measure.gradients import GradientMeter
from safedepth.nouns import Head

Floats = NDArray[np.float64]

DIRECTIONS, LAST = 8, 3
PEER, EXACT, LAST_BLOCKS, SKETCH = "one backward a token", "exact", f"exact, last {LAST} blocks", "estimate"


@dataclass(frozen=True)
class Case:
    """A Llama of random weights, a sequence, and how many tokens after the prompt are measured."""

    title: str
    width: int
    layers: int
    vocabulary: int
    length: int
    prompt: int
    tokens: int
    peer_tokens: int = 8
    """Tokens that the peer is timed on."""

    @property
    def some(self) -> list[int]:
        """Those tokens, counted from the first that is measured."""
        return [round(i) for i in np.linspace(0, self.tokens - 1, min(self.peer_tokens, self.tokens))]


QUICK = (
    Case("all tokens", 256, 8, 32_000, length=256, prompt=64, tokens=192),
    Case("first 50 of 300", 256, 8, 32_000, length=400, prompt=100, tokens=50),
)
FULL = (*QUICK, Case("a wider model", 1024, 4, 4_000, length=128, prompt=65, tokens=63))
TINY = Case("warm-up", 64, 1, 512, length=24, prompt=8, tokens=16, peer_tokens=2)


class Inputs:
    """The model, its ids and its meters."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=case.vocabulary, hidden_size=case.width, intermediate_size=case.width * 11 // 4,
            num_hidden_layers=case.layers, num_attention_heads=case.width // 32,
            num_key_value_heads=case.width // 32, max_position_embeddings=2048, tie_word_embeddings=False,
            initializer_range=0.05,
        )  # fmt: skip
        self.case = case
        self.model = LlamaForCausalLM(config).eval()
        self.ids = torch.randint(case.vocabulary, (case.length,))
        head = Head(self.model.lm_head.weight)
        self.meter = GradientMeter(self.model, head)
        self.last = GradientMeter(self.model, head, last_blocks=LAST)


def layers_of(model: LlamaForCausalLM) -> dict[str, list[torch.nn.Parameter]]:
    backbone = cast(Any, model.model)
    layers = {f"block {i}": list(block.parameters()) for i, block in enumerate(backbone.layers, start=1)}
    return {
        "embedding": list(backbone.embed_tokens.parameters()),
        **layers,
        "final norm": list(backbone.norm.parameters()),
        "head": list(model.lm_head.parameters()),
    }


def one_backward_a_token(model: LlamaForCausalLM, ids: Tensor, tokens: Sequence[int]) -> Floats:
    """Norms [n, layers] for the tokens of `ids` at these places, as the paper's code takes them."""
    layers = layers_of(model)
    logits = cast(Tensor, cast(Any, model)(ids[None]).logits)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_probs = logits[:, :-1].log_softmax(-1).gather(2, ids[None, 1:, None])[0, :, 0]
    found = []
    for token in tokens:
        (-log_probs[token - 1]).backward(retain_graph=True)
        norms = [torch.nn.utils.clip_grad_norm_(own, math.inf).item() for own in layers.values()]
        found.append(norms)
        model.zero_grad()
    return np.array(found)


def peer(inputs: Inputs) -> Floats:
    return one_backward_a_token(inputs.model, inputs.ids, [inputs.case.prompt + i for i in inputs.case.some])


def exact(inputs: Inputs) -> Floats:
    return inputs.meter.norms(inputs.ids, inputs.case.prompt, inputs.case.tokens).by_layer


def last_blocks(inputs: Inputs) -> Floats:
    return inputs.last.norms(inputs.ids, inputs.case.prompt, inputs.case.tokens).by_layer


def sketch(inputs: Inputs) -> Floats:
    found = inputs.meter.estimate(
        inputs.ids, inputs.case.prompt, inputs.case.tokens, directions=DIRECTIONS, seed=0
    )
    return found.whole


VARIANTS: dict[str, Callable[[Inputs], Floats]] = {
    PEER: peer, EXACT: exact, LAST_BLOCKS: last_blocks, SKETCH: sketch,
}  # fmt: skip


def float64_norms(inputs: Inputs) -> Floats:
    """The peer's tokens in float64."""
    model = copy.deepcopy(inputs.model).double()
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):  # it would compute in float32
            module.forward = _norm_in_float64.__get__(module)  # type: ignore[method-assign]
    return one_backward_a_token(model, inputs.ids, [inputs.case.prompt + i for i in inputs.case.some])


def _norm_in_float64(norm: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * (hidden * scale)


def errors(inputs: Inputs, found: dict[str, Floats]) -> dict[str, float]:
    """Largest relative errors of the exact variants; of the estimate the root mean square over tokens."""
    wanted = float64_norms(inputs)
    mine = {name: norms[inputs.case.some] for name, norms in found.items() if name != PEER} | {
        PEER: found[PEER]
    }
    whole = np.sqrt((wanted**2).sum(axis=1))
    worst = {name: float(np.nanmax(np.abs(mine[name] / wanted - 1))) for name in (PEER, EXACT, LAST_BLOCKS)}
    everywhere = np.sqrt((found[EXACT] ** 2).sum(axis=1))
    off = found[SKETCH] / everywhere - 1
    return worst | {
        "whole model": float(np.abs(np.sqrt((mine[EXACT] ** 2).sum(axis=1)) / whole - 1).max()),
        SKETCH: float(np.sqrt((off**2).mean())),
    }


def measure_time(case: Case, repeats: int) -> dict[str, Any]:
    """Interleaved times of every variant, the peer's scaled to all tokens; in a process of its own."""
    inputs = Inputs(case)
    found = {name: variant(inputs) for name, variant in VARIANTS.items()}  # the warm-up, and the check
    for meter in (inputs.meter, inputs.last):
        if meter.fallback is not None:
            raise RuntimeError(f"expected the fast path, found that {meter.fallback}")
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(repeats):
        for name, variant in VARIANTS.items():
            started = time.process_time()
            variant(inputs)
            scale = case.tokens / len(case.some) if name == PEER else 1
            seconds[name].append((time.process_time() - started) * scale)
    return {"seconds": seconds, "errors": errors(inputs, found)}


def measure_memory(case: Case, variant: str) -> float:
    """MB above model and libraries at the peak of one call; in a process of its own."""
    VARIANTS[variant](Inputs(TINY))  # libraries load and set up their threads
    inputs = Inputs(case)
    inputs.meter.norms(inputs.ids[:4], 3)  # the check, which is a backward pass
    inputs.last.norms(inputs.ids[:4], 3)
    return peak_above(lambda: VARIANTS[variant](inputs))


def run_task(task: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    case = Case(**task["case"])
    if task["what"] == "time":
        print(json.dumps(measure_time(case, task["repeats"])))
    else:
        print(json.dumps(measure_memory(case, task["variant"])))


def run_case(case: Case, repeats: int) -> dict[str, Any]:
    shape = f"d={case.width} L={case.layers} V={case.vocabulary:,}"
    print(f"\n{case.title}: {case.tokens} tokens of {case.length}, {shape}", flush=True)
    base = {"case": asdict(case)}
    memory = {
        name: in_subprocess(__file__, {**base, "what": "memory", "variant": name}, MEMORY_ENVIRONMENT)
        for name in VARIANTS
    }
    for name, megabytes in memory.items():
        print(f"  memory   {name:22s} {megabytes:9.1f} MB", flush=True)
    result: dict[str, Any] = {"case": asdict(case), "memory_mb": memory, "time": {}}
    for allocator, environment in ALLOCATORS.items():
        timed = in_subprocess(__file__, {**base, "what": "time", "repeats": repeats}, environment)
        result["time"][allocator] = timed
        for name, seconds in timed["seconds"].items():
            print(
                f"  {allocator:8s} {name:22s} {statistics.median(seconds):8.2f} s"
                f"  [{min(seconds):.2f}, {max(seconds):.2f}]  peer / this {ratio(timed, name):6.2f}"
                f"  error {timed['errors'][name]:.1e}",
                flush=True,
            )
    return result


def ratio(timed: dict[str, Any], name: str) -> float:
    """The peer's median time over a variant's."""
    seconds = timed["seconds"]
    return float(statistics.median(seconds[PEER]) / statistics.median(seconds[name]))


def show(results: list[dict[str, Any]]) -> None:
    """The lines of docs/benchmarks.md, and the goals."""
    print(f"\n| case | {EXACT} | {LAST_BLOCKS} | {DIRECTIONS} directions | memory, peer → exact | error |")
    print("|---|---|---|---|---|---|")
    for result in results:
        ratios = [
            " / ".join(f"{ratio(result['time'][a], name):.1f}×" for a in ("default", "reuse"))
            for name in (EXACT, LAST_BLOCKS, SKETCH)
        ]
        memory = result["memory_mb"]
        error = max(timed["errors"][EXACT] for timed in result["time"].values())
        print(
            f"| {result['case']['title']} | {' | '.join(ratios)} "
            f"| {memory[PEER]:,.0f} → {memory[EXACT]:,.0f} MB | {error:.1e} |"
        )
    everything, first = (result["time"]["reuse"] for result in results[:2])
    goals = {
        "all tokens at least 3× as fast": ratio(everything, EXACT) >= 3,
        "first 50 of 300 at least 7×": ratio(first, EXACT) >= 7,
        f"first 50, last {LAST} blocks at least 15×": ratio(first, LAST_BLOCKS) >= 15,
        "estimates at least 20×": min(ratio(timed, SKETCH) for timed in (everything, first)) >= 20,
        "error at most 1e-5": max(
            timed["errors"][name]
            for result in results
            for timed in result["time"].values()
            for name in (EXACT, LAST_BLOCKS)
        )
        <= 1e-5,
    }
    print("\n" + "\n".join(f"- {goal}: {'met' if met else '**missed**'}" for goal, met in goals.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="without the wider model, and three repeats")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each variant")
    parser.add_argument("--out", type=Path, help="write every number to this JSON file")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run_task(json.loads(arguments.task))
        return
    repeats = min(3, arguments.repeats) if arguments.quick else arguments.repeats
    cases = QUICK if arguments.quick else FULL
    results = [run_case(case, repeats) for case in cases]
    show(results)
    if arguments.out:
        report = {
            "machine": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in ("torch", "transformers", "safedepth")},
            "threads": 1,
            "date": time.strftime("%Y-%m-%d"),
            "cases": results,
        }
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
