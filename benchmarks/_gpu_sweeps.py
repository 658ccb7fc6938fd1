"""Stages of `gpu.py` that decode: the prefill sweep and the decoding sweep, ours beside `generate`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from _gpu import Part, Setting, median, peak, random_model, ratio, sampled, spent
from prefill_sweep import GREEDY, SAMPLED, Decoding, Item, Tokens, make_items, ours, peer_batch
from safedepth.provider import Engine

__all__ = ["decoding", "prefill", "sampled_prefill"]

SHORTEST, LONGEST = 90, 160
BATCH = 10
PEER_SECONDS = 14.0
"""For how long the peer is timed; the rest of its work is scaled from that."""


def items_of(setting: Setting, *, prompts: int, seeds: int, tokens: int) -> dict[tuple[int, int], list[Item]]:
    return make_items(
        Namespace(
            prompts=prompts, seeds=seeds, tokens=tokens, shortest=SHORTEST, longest=LONGEST,
            vocabulary=setting.sizes.vocabulary,
        )
    )  # fmt: skip


def batches_of(runs: dict[tuple[int, int], list[Item]]) -> list[list[Item]]:
    return [run[start : start + BATCH] for run in runs.values() for start in range(0, len(run), BATCH)]


def longest(batch: list[Item]) -> float:
    """Steps that a static batch takes."""
    return max(item.length for item in batch)


def prefill(setting: Setting, model: PreTrainedModel) -> Iterator[Part]:
    """Prompts x depths x seeds: our engine, and `generate` in batches of ten, one run a depth and seed."""
    yield "float32", _same_in_float32(setting)
    yield GREEDY.name, _prefill_of(setting, model, GREEDY, setting.sizes.slots)


def sampled_prefill(setting: Setting, model: PreTrainedModel) -> Iterator[Part]:
    """The same at temperature 0.9, top-p 0.6 and top-k 50, in as many slots as there are."""
    yield SAMPLED.name, _prefill_of(setting, model, SAMPLED, (max(setting.sizes.slots),))


def _prefill_of(
    setting: Setting, model: PreTrainedModel, which: Decoding, slots_tried: tuple[int, ...]
) -> dict[str, Any]:
    sizes = setting.sizes
    runs = items_of(setting, prompts=sizes.prompts, seeds=sizes.seeds, tokens=sizes.tokens)
    pieces = batches_of(runs)
    most = PEER_SECONDS if which is GREEDY else PEER_SECONDS / 2
    with torch.inference_mode():
        peer, found = sampled(pieces, partial(_peer, model, which), longest, most=most)
    mine: dict[str, Any] = {}
    tokens: Tokens = []
    for slots in slots_tried:
        taken, tokens, counted = _engine_run(model, runs, which, slots)
        seconds = [taken]
        if slots == max(slots_tried):  # the first run has warmed up
            seconds = [_engine_run(model, runs, which, slots)[0] for _ in range(sizes.repeats)]
        mine[f"{slots} slots"] = {"seconds": seconds, **counted}
    starts = [sum(map(len, pieces[:index])) for index in range(len(pieces))]
    pairs = [
        (theirs, tokens[starts[index] + place])
        for index, batch in found
        for place, theirs in enumerate(batch)
    ]
    best = min(median(one["seconds"]) for one in mine.values())
    everything = [item for run in runs.values() for item in run]
    return {
        "answers": len(everything), "tokens": sum(item.length for item in everything),
        "peer": peer.entry, "ours": mine,
        "compared": len(pairs), "identical": sum(a == b for a, b in pairs),
        "same_until": [_agreeing(a, b) / len(a) for a, b in pairs],
        "ratios": [ratio(f"time, generate in batches of {BATCH} / ours", peer.everything / best, 10.0)],
    }  # fmt: skip


def _peer(model: PreTrainedModel, which: Decoding, batch: list[Item]) -> Tokens:
    return peer_batch(model, batch, which)


def _engine_run(
    model: PreTrainedModel, runs: dict[tuple[int, int], list[Item]], which: Decoding, slots: int
) -> tuple[float, Tokens, dict[str, Any]]:
    """Seconds, tokens and counters of an engine of its own, so that nothing is left from before."""
    with Engine(model, slots=slots) as engine:
        seconds, tokens = spent(partial(ours, engine, runs, which))
        told = engine.counters
    return seconds, tokens, {
        "steps": told.steps, "rows_a_step": told.step_rows / max(1, told.steps), "restarts": told.restarts,
        "prefill_tokens": told.prefill_tokens, "asked_tokens": told.asked_tokens,
    }  # fmt: skip


def _agreeing(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Tokens before the first that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def _same_in_float32(setting: Setting) -> dict[str, Any]:
    """Greedy answers of few layers of the same width in float32: are the tokens the same?"""
    model = random_model(setting, layers=setting.sizes.few_layers, dtype=torch.float32)
    plain = cast(PreTrainedModel, model)
    runs = items_of(setting, prompts=4, seeds=1, tokens=min(24, setting.sizes.tokens))
    with torch.inference_mode():
        theirs = [tokens for batch in batches_of(runs) for tokens in peer_batch(plain, batch, GREEDY)]
    _, mine, _ = _engine_run(plain, runs, GREEDY, 64)
    same = sum(a == b for a, b in zip(theirs, mine, strict=True))
    return {
        "layers": setting.sizes.few_layers, "answers": len(mine), "identical": same,
        "ratios": [ratio("greedy answers identical, float32", same / len(mine), 1.0)],
    }  # fmt: skip


def decoding(setting: Setting, model: PreTrainedModel) -> Iterator[Part]:
    """The 49 settings: our engine, and `generate` a prompt and setting at a time, and a setting at a time."""
    import decoding_sweep as bench

    sizes = setting.sizes
    sweep = bench.make_sweep(
        Namespace(
            prompts=sizes.decoding_prompts, tokens=sizes.decoding_tokens, shortest=60, longest=120,
            vocabulary=sizes.vocabulary,
        )
    )  # fmt: skip

    def run(piece: tuple[Any, list[Item]]) -> Tokens:
        one, items = piece
        return peer_batch(model, items, Decoding(one.variant, one.temperature, one.top_p, one.top_k))

    alone = [(one, [item]) for one, items in sweep.items() for item in items]
    whole = list(sweep.items())
    with torch.inference_mode():
        single, _ = sampled(alone, run, lambda piece: longest(piece[1]), most=PEER_SECONDS)
        batched, _ = sampled(whole, run, lambda piece: longest(piece[1]), most=PEER_SECONDS / 2)
    yield "peers", {"alone": single.entry, "a setting at a time": batched.entry}
    for slots in sizes.slots:
        seconds = []
        told = None
        for _ in range(sizes.repeats if slots == max(sizes.slots) else 1):
            with Engine(model, slots=slots) as engine:
                seconds.append(spent(partial(bench.ours, engine, sweep))[0])
                told = asdict(engine.counters)
        yield f"{slots} slots", {
            "replies": len(alone), "tokens": sum(item.length for _, items in whole for item in items),
            "seconds": seconds, "counters": told,
            "ratios": [
                ratio("time, generate prompt by prompt / ours", single.everything / median(seconds), 30.0),
                ratio("time, generate setting by setting / ours", batched.everything / median(seconds), 1.0),
            ],
        }  # fmt: skip

    def again() -> None:
        with Engine(model, slots=max(sizes.slots)) as engine:
            bench.ours(engine, sweep)

    yield "memory", {"peak_gb_above_the_model": peak(again)}
