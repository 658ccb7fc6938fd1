"""Decoding sweep, 49 settings x prompts: our engine beside Hugging Face's `generate`.

One peer runs as the attack's public code does, one `generate` for every prompt and
setting; the other takes all prompts of a setting in one batch, padded on the left. All
sides decode the same random model to lengths set beforehand, so no weights are needed:

    python benchmarks/decoding_sweep.py --threads 1 --out decoding_sweep.json

Figures are medians of interleaved repeats. The peers are given each setting's top-k in
full, not the 50 that `generate` hides. Greedy replies (top-k 1) are compared one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from prefill_sweep import Decoding, Item, Spent, Tokens, peer_batch, random_model, timed
from safedepth.attacks.decoding import DECODINGS, Setting
from safedepth.provider import Engine, Job, Sampling

GOAL = 4.0
ALONE = "generate, one prompt and setting at a time"
BATCHED = "generate, all prompts of a setting in a batch"
OURS = "safedepth"

Sweep = dict[Setting, list[Item]]


def make_sweep(args: argparse.Namespace) -> Sweep:
    """Items by setting; half of the replies end early, as refusals do."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(args.shortest, args.longest, (args.prompts,), generator=rng).tolist()
    prompts = [
        tuple(torch.randint(5, args.vocabulary, (n,), generator=rng).tolist()) for n in lengths
    ]  # fmt: skip
    sweep: Sweep = {}
    for number, setting in enumerate(DECODINGS):
        draws = torch.rand(args.prompts, 2, generator=rng).tolist()
        tokens = [args.tokens if a < 0.5 else max(1, int(args.tokens * (1 + 3 * b) / 8)) for a, b in draws]
        sweep[setting] = [Item(ids, number, n) for ids, n in zip(prompts, tokens, strict=True)]
    return sweep


@torch.inference_mode()
def peer(model: PreTrainedModel, sweep: Sweep, *, size: int) -> Tokens:
    found: Tokens = []
    for setting, items in sweep.items():
        decoding = Decoding(setting.variant, setting.temperature, setting.top_p, setting.top_k)
        for start in range(0, len(items), size):
            found += peer_batch(model, items[start : start + size], decoding)
    return found


def ours(engine: Engine, sweep: Sweep) -> Tokens:
    jobs = [
        Job(
            item.ids,
            Sampling(
                max_tokens=item.length, temperature=setting.temperature, top_p=setting.top_p,
                top_k=setting.top_k, seed=item.seed,
            ),
        )
        for setting, items in sweep.items()
        for item in items
    ]  # fmt: skip
    return [completion.ids for completion in engine.complete(jobs)]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    model, sweep = random_model(args), make_sweep(args)
    sides: dict[str, Callable[[Engine], Tokens]] = {
        ALONE: lambda _: peer(model, sweep, size=1),
        BATCHED: lambda _: peer(model, sweep, size=args.prompts),
        OURS: lambda engine: ours(engine, sweep),
    }
    spent: dict[str, list[Spent]] = {side: [] for side in sides}
    found: dict[str, Tokens] = {}
    for _ in range(args.repeats):
        for side, work in sides.items():
            # An engine of its own, so that no repeat finds the last one's prefills.
            with Engine(model, slots=args.slots) as engine:
                seconds, found[side] = timed(partial(work, engine))
            spent[side].append(seconds)
    greedy = [setting.top_k == 1 for setting, items in sweep.items() for _ in items]
    same = [a == b for a, b in zip(found[ALONE], found[OURS], strict=True)]
    return {
        "settings": {key: str(value) for key, value in vars(args).items()},
        "machine": {
            "device": args.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "replies": len(same),
        "tokens": sum(item.length for items in sweep.values() for item in items),
        "greedy": sum(greedy),
        "greedy_identical": sum(s for s, g in zip(same, greedy, strict=True) if g),
        "seconds": {side: [asdict(one) for one in times] for side, times in spent.items()},
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['replies']} replies, {result['tokens']} tokens; {result['machine']}")
    middle = {
        side: {kind: statistics.median(one[kind] for one in times) for kind in ("clock", "processor")}
        for side, times in result["seconds"].items()
    }
    for side, seconds in middle.items():
        columns = [f"{kind} {s:7.2f} s {middle[ALONE][kind] / s:5.2f}x" for kind, s in seconds.items()]
        print(f"  {side:47s} {'   '.join(columns)}")
    print(f"greedy replies identical: {result['greedy_identical']} of {result['greedy']}")
    print(f"goal: at least {GOAL:g}x of the first line")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (
        ("prompts", 6), ("tokens", 32), ("shortest", 60), ("longest", 120), ("slots", 64), ("repeats", 3),
        ("width", 256), ("head-width", 32), ("groups", 1), ("layers", 8), ("vocabulary", 32000),
        ("threads", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=None, help="write the figures to this JSON file")
    parser.add_argument("--quick", action="store_true", help="a third of the prompts and layers, one repeat")
    args = parser.parse_args()
    if args.quick:
        args.prompts, args.layers, args.repeats = max(2, args.prompts // 3), max(1, args.layers // 3), 1
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
