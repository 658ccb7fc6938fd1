"""What is faster on a GPU, and by how much: each fast path beside its peer, the most valuable first.

    python benchmarks/gpu.py --out results.jsonl [--seconds 420] [--only kl,prefill] [--quick | --tiny]

The model has the shape of Llama 3.1 8B in bfloat16 with random weights. Each stage has seconds of its
own and is ended when they are gone; what it has found by then is kept. A stage that fails says why, and
the next one goes on. Peers that would take minutes are timed on a random part of their work and scaled,
which the results say. Without a GPU it ends at once; --tiny tries everything on a small model anywhere.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

from _gpu import FULL, SMALL, Part, Setting, random_model

PACKAGES = ("torch", "transformers", "trl", "peft", "nanogcg", "triton")
SPARE = 8.0
"""Seconds below which no stage is begun."""


class OutOfSecondsError(Exception):
    """A stage's seconds are gone."""


@dataclass
class Bench:
    """The run: its setting, its model, made when it is first needed, and where results go."""

    setting: Setting
    out: Path | None
    until: float
    ratios: list[str] = field(default_factory=list)
    _model: Any = None

    def model(self) -> Any:
        if self._model is None:
            started = time.perf_counter()
            self._model = random_model(self.setting)
            self.write("model", "", {"made_in": time.perf_counter() - started})
        return self._model

    def drop_model(self) -> None:
        self._model = None
        self.tidy()

    def tidy(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def write(self, stage: str, part: str, found: dict[str, Any]) -> None:
        """Append a line to the results, and print what matters."""
        name = f"{stage} {part}".strip()
        if self.out is not None:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": stage, "part": part, **found}) + "\n")
        shown = {key: value for key, value in found.items() if key not in ("ratios", "same_until")}
        print(f"[{name}] {json.dumps(shown, default=str)[:1500]}", flush=True)
        for one in found.get("ratios", ()):
            value = "not measured" if one["value"] is None else f"{one['value']:.3g}"
            bound = "at most" if "at most" in one else "at least"
            met = {True: "met", False: "MISSED", None: ""}[one["met"]]
            self.ratios.append(f"{name:28s} {one['what']:60s} {value:>8s}  {bound} {one['goal']:.3g}  {met}")
            print("   " + self.ratios[-1], flush=True)

    def stage(self, name: str, seconds: float, parts: Callable[[Bench], Iterator[Part]]) -> None:
        """Run one stage within its seconds, and say what became of it."""
        left = min(seconds, self.until - time.monotonic())
        if left < SPARE:
            self.write(name, "", {"skipped": "no time left"})
            return
        print(f"== {name}, at most {left:.0f} s", flush=True)
        started = time.monotonic()
        signal.signal(signal.SIGALRM, _end)
        signal.setitimer(signal.ITIMER_REAL, left)
        ended = "done"
        try:
            for part, found in parts(self):
                self.write(name, part, found)
        except OutOfSecondsError:
            ended = f"ended after its {left:.0f} seconds"
        except Exception as error:  # noqa: BLE001 - the next stage is worth having whatever this one met
            ended = f"failed: {type(error).__name__}: {str(error)[:300]}"
            traceback.print_exc(limit=-6)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.write(name, "end", {"ended": ended, "took": time.monotonic() - started})
        self.tidy()


def _end(*_: Any) -> None:
    raise OutOfSecondsError


def kl(bench: Bench) -> Iterator[Part]:
    from _gpu_heads import kl as stage

    yield from stage(bench.setting)


def loss(bench: Bench) -> Iterator[Part]:
    from _gpu_heads import loss as stage

    yield from stage(bench.setting)


def prefill(bench: Bench) -> Iterator[Part]:
    from _gpu_sweeps import prefill as stage

    yield from stage(bench.setting, bench.model())


def sampled(bench: Bench) -> Iterator[Part]:
    from _gpu_sweeps import sampled_prefill as stage

    yield from stage(bench.setting, bench.model())


def decoding(bench: Bench) -> Iterator[Part]:
    from _gpu_sweeps import decoding as stage

    yield from stage(bench.setting, bench.model())


def gcg(bench: Bench) -> Iterator[Part]:
    from _gpu_backward import gcg as stage

    yield from stage(bench.setting, bench.model())


def gradients(bench: Bench) -> Iterator[Part]:
    from _gpu_backward import gradients as stage

    yield from stage(bench.setting, bench.model())


def adapter(bench: Bench) -> Iterator[Part]:
    from _gpu_backward import training

    bench.drop_model()
    yield from training(bench.setting, adapter=True)


def full(bench: Bench) -> Iterator[Part]:
    from _gpu_backward import training

    bench.drop_model()
    yield from training(bench.setting, adapter=False)


STAGES: dict[str, tuple[float, Callable[[Bench], Iterator[Part]]]] = {
    "kl": (45, kl),
    "prefill": (60, prefill),
    "sampled": (50, sampled),
    "decoding": (70, decoding),
    "gcg": (50, gcg),
    "gradients": (55, gradients),
    "adapter": (115, adapter),
    "loss": (25, loss),
    "full": (70, full),
}
"""Most seconds of every stage, and what it does, in order of value."""


def about(setting: Setting) -> dict[str, Any]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    gpu = torch.cuda.get_device_name() if setting.on_gpu else "none"
    return {
        "date": time.strftime("%Y-%m-%d"), "gpu": gpu, "machine": platform.machine(), "versions": found,
        "sizes": asdict(setting.sizes), "dtype": str(setting.dtype),
    }  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="append results to this file, a line of JSON each")
    parser.add_argument("--seconds", type=float, default=420.0, help="most seconds of everything")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, with commas between")
    parser.add_argument("--quick", action="store_true", help="a small model: ratios mean nothing")
    parser.add_argument("--tiny", action="store_true", help="the same, without a GPU too")
    return parser.parse_args()


def main() -> None:
    began = time.monotonic()
    args = parse()
    if not torch.cuda.is_available() and not args.tiny:
        print("no GPU here, nothing measured (--tiny tries the stages on the CPU)")
        return
    small = args.quick or args.tiny
    setting = Setting(SMALL if small else FULL, "cuda" if torch.cuda.is_available() else "cpu")
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    bench = Bench(setting, args.out, began + args.seconds)
    bench.write("about", "", about(setting))
    for name in args.only.split(","):
        seconds, parts = STAGES[name]
        bench.stage(name, seconds * (1 if setting.on_gpu else 10), parts)
    print("\n" + "\n".join(bench.ratios))
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
