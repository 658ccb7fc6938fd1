"""Prefill sweep, prompts x depths x seeds: our engine beside Hugging Face's `generate`.

The peer runs as the paper's evaluation does: one run for every depth and seed, static
batches of ten padded on the left, each batch until its longest answer. Both sides
decode the same random model with the same answer lengths (half of the answers end
early, as refusals do; the rest use all the tokens), so no weights are needed:

    python benchmarks/prefill_sweep.py --threads 1 --out prefill_sweep.json

Figures are medians of interleaved repeats; greedy tokens are compared one by one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from safedepth.provider import Engine, Job, Sampling

DEPTHS = (0, 5, 10, 20, 40)
GOAL = 4.0

Tokens = list[tuple[int, ...]]


@dataclass(frozen=True)
class Item:
    """One answer to generate: the ids to continue, its seed, and how long the answer will be."""

    ids: tuple[int, ...]
    seed: int
    length: int


@dataclass(frozen=True)
class Decoding:
    """The decoding parameters of both sides."""

    name: str
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    @property
    def peer(self) -> dict[str, Any]:
        if self.temperature == 0:
            return {"do_sample": False}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k or 0,
        }


GREEDY = Decoding("greedy", temperature=0)
SAMPLED = Decoding("sampled", temperature=0.9, top_p=0.6, top_k=50)


class LengthTrace(StoppingCriteria):
    """Ends each row of a batch at a length set beforehand, as an end-of-sequence token would."""

    def __init__(self, lengths: list[int], start: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.start = start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return (input_ids.shape[1] - self.start >= self.lengths.to(input_ids.device)).to(torch.bool)


def random_model(args: argparse.Namespace) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=int(2.75 * args.width),
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // args.head_width,
        num_key_value_heads=args.width // args.head_width // args.groups,
        max_position_embeddings=4096,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=None,
        dtype=args.dtype,
    )
    with torch.device(args.device):
        model = LlamaForCausalLM(config).to(getattr(torch, args.dtype))
    model.generation_config.pad_token_id = 0
    return cast(PreTrainedModel, model.eval())


def make_items(args: argparse.Namespace) -> dict[tuple[int, int], list[Item]]:
    """The sweep's items by (depth, seed), the unit in which the peer runs."""
    rng = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, args.vocabulary, (n,), generator=rng).tolist())

    lengths = torch.randint(args.shortest, args.longest, (args.prompts,), generator=rng).tolist()
    prompts = [(ids(n), ids(max(DEPTHS))) for n in lengths]
    runs = {}
    for seed in range(args.seeds):
        for depth in DEPTHS:
            u = torch.rand(args.prompts, 2, generator=rng).tolist()
            tokens = [args.tokens if a < 0.5 else int(args.tokens * (1 + 3 * b) / 8) for a, b in u]
            pairs = zip(prompts, tokens, strict=True)
            runs[depth, seed] = [Item((*prompt, *answer[:depth]), seed, n) for (prompt, answer), n in pairs]
    return runs


def peer_batch(model: PreTrainedModel, items: list[Item], decoding: Decoding) -> Tokens:
    """One static batch, padded on the left, until its longest answer."""
    width = max(len(item.ids) for item in items)
    ids = torch.tensor(
        [[0] * (width - len(item.ids)) + list(item.ids) for item in items], device=model.device
    )
    mask = torch.tensor(
        [[0] * (width - len(item.ids)) + [1] * len(item.ids) for item in items], device=model.device
    )
    output = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max(item.length for item in items),
        stopping_criteria=StoppingCriteriaList([LengthTrace([item.length for item in items], width)]),
        **decoding.peer,
    )
    return [tuple(row[width : width + item.length].tolist()) for row, item in zip(output, items, strict=True)]


@torch.inference_mode()
def peer(model: PreTrainedModel, runs: dict[Any, list[Item]], decoding: Decoding, size: int) -> Tokens:
    batches = [run[start : start + size] for run in runs.values() for start in range(0, len(run), size)]
    return [tokens for batch in batches for tokens in peer_batch(model, batch, decoding)]


def ours(engine: Engine, runs: dict[Any, list[Item]], decoding: Decoding) -> Tokens:
    jobs = [
        Job(
            item.ids,
            Sampling(
                max_tokens=item.length,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k,
                seed=item.seed,
            ),
        )
        for run in runs.values()
        for item in run
    ]
    return [completion.ids for completion in engine.complete(jobs)]


def timed(work: Callable[[], Tokens]) -> tuple[float, Tokens]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    tokens = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, tokens


def measure(args: argparse.Namespace) -> dict[str, Any]:
    model = random_model(args)
    runs = make_items(args)
    everything = [item for run in runs.values() for item in run]
    one_run = {"all": everything}
    seconds: dict[str, list[float]] = {}
    same = 0
    with Engine(model, slots=args.slots) as engine:
        sides: dict[str, Callable[[Decoding], Tokens]] = {
            f"generate, batches of {args.batch}, one run a depth": lambda d: peer(model, runs, d, args.batch),
            f"generate, batches of {args.slots}, all together": lambda d: peer(model, one_run, d, args.slots),
            f"safedepth, {args.slots} slots": lambda d: ours(engine, runs, d),
        }
        for repeat in range(args.repeats):
            for decoding in (GREEDY, SAMPLED):
                found = {}
                for side, work in sides.items():
                    spent, found[side] = timed(lambda work=work, decoding=decoding: work(decoding))  # type: ignore[misc]
                    seconds.setdefault(f"{decoding.name}: {side}", []).append(spent)
                if decoding is GREEDY and repeat == 0:
                    reference, _, engine_tokens = found.values()
                    same = sum(a == b for a, b in zip(reference, engine_tokens, strict=True))
        counters = engine.counters
    return {
        "settings": {
            key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()
        },
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "answers": len(everything),
        "answer_tokens": sum(item.length for item in everything),
        "greedy_identical": same,
        "seconds": seconds,
        "prefilled_share": counters.prefill_tokens / counters.asked_tokens,
        "rows_per_step": counters.step_rows / counters.steps,
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['answers']} answers, {result['answer_tokens']} tokens; {result['machine']}")
    for decoding in (GREEDY.name, SAMPLED.name):
        rows = {name: times for name, times in result["seconds"].items() if name.startswith(decoding)}
        base = statistics.median(next(iter(rows.values())))
        for name, times in rows.items():
            middle = statistics.median(times)
            spread = f"{min(times):7.2f} to {max(times):7.2f}"
            print(f"  {name:60s} {middle:7.2f} s ({spread})  {base / middle:5.2f}x")
    print(f"greedy tokens identical in {result['greedy_identical']} of {result['answers']} answers")
    print(f"prefilled {result['prefilled_share']:.1%} of all context tokens")
    print(f"{result['rows_per_step']:.1f} rows a step")
    print(f"goal: at least {GOAL:g}x of the first line, greedy tokens identical")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48, help="most tokens in an answer")
    parser.add_argument("--shortest", type=int, default=90, help="fewest tokens in a prompt")
    parser.add_argument("--longest", type=int, default=160, help="most tokens in a prompt")
    parser.add_argument("--batch", type=int, default=10, help="the peer's batch size")
    parser.add_argument("--slots", type=int, default=60, help="our rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--head-width", type=int, default=32)
    parser.add_argument("--groups", type=int, default=1, help="attention heads that share keys and values")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="write the figures to this JSON file")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    result = measure(args)
    show(result)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
