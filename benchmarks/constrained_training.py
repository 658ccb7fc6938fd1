"""Constrained fine-tuning beside TRL's `SFTTrainer`: time and peak memory of training, and what comes once.

    python benchmarks/constrained_training.py [--quick] [--out constrained_training.json]

A random Llama learns rows of random tokens of log-normal lengths, 64 a step as in the paper, with
the very same batches on both sides: fine-tuned whole, and with an adapter. What ours adds is the
loss, positions and reference in every batch, sums by position, and the KL of a few rows whenever
something is logged, every ten steps as TRL has it. With an adapter a third variant asks the
reference at every step instead of once, ahead.

A repeat is one `train()` of ten optimiser steps, from the first batch fetched to the last
callback, always from where the last one ended; variants are interleaved in one process per
allocator (see docs/benchmarks.md). Wall time and processor time are both taken: on a busy machine
believe the latter. Memory is measured in a process per variant, above what model and libraries
take. The reference pass, which comes once for a data set, is told apart, in steps. The loss of the
first step is compared with float64, a row at a time, the model having moved off its reference.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import tempfile
import time
import warnings
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, disable_progress_bars  # type: ignore[import-untyped]
from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback
from trl import SFTConfig, SFTTrainer

from _measure import ALLOCATORS, MEMORY_ENVIRONMENT, in_subprocess, peak_above
from _recovery import OURS, PLAIN, Case, Clock, random_model
from safedepth.testbed.tokenizers import make_tokenizer
from safedepth.train.betas import PAPER
from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.constrained_config import ConstrainedSFTConfig

ASKED = "ours, asked at every step"
STEPS = 10
"""Optimiser steps of a repeat, and between two logs."""

CASES = (
    Case("full", (PLAIN, OURS), safety=0, anchors=64, shorter=2),
    Case("adapter", (PLAIN, OURS, ASKED), safety=0, anchors=64, shorter=2),
)
SMALL: dict[str, Any] = {"vocabulary": 4096, "width": 64, "layers": 2, "shorter": 4, "anchors": 16}
TINY: dict[str, Any] = {"vocabulary": 1024, "width": 32, "layers": 1, "shorter": 8, "anchors": 8, "batch": 4}

LENGTHS = {"prompt": (75, 0.4), "answer": (100, 0.6)}
"""Median and log-normal spread of tokens."""


def make_rows(case: Case) -> Dataset:
    """As many rows as ten steps have."""
    rng = random.Random(0)
    tokens = range(10, min(case.vocabulary, len(make_tokenizer())))

    def ids(part: str) -> list[int]:
        median, spread = LENGTHS[part]
        count = min(240, round(rng.lognormvariate(math.log(median), spread))) // case.shorter
        return rng.choices(tokens, k=max(2, count))

    rows = [(ids("prompt"), ids("answer")) for _ in range(STEPS * case.anchors)]
    return Dataset.from_list(
        [{"input_ids": asked + said, "labels": [-100] * len(asked) + said} for asked, said in rows]
    )


def move(model: Any) -> None:
    """Take the model off its reference a little, in the same way each time."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.01 * torch.randn(p.shape, generator=generator, device=device)


class Run:
    """One variant: a trainer with a model of its own, set up in `setup` seconds, reference pass included."""

    def __init__(
        self, case: Case, variant: str, folder: str, *, model: Any = None, on_cpu: bool = True
    ) -> None:
        name = f"{case.name}-{variant}".replace(" ", "-")
        common: dict[str, Any] = {
            "output_dir": str(Path(folder) / name), "max_steps": STEPS,
            "per_device_train_batch_size": case.batch, "logging_steps": STEPS, "seed": 0,
            "gradient_accumulation_steps": case.anchors // case.batch,
            "learning_rate": 1e-4, "lr_scheduler_type": "constant",
            "activation_checkpointing": False, "max_length": None, "bf16": not on_cpu, "use_cpu": on_cpu,
            "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False,
        }  # fmt: skip
        lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        adapter = lora if case.name.startswith("adapter") else None
        model = random_model(case) if model is None else model
        given: dict[str, Any] = {
            "train_dataset": make_rows(case), "processing_class": make_tokenizer(), "peft_config": adapter
        }  # fmt: skip
        self.clock = Clock()
        started = time.perf_counter()
        if variant == PLAIN:
            self.trainer = SFTTrainer(model, SFTConfig(**common), **given)
        else:
            config = ConstrainedSFTConfig(**common, warmup_steps=0, precompute_reference=variant == OURS)
            self.trainer = ConstrainedSFTTrainer(model, config, **given)
        self.setup = time.perf_counter() - started
        move(self.trainer.model)
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.remove_callback(ProgressCallback)
        self.trainer.add_callback(self.clock)

    def steps(self) -> tuple[float, float]:
        """Train ten optimiser steps; their wall and processor seconds."""
        started = time.process_time()
        self.trainer.train()
        return self.clock.seconds[-1], time.process_time() - started

    def first_loss(self) -> float:
        """The loss of the first step's first batch, without learning from it."""
        batch = next(iter(self.trainer.get_train_dataloader()))
        with torch.no_grad():
            return float(self.trainer.compute_loss(self.trainer.model.train(), batch))


def exact_loss(case: Case, run: Run, variant: str) -> float:
    """The same in float64: of plain fine-tuning, or of equation (3) term by term."""
    batch = next(iter(run.trainer.get_train_dataloader()))
    now = _exact(case)
    now.load_state_dict(_merged(run.trainer.model))
    before, terms = _exact(case), []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        places = (labels != -100).nonzero()[:, 0].tolist()
        own, of = (_said(model, ids[: places[-1] + 1], places) for model in (now, before))
        for position, (log_p, log_q) in enumerate(zip(own, of, strict=True), start=1):
            beta = PAPER[min(position, len(PAPER)) - 1]
            held = 2 / beta * math.log1p(math.exp(beta * (log_q - log_p)))
            terms.append(-log_p if variant == PLAIN else held)
    return math.fsum(terms) / len(terms)


def _exact(case: Case) -> Any:
    return random_model(case).double().eval()


def _merged(model: Any) -> dict[str, Any]:
    """The weights of the model, its adapter merged into them, in float64."""
    if not hasattr(model, "merge_adapter"):
        return {name: tensor.double() for name, tensor in model.state_dict().items()}
    model.merge_adapter()
    merged = {
        name.replace("base_layer.", ""): tensor.double()
        for name, tensor in model.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    model.unmerge_adapter()
    return merged


@torch.no_grad()
def _said(model: Any, ids: torch.Tensor, places: list[int]) -> list[float]:
    log_probs = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
    return [log_probs[place - 1, ids[place]].item() for place in places]


def measure_time(case: Case, repeats: int) -> dict[str, Any]:
    """Interleaved times of all variants, and the error of their losses; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Run(replace(case, **TINY), OURS, folder).steps()  # libraries load and set up their threads
        runs = {variant: Run(case, variant, folder) for variant in case.variants}
        batches = {variant: _batches(run) for variant, run in runs.items()}
        if any(batch != batches[PLAIN] for batch in batches.values()):
            raise RuntimeError("expected the same batches on all sides, found different ones: a bug here")
        errors = {}
        for variant, run in runs.items():
            wanted = exact_loss(case, run, variant)
            errors[variant] = abs(run.first_loss() - wanted) / wanted
            run.steps()  # the warm-up
        wall: dict[str, list[float]] = {variant: [] for variant in runs}
        processor: dict[str, list[float]] = {variant: [] for variant in runs}
        for _ in range(repeats):
            for variant, run in runs.items():
                for times, seconds in zip((wall, processor), run.steps(), strict=True):
                    times[variant].append(seconds)
        return {
            "wall": wall, "processor": processor, "errors": errors,
            "setup": {variant: run.setup for variant, run in runs.items()},
            "tokens": sum(len(ids) for batch in batches[PLAIN] for ids in batch),
        }  # fmt: skip


def _batches(run: Run) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in run.trainer.get_train_dataloader()]


def measure_memory(case: Case, variant: str) -> dict[str, float]:
    """MB above model and libraries at the peak of ten steps and of setting up; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Run(replace(case, **TINY), variant, folder).steps()
        made: list[Run] = []
        setup = peak_above(lambda: made.append(Run(case, variant, folder)))
        return {"setup": setup, "training": peak_above(made[0].steps)}


def run_task(task: dict[str, Any]) -> None:
    torch.set_num_threads(task["threads"])
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft's own
    case = Case(**task["case"])
    if task["what"] == "time":
        print(json.dumps(measure_time(case, task["repeats"])))
    else:
        print(json.dumps(measure_memory(case, task["variant"])))


def run_case(case: Case, repeats: int, threads: int) -> dict[str, Any]:
    size = f"width {case.width}, {case.layers} layers, V={case.vocabulary:,}"
    print(f"\n{case.name}: {case.anchors} rows a step; {size}", flush=True)
    base = {"case": asdict(case), "threads": threads}
    memory = {
        variant: in_subprocess(__file__, {**base, "what": "memory", "variant": variant}, MEMORY_ENVIRONMENT)
        for variant in case.variants
    }
    for variant, peaks in memory.items():
        print(f"  memory   {variant:26s} {peaks['training']:8.1f} MB (setting up {peaks['setup']:.1f} MB)")
    result: dict[str, Any] = {"case": asdict(case), "memory_mb": memory, "time": {}}
    for allocator, environment in ALLOCATORS.items():
        timed = in_subprocess(__file__, {**base, "what": "time", "repeats": repeats}, environment)
        result["time"][allocator] = timed
        for variant, seconds in timed["wall"].items():
            print(
                f"  {allocator:8s} {variant:26s} {statistics.median(seconds):8.2f} s ten steps"
                f" [{min(seconds):.2f}, {max(seconds):.2f}]"
                f"   processor {statistics.median(timed['processor'][variant]):8.2f} s"
                f"   loss off float64 by {timed['errors'][variant]:.1e} of it",
                flush=True,
            )
    return result


def ratios(result: dict[str, Any], variant: str) -> dict[str, float]:
    """Ours over plain: peak memory, and times by allocator; the reference pass in steps."""
    memory = result["memory_mb"]
    found = {"memory": memory[variant]["training"] / memory[PLAIN]["training"]}
    for allocator, timed in result["time"].items():
        for clock in ("wall", "processor"):
            # Neighbours in time saw the same machine: the median of their ratios, not the ratio of medians.
            pairs = zip(timed[clock][variant], timed[clock][PLAIN], strict=True)
            found[f"{allocator} {clock}"] = statistics.median(ours / plain for ours, plain in pairs)
    timed = result["time"]["default"]
    once = timed["setup"][variant] - timed["setup"][PLAIN]
    return found | {"once": once / (statistics.median(timed["wall"][PLAIN]) / STEPS)}


def show(results: list[dict[str, Any]]) -> None:
    """The lines of docs/benchmarks.md, and the goals."""
    print(
        "\n| trained | variant | time over SFTTrainer's, default / reuse (processor time) | peak memory "
        "| once, in steps | loss error |\n|---|---|---|---|---|---|"
    )
    ours = []
    for result in results:
        for variant in result["case"]["variants"][1:]:
            found = ratios(result, variant)
            ours += [found] if variant == OURS else []
            error = max(timed["errors"][variant] for timed in result["time"].values())
            times, busy = (
                " / ".join(f"{found[f'{name} {clock}']:.2f}×" for name in ALLOCATORS)
                for clock in ("wall", "processor")
            )
            print(
                f"| {result['case']['name']} | {variant} | {times} ({busy}) | {found['memory']:.2f}× "
                f"| {found['once']:.1f} | {error:.1e} |"
            )
    goals = {
        "time at most 1.05× of SFTTrainer's (reuse)": all(found["reuse processor"] <= 1.05 for found in ours),
        "memory at most 1.02× of SFTTrainer's": all(found["memory"] <= 1.02 for found in ours),
    }
    print("\n" + "\n".join(f"- {goal}: {'met' if met else '**missed**'}" for goal, met in goals.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small model, short texts: ratios mean little")
    parser.add_argument("--repeats", type=int, default=3, help="timed repeats of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write every number to this JSON file")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run_task(json.loads(arguments.task))
        return
    cases = [replace(case, **SMALL) if arguments.quick else case for case in CASES]
    repeats = min(3, arguments.repeats) if arguments.quick else arguments.repeats
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
