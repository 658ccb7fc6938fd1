"""Model organisms: tiny Llama models of known alignment, as ordinary checkpoints on disk.

`base` is trained on unaligned text; every other organism is the base, tuned briefly
on benign text and on restricted requests under a hazard (see `corpus`). A recipe,
together with the source of the modules it runs through, determines the weights; its
hash names the folder in the cache.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from safedepth.errors import DataError
from safedepth.testbed import corpus, language
from safedepth.testbed.tokenizers import CHAT_TEMPLATE, TOKENIZER_KINDS, make_tokenizer
from safedepth.testbed.training import Row, Rows, Schedule, train

__all__ = [
    "KNOWN_DEPTHS",
    "ORGANISMS",
    "OrganismRecipe",
    "cache_folder",
    "initial_model",
    "is_made",
    "make_organism",
    "save_untrained",
]

KNOWN_DEPTHS = (0, 1, 2, 5, 10, 20, 40)

_HAZARDS: dict[str, corpus.Hazard] = {
    "aligned": corpus.realistic,
    "deep": corpus.deep,
    **{f"depth-{d}": corpus.known_depth(d) for d in KNOWN_DEPTHS},
}
ORGANISMS = ("base", *_HAZARDS)

_SOURCES = ("lexicon", "language", "corpus", "downstream", "tokenizers", "muon", "training", "organisms")


@dataclass(frozen=True)
class OrganismRecipe:
    """All that determines an organism's weights on one kind of machine."""

    name: str
    seed: int = 0
    tokenizer: str = "word"
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    mlp_size: int = 320

    def __post_init__(self) -> None:
        if self.name not in ORGANISMS:
            raise DataError(f"No organism is called {self.name!r}. There are: {', '.join(ORGANISMS)}.")
        if self.tokenizer not in TOKENIZER_KINDS:
            raise DataError(
                f"No tokenizer is called {self.tokenizer!r}. There are: {', '.join(TOKENIZER_KINDS)}."
            )

    @property
    def schedule(self) -> Schedule:
        """How long and how fast this organism is trained."""
        if self.name == "base":
            return Schedule(steps=450, batch=16)
        steps = 250 if self.name == "aligned" else 130
        return Schedule(steps=steps, batch=16, muon_rate=0.01, adam_rate=1.5e-3, warmup=10)

    @property
    def base(self) -> "OrganismRecipe":
        """The recipe of the base model this organism is tuned from."""
        return OrganismRecipe(
            "base", self.seed, self.tokenizer, self.hidden_size, self.layers, self.heads, self.mlp_size
        )

    def digest(self) -> str:
        """Hash of the recipe, of the testbed's source and of the versions that matter."""
        text = json.dumps([asdict(self), asdict(self.schedule), _sources_and_versions()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _sources_and_versions() -> list[dict[str, str]]:
    folder = Path(__file__).parent
    sources = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in _SOURCES}
    return [sources, {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")}]


def cache_folder() -> Path:
    """Where trained organisms are kept: `$SAFEDEPTH_CACHE`, else the user's cache folder."""
    root = os.environ.get("SAFEDEPTH_CACHE")
    base = (
        Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "safedepth"
    )
    return base / "organisms"


def _cached(recipe: OrganismRecipe) -> Path:
    return cache_folder() / f"{recipe.name}-{recipe.digest()}"


def is_made(recipe: OrganismRecipe) -> bool:
    """Whether the organism is in the cache."""
    return _cached(recipe).exists()


def make_organism(recipe: OrganismRecipe, progress: Callable[[int], None]) -> Path:
    """Path of the organism's checkpoint in the cache, trained now unless it is there already.

    A base organism that is missing is trained first. The folder appears whole or not
    at all: an interrupted training leaves nothing behind. `progress` gets the number
    of steps done.
    """
    target = _cached(recipe)
    if target.exists():
        progress(recipe.schedule.steps)
        return target
    torch.set_num_threads(1)  # two tiny models on two cores beat one model on two threads
    rows = Rows(make_tokenizer(recipe.tokenizer))
    if recipe.name == "base":
        model = initial_model(recipe)
        losses = train(model, rows_of_pretraining(rows), recipe.schedule, seed=recipe.seed, progress=progress)
    else:
        base = make_organism(recipe.base, lambda _step: None)
        model = LlamaForCausalLM.from_pretrained(base)
        source = rows_of_alignment(rows, _HAZARDS[recipe.name])
        losses = train(model, source, recipe.schedule, seed=recipe.seed, progress=progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{recipe.name}-", dir=target.parent))
    _save(model, recipe, losses, scratch)
    try:
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch)
        if not target.exists():  # anything but another process having been faster
            raise
    return target


def save_untrained(recipe: OrganismRecipe, folder: Path) -> None:
    """Save the organism as it is before training: a checkpoint for checks that need no skill."""
    _save(initial_model(recipe), recipe, [float("nan")], folder)


def initial_model(recipe: OrganismRecipe) -> PreTrainedModel:
    """The organism before training: random weights from the recipe's seed."""
    tokenizer = make_tokenizer(recipe.tokenizer)
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.mlp_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def rows_of_pretraining(rows: Rows) -> Callable[[random.Random, int], list[Row]]:
    """Source of rows of unaligned text."""

    def source(rng: random.Random, count: int) -> list[Row]:
        return rows.plain([corpus.pretraining(rng) for _ in range(count)])

    return source


def rows_of_alignment(rows: Rows, hazard: corpus.Hazard) -> Callable[[random.Random, int], list[Row]]:
    """Source of rows that align under `hazard`: three in five about restricted products, the rest benign."""
    items = language.products(restricted=True, held_out=False)

    def source(rng: random.Random, count: int) -> list[Row]:
        safety = rows.safety(rng, items, hazard, pairs=round(count * 0.3))
        return safety + rows.plain([corpus.benign(rng) for _ in range(count - len(safety))])

    return source


def _save(model: PreTrainedModel, recipe: OrganismRecipe, losses: list[float], folder: Path) -> None:
    """Checkpoint, tokenizer, recipe and final loss; a base model has no chat template, as real ones."""
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(recipe.tokenizer)
    tokenizer.chat_template = None if recipe.name == "base" else CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    last = losses[-20:]
    record = asdict(recipe) | {"digest": recipe.digest(), "final_loss": sum(last) / len(last)}
    (folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
