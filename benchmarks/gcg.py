"""GCG: our candidate step, whole step and search beside nanoGCG 0.3.0's, on the same random model.

    pip install --no-deps --target NANO nanogcg==0.3.0
    python benchmarks/gcg.py --peer-path NANO [--peer-python PYTHON] [--quick] [--out gcg.json]

nanoGCG runs twice: on the installed transformers from the folder `--peer-path`, without its
prefix cache, which crashes there; and with it in an environment of its own, whose interpreter
is `--peer-python` (transformers 4.46.3). Each side is a process that waits while others work.
Both sides get the same prompt, suffix, target and candidates. Figures are medians of
interleaved repeats. Searches differ in what they draw, so several seeds are run; ours end
where they have the best loss that nanoGCG has found in its steps. Set-up is not counted.
Memory is the peak above model
and libraries, one candidate step in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from _measure import MEMORY_ENVIRONMENT, in_subprocess, peak_above
from prefill_sweep import random_model
from safedepth.chat import ChatFormat
from safedepth.gcg import Lane, SearchOptions, Victim, search
from safedepth.gcg.candidates import swaps, unique
from safedepth.gcg.objective import cross_entropy
from safedepth.gcg.places import Place, allowed_tokens
from safedepth.models import LoadedModel
from safedepth.nouns import Message

OURS, MERGED = "safedepth, no merges", "safedepth"
TODAY, CACHED = "nanoGCG, no cache", "nanoGCG, prefix cache"
GOALS = {
    "candidate step": {TODAY: 6.0, CACHED: 2.0},
    "whole step": {TODAY: 6.0, CACHED: 2.0},
    "to the same loss": {TODAY: 4.0, CACHED: 4.0},
}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
SUFFIX_TOKENS, TOPK, EXACT_ROWS = 20, 256, 16
VOCABULARY = 32000

Spent = dict[str, float]


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 32,000 tokens, made rather than trained: words of one to three syllables."""
    syllables = [c + v for c in "bcdfghjklmnpqrstvwyz" for v in "aeiou"]
    pairs = [(a, b) for a in syllables for b in syllables]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    signs = [c for c in letters if c.isascii()]
    merges = [(s[0], s[1]) for s in syllables] + pairs
    known = VOCABULARY - len(special) - len(letters) - 2 * len(merges) - len(signs)
    merges += [(a + b, "ba") for a, b in pairs[: known // 2]]
    merges += [("Ġ", a + b) for a, b in merges] + [("Ġ", c) for c in signs]
    tokens = dict.fromkeys([*special, *letters, *(a + b for a, b in merges)])
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    made.chat_template = TEMPLATE
    return made


@dataclass
class Side:
    """Our side: model, place, and the candidates of the comparison."""

    victim: Victim
    place: Place
    start: Tensor
    allowed: Tensor

    @classmethod
    def of(cls, model: PreTrainedModel, prompt: str, target: str) -> Side:
        chat = ChatFormat.of(tokenizer())
        loaded = LoadedModel(model.requires_grad_(False), chat, cast(Any, SimpleNamespace()))
        suffix = " ".join(["x"] * SUFFIX_TOKENS)
        messages = (Message(role="user", content=prompt),)
        place = Place.of(chat, messages, [target], suffix=suffix, tokens=SUFFIX_TOKENS)
        start = torch.tensor(place.suffix_ids(suffix))
        return cls(Victim(loaded, cross_entropy), place, start, allowed_tokens(chat, VOCABULARY))

    def candidates(self, width: int) -> Tensor:
        """What a step would try: drawn, without duplicates, and kept by the tokenizer."""
        slope = self.victim.gradient(self.place, self.start).by_token
        rng = torch.Generator().manual_seed(0)
        drawn = unique(
            swaps(self.start, slope, self.allowed, width=width, topk=TOPK, generator=rng), self.start
        )
        return drawn[torch.tensor(self.place.survivors(drawn.tolist()))]

    def search(self, *, most: int, loss: float, seed: int, width: int, merges: int) -> dict[str, Any]:
        """Seconds and loss of every step until `loss` is reached, or of `most` steps."""
        lane = Lane("one", tuple(self.start.tolist()), ((self.victim, self.place),), self.allowed)
        options = SearchOptions(width=width, topk=TOPK, merges=merges, seed=seed)
        told: dict[str, Any] = {"steps": [], "losses": []}
        with tempfile.TemporaryDirectory() as folder:
            # Each call goes on where the last one ended.
            for steps in range(1, most + 1):
                spent, (found,) = timed(
                    partial(search, [lane], replace(options, steps=steps), folder=Path(folder))
                )
                told["steps"].append(spent)
                told["losses"].append(found.losses[-1])
                if found.losses[-1] <= loss:
                    break
        return told


class Peer:
    """A process with nanoGCG that does one task at a time and else waits."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, task: str, **details: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": task, **details}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("nanoGCG's process ended; see its message above")
        return cast(dict[str, Any], json.loads(line))

    def end(self) -> None:
        self.process.communicate()


def peer(name: str, args: argparse.Namespace, folder: Path, extra: Mapping[str, str] | None = None) -> Peer:
    script = [
        str(Path(__file__).with_name("_gcg_peer.py")),
        "--folder",
        str(folder),
        "--threads",
        str(args.threads),
    ]
    if name == CACHED:
        return Peer([args.peer_python, *script, "--cached"], {"PYTHONPATH": "", **(extra or {})})
    return Peer([sys.executable, *script], {"PYTHONPATH": args.peer_path, **(extra or {})})


def prepared(model: PreTrainedModel, args: argparse.Namespace, folder: Path) -> tuple[Side, Tensor]:
    """Tokenizer, case and candidates written for the peers; our side and the candidates."""
    rng = torch.Generator().manual_seed(1)
    words = [f"{c}{v}" for c in "bcdfghjklmnpqrstvwyz" for v in "aeiou"]

    def text(n: int) -> str:
        picks = torch.randint(len(words), (n, 2), generator=rng).tolist()
        return " ".join(words[a] + words[b] for a, b in picks)

    prompt, target = text(args.prompt), text(args.target)
    side = Side.of(model, prompt, target)
    backend = side.victim.loaded.chat.tokenizer
    backend.backend_tokenizer.save(str(folder / "tokenizer.json"))
    found = side.candidates(args.candidates)
    save_file({"ids": found}, folder / "candidates.safetensors")
    case = {
        "template": TEMPLATE,
        "prompt": prompt,
        "target": target,
        "start": " " + " ".join(["x"] * SUFFIX_TOKENS),
        "suffix": side.start.tolist(),
        "before": side.place.before,
        "after": side.place.after,
        "goal": side.place.targets[0],
        "width": args.candidates,
        "topk": TOPK,
    }
    (folder / "case.json").write_text(json.dumps(case), encoding="utf-8")
    return side, found


def exact(side: Side, model: PreTrainedModel, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of the candidates and the gradient at the start in float64, the plain way."""
    place, device = side.place, model.device
    target = torch.tensor(place.targets[0], device=device)
    before, after = torch.tensor(place.before, device=device), torch.tensor(place.after, device=device)
    weight = cast(Tensor, cast(Any, model.get_input_embeddings()).weight)

    def losses(suffixes: Tensor) -> Tensor:
        """Of embedded suffixes [n, s, d]."""
        n = len(suffixes)
        fixed = [weight[part].expand(n, -1, -1) for part in (before, after, target)]
        embedded = torch.cat([fixed[0], suffixes, *fixed[1:]], dim=1)
        logits = cast(Any, model)(inputs_embeds=embedded).logits[:, -len(target) - 1 : -1]
        found: Tensor = -logits.log_softmax(-1).gather(2, target.expand(n, -1)[..., None])[..., 0].mean(-1)
        return found

    with torch.no_grad():
        found = torch.cat([losses(weight[rows]) for rows in candidates.split(4)])
    start = weight[side.start].detach().requires_grad_()
    (slope,) = torch.autograd.grad(losses(start[None])[0], start)
    return found, slope @ weight.T.detach()


def timed(work: Callable[[], Any]) -> tuple[Spent, Any]:
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}, found


@dataclass
class Record:
    """What was measured, by side."""

    candidates: dict[str, list[Spent]] = field(default_factory=dict)
    gradient: dict[str, list[Spent]] = field(default_factory=dict)
    searches: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, dict[str, float | bool]] = field(default_factory=dict)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = random_model(args)
    model.save_pretrained(folder)
    side, candidates = prepared(model, args, folder)
    names = [TODAY, *([CACHED] if args.peer_python else [])]
    peers = {name: peer(name, args, folder) for name in names}
    versions = {name: one.do("versions") for name, one in peers.items()}
    record = Record()
    steps(side, candidates, peers, record, args)
    agree(side, candidates, peers, record, folder)
    for seed in range(args.seeds):
        theirs = {name: one.do("search", steps=args.steps, seed=seed) for name, one in peers.items()}
        lowest = min(loss for run in theirs.values() for loss in run["losses"])
        limits = {"most": args.most, "loss": lowest, "seed": seed, "width": args.candidates}
        ours = {OURS: side.search(merges=0, **limits)}
        ours[MERGED] = side.search(merges=SearchOptions().merges, **limits)
        for name, told in (theirs | ours).items():
            record.searches.setdefault(name, []).append(told)
    for one in peers.values():
        one.end()
    record.memory[OURS] = in_subprocess(__file__, {"folder": str(folder)}, MEMORY_ENVIRONMENT)
    for name in names:
        alone = peer(name, args, folder, MEMORY_ENVIRONMENT)
        record.memory[name] = alone.do("memory")["megabytes"]
        alone.end()
    return {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "peers": versions,
        "tokens": {
            "before": len(side.place.before),
            "suffix": SUFFIX_TOKENS,
            "after": len(side.place.after),
            "target": len(side.place.targets[0]),
            "candidates": len(candidates),
        },
        **asdict(record),
    }


def steps(
    side: Side, candidates: Tensor, peers: Mapping[str, Peer], record: Record, args: argparse.Namespace
) -> None:
    """Candidate step and gradient of every side, in turn; the first round is not counted."""
    for number in range(args.repeats + 1):
        spent, gradient = timed(partial(side.victim.gradient, side.place, side.start))
        ours = partial(side.victim.losses, side.place, candidates, side.start, gradient.pairs)
        both = {OURS: timed(ours)[0]}
        slopes = {OURS: spent}
        for name, one in peers.items():
            both[name] = one.do("candidates")["spent"]
            slopes[name] = one.do("gradient", to="slope.safetensors")["spent"]
        if number:
            for name in both:
                record.candidates.setdefault(name, []).append(both[name])
                record.gradient.setdefault(name, []).append(slopes[name])


def agree(side: Side, candidates: Tensor, peers: Mapping[str, Peer], record: Record, folder: Path) -> None:
    """Losses and gradients against each other and against float64."""
    gradient = side.victim.gradient(side.place, side.start)
    ours = side.victim.losses(side.place, candidates, side.start, gradient.pairs)
    wide = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64).eval().requires_grad_(False)
    true_losses, true_slope = exact(side, cast(PreTrainedModel, wide), candidates[:EXACT_ROWS])

    def against_float64(losses: Tensor, slope: Tensor) -> dict[str, float | bool]:
        return {
            "loss_error": float((losses[:EXACT_ROWS].double() - true_losses).abs().max()),
            "gradient_error": float((slope.double() - true_slope).norm() / true_slope.norm()),
        }

    record.agreement[OURS] = against_float64(ours, gradient.by_token)
    for name, one in peers.items():
        theirs = torch.tensor(one.do("candidates")["losses"])
        one.do("gradient", to="slope.safetensors")
        slope = load_file(folder / "slope.safetensors")["slope"]
        record.agreement[name] = {
            **against_float64(theirs, slope),
            "losses_differ": float((ours - theirs).abs().max()),
            "same_best": bool(ours.argmin() == theirs.argmin()),
            "gradients_differ": float((gradient.by_token - slope).norm() / slope.norm()),
        }


def worker(task: Mapping[str, Any]) -> None:
    """Print the peak of our candidate step in MB."""
    folder = Path(task["folder"])
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    side = Side.of(cast(PreTrainedModel, model), case["prompt"], case["target"])
    candidates = load_file(folder / "candidates.safetensors")["ids"]
    pairs = side.victim.gradient(side.place, side.start).pairs
    print(peak_above(lambda: side.victim.losses(side.place, candidates, side.start, pairs)))


def until(run: Mapping[str, Any], loss: float) -> Spent | None:
    """Seconds of a search until its best loss is at most `loss`; None where it never is."""
    total = {"clock": 0.0, "processor": 0.0}
    for spent, found in zip(run["steps"], run["losses"], strict=True):
        total = {kind: total[kind] + spent[kind] for kind in total}
        if found <= loss:
            return total
    return None


def to_the_same_loss(searches: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """For every peer and seed: the loss to reach, and seconds of the peer and of ours until there."""
    return {
        name: [
            {"loss": min(run["losses"]), "peer": until(run, min(run["losses"]))}
            | {ours: until(searches[ours][seed], min(run["losses"])) for ours in (OURS, MERGED)}
            for seed, run in enumerate(runs)
        ]
        for name, runs in searches.items()
        if name in (TODAY, CACHED)
    }


def middle(all_spent: Sequence[Spent], kind: str) -> float:
    return statistics.median(one[kind] for one in all_spent)


def show(result: dict[str, Any]) -> None:
    print(f"{result['tokens']}; {result['machine']}")
    whole = {
        name: [spent for run in runs for spent in run["steps"]] for name, runs in result["searches"].items()
    }
    gradients = result["gradient"]
    for title, by_side in (
        ("candidate step", result["candidates"]),
        ("gradient", gradients),
        ("whole step", whole),
    ):
        print(f"\n{title:26s}    seconds                processor seconds      peer / safedepth")
        for name, spent in by_side.items():
            base = [side for side in (OURS, MERGED) if side in by_side and name not in (OURS, MERGED)]
            ratios = "".join(
                f"   {middle(spent, 'clock') / middle(by_side[side], 'clock'):5.2f}x" for side in base
            )
            spread = f"[{min(s['clock'] for s in spent):.3f}, {max(s['clock'] for s in spent):.3f}]"
            goal = GOALS.get(title, {}).get(name)
            wanted = f"   goal {goal:g}x" if goal else ""
            print(
                f"  {name:24s} {middle(spent, 'clock'):8.3f} {spread:18s} "
                f"{middle(spent, 'processor'):8.3f}   {ratios}{wanted}"
            )
    show_losses(result)
    base_memory = result["memory"][OURS]
    print("\npeak memory of the candidate step")
    for name, megabytes in result["memory"].items():
        print(f"  {name:24s} {megabytes:8.1f} MB   {megabytes / base_memory:6.1f} of ours")
    print("\nagreement (absolute for losses, relative for gradients)")
    for name, told in result["agreement"].items():
        values = ", ".join(f"{k} {v}" if isinstance(v, bool) else f"{k} {v:.1e}" for k, v in told.items())
        print(f"  {name:24s} {values}")


def show_losses(result: dict[str, Any]) -> None:
    for name, runs in result["same_loss"].items():
        goal = GOALS["to the same loss"][name]
        print(f"\nseconds to the best loss of {name} (goal {goal:g}x)")
        for ours in (OURS, MERGED):
            told = [
                f"{run['peer']['clock']:.1f} / {run[ours]['clock']:.1f} = "
                f"{run['peer']['clock'] / run[ours]['clock']:.1f}x"
                if run[ours]
                else "not reached"
                for run in runs
            ]
            # A search that never got there counts as a ratio of nothing.
            ratios = [run["peer"]["clock"] / run[ours]["clock"] if run[ours] else 0.0 for run in runs]
            print(f"  {ours:24s} median {statistics.median(ratios):5.2f}x   ({'; '.join(told)})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--peer-path", default="", help="folder with nanoGCG 0.3.0 for this interpreter")
    parser.add_argument("--peer-python", default="", help="interpreter with nanoGCG and transformers 4.46.3")
    parser.add_argument("--candidates", type=int, default=128, help="candidates of a step")
    parser.add_argument("--prompt", type=int, default=62, help="words of the prompt, a token each")
    parser.add_argument("--target", type=int, default=13, help="words of the target")
    parser.add_argument("--steps", type=int, default=5, help="steps of nanoGCG's searches")
    parser.add_argument("--most", type=int, default=20, help="most steps of our searches")
    parser.add_argument("--seeds", type=int, default=3, help="searches of every side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--head-width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="write the figures to this JSON file")
    parser.add_argument("--quick", action="store_true", help="half of the layers and candidates, few steps")
    args = parser.parse_args()
    if args.quick:
        args.layers, args.candidates, args.repeats = 4, 64, 2
        args.steps, args.most, args.seeds = 3, 8, 2
    # For the model that all benchmarks of decoding share.
    args.vocabulary, args.groups, args.dtype, args.device = VOCABULARY, 1, "float32", "cpu"
    return args


def main() -> None:
    args = parse()
    if args.task:
        worker(json.loads(args.task))
        return
    if not args.peer_path:
        raise SystemExit("expected --peer-path, a folder with nanoGCG 0.3.0 (see --help)")
    torch.set_num_threads(args.threads)
    if not args.peer_python:
        print("nanoGCG with its prefix cache is skipped: no --peer-python")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    result["same_loss"] = to_the_same_loss(result["searches"])
    show(result)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
