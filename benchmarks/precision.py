"""What the number format of the weights does to the numbers reported: KL, depth, the likeliest token.

KL(float32 || the same model in another format) along harmful answers, on trained organisms and
on a random Llama; how far it moves KL(aligned || base) and the depth from it; what of it comes
from rounded weights and what from sums in that format; and what merging an adapter in 16 bits
costs. Prints the tables of docs/models.md.

    python benchmarks/precision.py --prompts 40
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import bitsandbytes.functional as bits
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from safedepth.data import read_prompts
from safedepth.measure.depth import kl_depth
from safedepth.measure.kl import token_kl
from safedepth.measure.log_probs import likeliest
from safedepth.models import LoadedModel, head_of, load_model
from safedepth.nouns import Prompt
from safedepth.studies.divergence import answer_batches, answer_states, kl_table, series_of
from safedepth.studies.summary import kl_summary
from safedepth.testbed import build_testbed

FORMATS = ("bfloat16", "float16", "int8", "int4")
SHAPE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 20, "vocab_size": 32_000}
SPREAD = 3.0
"""Standard deviation of the random model's logits: about what trained models have."""


def loaded(folder: Path, dtype: str, lender: Path | None = None) -> LoadedModel:
    template = None if lender is None else str(lender)
    return load_model(str(folder), chat_template=template, dtype=dtype, device="cpu")


@torch.no_grad()
def with_rounded_weights(folder: Path, dtype: str) -> LoadedModel:
    """The float32 model whose weights went through `dtype` and back: sums stay float32."""
    whole = loaded(folder, "float32")
    head = cast(Any, whole.model).get_output_embeddings()
    for module in whole.model.modules():
        for name, weight in module.named_parameters(recurse=False):
            inside = isinstance(module, torch.nn.Linear) and module is not head and name == "weight"
            weight.copy_(rounded(weight, dtype, quantised=inside))
    return whole


def rounded(weight: Tensor, dtype: str, *, quantised: bool) -> Tensor:
    if not dtype.startswith("int"):
        return weight.to(getattr(torch, dtype)).float()
    if not quantised:
        return weight.bfloat16().float()
    if dtype == "int8":
        numbers, scales, _ = bits.int8_vectorwise_quant(weight.half())
        return cast(Tensor, numbers.float() * scales[:, None] / 127)
    four, state = bits.quantize_4bit(weight.bfloat16(), quant_type="nf4")
    return bits.dequantize_4bit(four, state).float()


class Said:
    """A model's hidden states before all answer tokens, and its head."""

    def __init__(self, model: LoadedModel, prompts: Sequence[Prompt]) -> None:
        self.head = head_of(model.model)
        self.states = torch.cat(
            [answer_states(model, batch) for batch in answer_batches(model.chat, prompts)]
        )


def row(name: str, first: Said, second: Said) -> str:
    kl = token_kl(first.states, first.head, second.states, second.head)
    changed = likeliest(first.states, first.head) != likeliest(second.states, second.head)
    numbers = " | ".join(f"{float(value):.2g}" for value in (kl.mean(), kl.median(), kl.max()))
    return f"| {name} | {numbers} | {int(changed.sum())} of {len(changed)} |"


def print_formats(name: str, folder: Path, prompts: Sequence[Prompt]) -> None:
    print(f"\n{name}\n\n| format | mean KL | median | largest | likeliest token changed |")
    print("|---|---|---|---|---|")
    whole = Said(loaded(folder, "float32"), prompts)
    for dtype in FORMATS:
        print(row(dtype, whole, Said(loaded(folder, dtype), prompts)), flush=True)
        rounded_alone = Said(with_rounded_weights(folder, dtype), prompts)
        print(row(f"{dtype}, weights alone", whole, rounded_alone), flush=True)


def print_depths(pairs: dict[str, Path], base: Path, prompts: Sequence[Prompt]) -> None:
    print("\nKL(model || base), both in one format\n")
    print("| model | format | first 5 tokens | later tokens | share on the first 5 | depths |")
    print("|---|---|---|---|---|---|")
    for dtype in ("float32", *FORMATS):
        before = loaded(base, dtype, next(iter(pairs.values())))
        for name, folder in pairs.items():
            series = series_of(kl_table(loaded(folder, dtype), before, prompts))
            told = kl_summary(series, seed=0)
            early, late = series.mask[:, :5], series.mask[:, 5:]
            means = series.values[:, :5][early].mean(), series.values[:, 5:][late].mean()
            depths = ", ".join(f"{k} {e.value:.3f}" for k, e in kl_depth(series, seed=0).items() if e.value)
            numbers = f"{means[0]:.4f} | {means[1]:.4f} | {told['share_first_5']:.4f}"
            print(f"| {name} | {dtype} | {numbers} | {depths} |", flush=True)


@contextmanager
def adapter_of(folder: Path) -> Iterator[Path]:
    """A LoRA on all linear layers of the blocks with random weights of about the size training gives."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        adapted: Any = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
        adapted.save_pretrained(place)
        yield Path(place)


def print_merging(folder: Path, prompts: Sequence[Prompt]) -> None:
    print("\nAn adapter, KL(merged and run in float32 || ...)\n\n| how | mean | median | largest | changed |")
    print("|---|---|---|---|---|")
    with adapter_of(folder) as place:
        whole = Said(loaded(place, "float32"), prompts)
        ways: dict[str, Callable[[], LoadedModel]] = {
            "merged in bfloat16": lambda: loaded(place, "bfloat16"),
            "merged in float32, then bfloat16": lambda: in_bfloat16(loaded(place, "float32")),
            "not merged, base in bfloat16": lambda: unmerged(folder, place),
            "beside its base in int8": lambda: loaded(place, "int8"),
            "beside its base in int4": lambda: loaded(place, "int4"),
            "merged in float32, then int4": lambda: merged_then(place, "int4"),
            "none, in float32": lambda: loaded(folder, "float32"),
        }
        for name, way in ways.items():
            print(row(name, whole, Said(way(), prompts)), flush=True)


def in_bfloat16(model: LoadedModel) -> LoadedModel:
    return LoadedModel(model.model.to(torch.bfloat16), model.chat, model.card)  # type: ignore[arg-type]


def unmerged(folder: Path, adapter: Path) -> LoadedModel:
    base = loaded(folder, "bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: Any = PeftModel.from_pretrained(base.model, str(adapter))
    return LoadedModel(adapted.get_base_model().eval().requires_grad_(False), base.chat, base.card)


def merged_then(adapter: Path, dtype: str) -> LoadedModel:
    with tempfile.TemporaryDirectory() as place:
        loaded(adapter, "float32").save(place)
        return loaded(Path(place), dtype)


def random_llama(place: Path, tokenizer_of: Path) -> Path:
    """A Llama of about 300 million random weights over the organism's words, saved in `place`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE, num_attention_heads=16, num_key_value_heads=8, tie_word_embeddings=False  # type: ignore[arg-type]
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight, std=SPREAD / SHAPE["hidden_size"] ** 0.5)
    model.save_pretrained(place)
    loaded(tokenizer_of, "float32").chat.tokenizer.save_pretrained(place)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=40, help="harmful answers of the organisms")
    parser.add_argument("--random-prompts", type=int, default=8, help="those that the random model reads")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        bed = build_testbed(Path(place) / "testbed", organisms=("base", "aligned", "deep"))
        prompts = read_prompts(str(bed.prompts), limit=options.prompts)
        aligned, deep, base = (Path(bed.organism(name)) for name in ("aligned", "deep", "base"))
        print_formats("aligned organism, 0.4 million weights", aligned, prompts)
        print_formats("deep organism", deep, prompts)
        print_depths({"aligned": aligned, "deep": deep}, base, prompts)
        print_merging(aligned, prompts)
        llama = random_llama(Path(place) / "llama", aligned)
        print_formats("random Llama, 302 million weights", llama, prompts[: options.random_prompts])


if __name__ == "__main__":
    main()
