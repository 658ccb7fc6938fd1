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
from dataclasses import asdict, dataclass
from functools import partial
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


DECODINGS = (GREEDY, SAMPLED)
OURS = "safedepth"


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
    """All jobs at once."""
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


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and seconds of processor time, which a busy machine disturbs less."""

    clock: float
    processor: float


def timed(work: Callable[[], Tokens]) -> tuple[Spent, Tokens]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    clock, processor = time.perf_counter(), time.process_time()
    tokens = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Spent(time.perf_counter() - clock, time.process_time() - processor), tokens


def measure(args: argparse.Namespace) -> dict[str, Any]:
    model = random_model(args)
    runs = make_items(args)
    everything = [item for run in runs.values() for item in run]
    one_run = {"all": everything}
    first = f"generate, batches of {args.batch}, one run a depth"
    sides: dict[str, Callable[[Engine, Decoding], Tokens]] = {
        first: lambda _, d: peer(model, runs, d, args.batch),
        f"generate, batches of {args.slots}, all together": lambda _, d: peer(model, one_run, d, args.slots),
        OURS: lambda engine, d: ours(engine, runs, d),
    }
    spent: dict[str, dict[str, list[Spent]]] = {d.name: {side: [] for side in sides} for d in DECODINGS}
    found: dict[str, Tokens] = {}
    same = 0
    for _ in range(args.repeats):
        for decoding in DECODINGS:
            for side, work in sides.items():
                # An engine of its own, so that no repeat finds the last one's prefills.
                with Engine(model, slots=args.slots) as engine:
                    seconds, found[side] = timed(partial(work, engine, decoding))
                spent[decoding.name][side].append(seconds)
            if decoding is GREEDY:
                same = sum(a == b for a, b in zip(found[first], found[OURS], strict=True))
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
        "seconds": {
            name: {side: [asdict(one) for one in times] for side, times in by_side.items()}
            for name, by_side in spent.items()
        },
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['answers']} answers, {result['answer_tokens']} tokens; {result['machine']}")
    for name, by_side in result["seconds"].items():
        middle = {
            side: {kind: statistics.median(one[kind] for one in times) for kind in ("clock", "processor")}
            for side, times in by_side.items()
        }
        base = next(iter(middle.values()))
        print(f"{name:51s}  clock              processor")
        for side, seconds in middle.items():
            columns = [f"{seconds[kind]:7.2f} s {base[kind] / seconds[kind]:5.2f}x" for kind in seconds]
            print(f"  {side:45s}  {'   '.join(columns)}")
    print(f"greedy tokens identical in {result['greedy_identical']} of {result['answers']} answers")
    print(f"goal: at least {GOAL:g}x of the first line, greedy tokens identical")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=10, help="the peer's batch size")
    return parsed(parser, repeats=3)


def parsed(parser: argparse.ArgumentParser, *, repeats: int) -> argparse.Namespace:
    """The command line, with the sizes of a sweep and of its model, which sweeps have in common."""
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48, help="most tokens in an answer")
    parser.add_argument("--shortest", type=int, default=90, help="fewest tokens in a prompt")
    parser.add_argument("--longest", type=int, default=160, help="most tokens in a prompt")
    parser.add_argument("--slots", type=int, default=60, help="our rows")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--head-width", type=int, default=32)
    parser.add_argument("--groups", type=int, default=1, help="attention heads that share keys and values")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="write the figures to this JSON file")
    parser.add_argument("--quick", action="store_true", help="a third of the prompts, layers and repeats")
    args = parser.parse_args()
    if args.quick:
        args.prompts, args.layers, args.repeats = (
            max(1, size // 3) for size in (args.prompts, args.layers, args.repeats)
        )
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    result = measure(args)
    show(result)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
