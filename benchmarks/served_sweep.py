"""Prefill sweep, prompts x depths: our engine beside a vLLM server that is asked the same over HTTP.

Both decode the same random model, in float32 with one thread, to lengths set beforehand;
the server gets token ids, so many requests at a time, and all in one request. It starts
from `.venv-vllm` and ends with the benchmark:

    make bench-vllm
    python benchmarks/served_sweep.py --url http://HOST:8000/v1 --model FOLDER   a server of your own

Figures are medians of interleaved repeats; greedy tokens are compared one by one. What a
request costs beyond the decoding is measured on requests for a single token.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from prefill_sweep import DECODINGS, GREEDY, Decoding, Item, Tokens, make_items, ours, parsed, random_model
from safedepth.provider import Engine

ROOT = Path(__file__).resolve().parent.parent
VLLM = ROOT / ".venv-vllm" / "bin" / "vllm"
NAME = "random"
OURS = "safedepth"
ONE_REQUEST = "vLLM, all in one request"

if TYPE_CHECKING:
    from model_server import Server


def saved(model: PreTrainedModel, folder: Path, vocabulary: int) -> Path:
    """The model with a tokenizer that has as many words as it has rows: a server wants one."""
    words = {f"w{index}": index for index in range(vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "w0")), unk_token="w0")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Client:
    """Token ids to a server's `/v1/completions`, and token ids back."""

    def __init__(self, url: str, name: str, key: str) -> None:
        self.url, self.name = url, name
        self.headers = {"Authorization": f"Bearer {key}"}

    def body(self, decoding: Decoding, salt: str) -> dict[str, Any]:
        """What all requests of a repeat have in common; the salt keeps repeats from sharing prefills."""
        return {
            "model": self.name, "temperature": decoding.temperature, "top_p": decoding.top_p,
            "top_k": decoding.top_k or -1, "ignore_eos": True, "return_token_ids": True, "cache_salt": salt,
        }  # fmt: skip

    def ask(self, items: Sequence[Item], decoding: Decoding, salt: str, *, at_once: int) -> Tokens:
        """One request an item, `at_once` of them on their way at any time."""
        return asyncio.run(self._ask(items, self.body(decoding, salt), at_once))

    async def _ask(self, items: Sequence[Item], body: dict[str, Any], at_once: int) -> Tokens:
        limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
        async with httpx.AsyncClient(headers=self.headers, limits=limits, timeout=None) as client:

            async def one(item: Item) -> tuple[int, ...]:
                asked = body | {"prompt": list(item.ids), "max_tokens": item.length, "seed": item.seed}
                answer = await client.post(f"{self.url}/completions", json=asked)
                answer.raise_for_status()
                return tuple(answer.json()["choices"][0]["token_ids"])

            return list(await asyncio.gather(*map(one, items)))

    def ask_together(self, items: Sequence[Item], decoding: Decoding, salt: str) -> Tokens:
        """All items in one request, each to the longest length, cut afterwards: no cost of requests."""
        asked = self.body(decoding, salt) | {"max_tokens": max(item.length for item in items)}
        asked |= {"prompt": [list(item.ids) for item in items]}
        answer = httpx.post(f"{self.url}/completions", json=asked, headers=self.headers, timeout=None)
        answer.raise_for_status()
        choices = sorted(answer.json()["choices"], key=lambda choice: int(choice["index"]))
        return [
            tuple(choice["token_ids"][: item.length]) for choice, item in zip(choices, items, strict=True)
        ]


def processor_seconds(group: int) -> float:
    """Processor time of this process and of all processes in the server's group."""
    total = time.process_time()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def timed(work: Callable[[], Tokens], group: int | None) -> tuple[dict[str, float], Tokens]:
    """Seconds by the clock, and of processor time where the server's processes are on this machine."""
    started, before = time.perf_counter(), None if group is None else processor_seconds(group)
    tokens = work()
    spent = {"clock": time.perf_counter() - started}
    if group is not None and before is not None:
        spent["processor"] = processor_seconds(group) - before
    return spent, tokens


def measure(
    args: argparse.Namespace, model: PreTrainedModel, client: Client, group: int | None
) -> dict[str, Any]:
    runs = make_items(args)
    items = [item for run in runs.values() for item in run]
    single = [Item(item.ids, item.seed, 1) for item in items]
    sides: dict[str, Callable[[Engine, Decoding, str], Tokens]] = {OURS: lambda e, d, _: ours(e, runs, d)}
    for at_once in args.at_once:
        sides[f"vLLM, {at_once} requests at a time"] = partial(
            lambda n, _, d, salt: client.ask(items, d, salt, at_once=n), at_once
        )
    sides[ONE_REQUEST] = lambda _, d, salt: client.ask_together(items, d, salt)
    spent: dict[str, dict[str, list[dict[str, float]]]] = {
        d.name: {side: [] for side in sides} for d in DECODINGS
    }
    found: dict[str, Tokens] = {}
    overhead: dict[str, list[float]] = {str(n): [] for n in args.at_once}
    identical: dict[str, int] = {}
    client.ask(items, GREEDY, "warm", at_once=8)
    for repeat in range(args.repeats):
        for decoding in DECODINGS:
            for side, work in sides.items():
                # An engine and a salt of their own, so that no repeat finds the last one's prefills.
                with Engine(model, slots=args.slots) as engine:
                    call = partial(work, engine, decoding, f"{repeat} {decoding.name} {side}")
                    seconds, found[side] = timed(call, group)
                spent[decoding.name][side].append(seconds)
            if decoding is GREEDY:
                theirs = {side: tokens for side, tokens in found.items() if side != OURS}
                identical = {
                    side: sum(a == b for a, b in zip(found[OURS], tokens, strict=True))
                    for side, tokens in theirs.items()
                }
        for at_once in args.at_once:
            # The second time every prefill is there, and what is left is the request itself.
            client.ask(single, GREEDY, f"{repeat} single", at_once=at_once)
            again = partial(client.ask, single, GREEDY, f"{repeat} single", at_once=at_once)
            overhead[str(at_once)].append(timed(again, group)[0]["clock"] / len(single))
    return {
        "settings": {name: str(value) for name, value in vars(args).items()},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[1],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "answers": len(items),
        "answer_tokens": sum(item.length for item in items),
        "greedy_identical": identical,
        "seconds": spent,
        "seconds_a_request": overhead,
    }


def figures(times: list[dict[str, float]], base: list[dict[str, float]], kind: str) -> str:
    """Seconds of one kind, the median also as a multiple of ours, so that above 1 ours is faster."""
    found = [one[kind] for one in times]
    ratio = statistics.median(found) / statistics.median(one[kind] for one in base)
    return f"{statistics.median(found):7.2f} s {ratio:5.2f}x ({min(found):.2f} to {max(found):.2f})"


def show(result: dict[str, Any]) -> None:
    print(f"{result['answers']} answers, {result['answer_tokens']} tokens; {result['machine']}")
    for name, by_side in result["seconds"].items():
        kinds = list(by_side[OURS][0])
        print(f"{name:36s}  {'   '.join(f'{kind}, median (least to most)'.ljust(38) for kind in kinds)}")
        for side, times in by_side.items():
            columns = [figures(times, by_side[OURS], kind) for kind in kinds]
            print(f"  {side:34s}  {'   '.join(f'{column:38s}' for column in columns)}")
    for side, same in result["greedy_identical"].items():
        print(f"{side}: greedy tokens identical in {same} of {result['answers']} answers")
    for at_once, seconds in result["seconds_a_request"].items():
        print(f"a request for one token, {at_once} at a time: {1000 * statistics.median(seconds):.1f} ms")


@contextlib.contextmanager
def served(model: Path, log: Path, words: Sequence[str]) -> Iterator[Server]:
    """A vLLM server for as long as the benchmark runs."""
    sys.path.append(str(ROOT / "scripts"))  # a script's own folder alone is there by itself
    from model_server import vllm_server

    print(f"starting {VLLM}; its log: {log}", flush=True)
    with vllm_server(VLLM, model, NAME, log, *words) as server:
        yield server


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a server that runs already, with the model of --model")
    parser.add_argument("--served", help="the model's name there (default: --model)")
    parser.add_argument("--key", default=os.environ.get("VLLM_API_KEY", "none"), help="that server's key")
    parser.add_argument("--model", type=Path, help="a checkpoint in place of random weights")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 16, 64], help="requests at a time")
    return parsed(parser, repeats=5)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.url is None and not VLLM.exists():
        print("No vLLM here: make bench-vllm installs one and measures it.")
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if args.model is None:
            model = random_model(args)
            checkpoint = saved(model, folder / "model", args.vocabulary)
        else:
            checkpoint = args.model
            model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=args.dtype).to(args.device).eval()
            args.vocabulary = model.config.vocab_size
        if args.url is None:
            words = ("--max-model-len", "1024", "--max-num-batched-tokens", "8192")
            server = stack.enter_context(served(checkpoint, folder / "vllm.log", words))
            client, group = Client(server.url, server.name, "toy"), server.process.pid
        else:
            client, group = Client(args.url, args.served or str(checkpoint), args.key), None
        result = measure(args, model, client, group)
    show(result)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
