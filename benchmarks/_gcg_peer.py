"""nanoGCG 0.3.0 as `gcg.py` drives it: in a process of its own, which may have another transformers.

Reads tasks from standard input, a line of JSON each, and answers each with a line of JSON.
It imports nothing of safedepth, so it runs where only torch, transformers and nanoGCG are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import nanogcg.gcg as nano  # type: ignore[import-not-found]
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from _measure import peak_above

Clocks = list[tuple[float, float]]


def now() -> tuple[float, float]:
    """Seconds by the clock, and seconds of processor time."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    return {"clock": end[0] - start[0], "processor": end[1] - start[1]}


class Timed(nano.GCG):  # type: ignore[misc]
    """nanoGCG's own search that notes when each step begins."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.begun: Clocks = []

    def compute_token_gradient(self, *parts: Any) -> Any:
        self.begun.append(now())
        return super().compute_token_gradient(*parts)


class Peer:
    """One model, one prompt, with or without nanoGCG's prefix cache."""

    def __init__(self, folder: Path, model: Any, *, cached: bool) -> None:
        self.cached = cached
        self.folder = folder
        self.case: dict[str, Any] = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.tokenizer.chat_template = self.case["template"]
        self.model = model
        self.gcg = self._prepared()

    def _gcg(self, *, steps: int, seed: int | None) -> Timed:
        config = nano.GCGConfig(
            num_steps=steps,
            optim_str_init=self.case["start"],
            search_width=self.case["width"],
            topk=self.case["topk"],
            use_prefix_cache=self.cached,
            seed=seed,
            verbosity="ERROR",
        )
        return Timed(self.model, self.tokenizer, config)

    def _run(self, gcg: Timed) -> Any:
        messages = [{"role": "user", "content": self.case["prompt"] + "{optim_str}"}]
        return gcg.run(messages, self.case["target"])

    def _prepared(self) -> Timed:
        """An instance that has read the prompt, and whose ids are those of the other side."""
        gcg = self._gcg(steps=0, seed=None)
        # With everything in place it looks for the best of no losses.
        with contextlib.suppress(ValueError):
            self._run(gcg)
        for ids, embedded in (
            (self.case["before"], gcg.before_embeds),
            (self.case["after"], gcg.after_embeds),
            (self.case["goal"], gcg.target_embeds),
        ):
            wanted = self.model.get_input_embeddings()(torch.tensor([ids], device=self.model.device))
            if not torch.equal(wanted, embedded):
                raise RuntimeError("expected both sides to have the same ids, found others")
        return gcg

    def _losses(self) -> torch.Tensor:
        gcg = self.gcg
        ids = load_file(self.folder / "candidates.safetensors")["ids"].to(self.model.device)
        with torch.no_grad():
            parts = [gcg.embedding_layer(ids), gcg.after_embeds.repeat(len(ids), 1, 1)]
            parts.append(gcg.target_embeds.repeat(len(ids), 1, 1))
            if not gcg.prefix_cache:
                parts.insert(0, gcg.before_embeds.repeat(len(ids), 1, 1))
            run = nano.find_executable_batch_size(gcg._compute_candidates_loss_original, len(ids))
            return run(torch.cat(parts, dim=1))  # type: ignore[no-any-return]

    def candidates(self, task: dict[str, Any]) -> dict[str, Any]:
        begun = now()
        losses = self._losses()
        return {"spent": since(begun, now()), "losses": losses.tolist()}

    def gradient(self, task: dict[str, Any]) -> dict[str, Any]:
        suffix = torch.tensor([self.case["suffix"]], device=self.model.device)
        begun = now()
        slope = self.gcg.compute_token_gradient(suffix)
        spent = since(begun, now())
        save_file({"slope": slope[0].cpu().contiguous()}, self.folder / task["to"])
        return {"spent": spent}

    def memory(self, task: dict[str, Any]) -> dict[str, Any]:
        return {"megabytes": peak_above(self._losses)}

    def search(self, task: dict[str, Any]) -> dict[str, Any]:
        gcg = self._gcg(steps=task["steps"], seed=task["seed"])
        found = self._run(gcg)
        moments = [*gcg.begun, now()]
        return {
            "steps": [since(a, b) for a, b in pairwise(moments)],
            "losses": found.losses,
        }

    def versions(self, task: dict[str, Any]) -> dict[str, Any]:
        return {"transformers": transformers.__version__, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("nanogcg").setLevel(logging.ERROR)
    nano.tqdm = iter  # no progress bar
    # Answers alone go to standard output, whatever a library prints.
    answers, sys.stdout = sys.stdout, sys.stderr
    model = AutoModelForCausalLM.from_pretrained(args.folder).eval()
    peer = Peer(args.folder, model, cached=args.cached)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(getattr(peer, task["do"])(task)), file=answers, flush=True)


if __name__ == "__main__":
    main()
