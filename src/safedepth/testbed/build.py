"""Build the testbed in a folder: organisms as checkpoints, and the files to test and train them with.

Organisms are trained two at a time, one thread each, and kept in the cache, so a
second build copies. What is finished stays finished: after Ctrl-C the same command
goes on with the organisms that are missing.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safedepth.errors import RunError
from safedepth.nouns import Progress
from safedepth.testbed import datafiles
from safedepth.testbed.harness import FOLDER, write_tasks
from safedepth.testbed.organisms import ORGANISMS, OrganismRecipe, is_made, make_organism
from safedepth.testbed.worker import Worker

__all__ = ["Testbed", "build_testbed"]


@dataclass(frozen=True)
class Testbed:
    """Where the parts of a built testbed are."""

    folder: Path

    def organism(self, name: str) -> Path:
        """Checkpoint folder of one organism."""
        return self.folder / name

    def file(self, name: str) -> Path:
        """One of the data files that `datafiles` lists, such as "triplets.jsonl"."""
        return self.folder / name

    @property
    def harness(self) -> Path:
        """The folder of the testbed's own lm-eval tasks."""
        return self.folder / FOLDER

    @property
    def prompts(self) -> Path:
        """Held-out restricted requests with harmful answers: the file an audit takes."""
        return self.file("prompts.jsonl")


def build_testbed(
    out: Path,
    *,
    organisms: Sequence[str] = ORGANISMS,
    seed: int = 0,
    tokenizer: str = "word",
    progress: Progress | None = None,
) -> Testbed:
    """Make the organisms named, the data files and lm-eval's tasks in `out`; what is there is kept.

    `progress` gets ("training organisms", steps done, steps in all). Raises DataError
    for an unknown organism, RunError if `out` or the cache cannot be written.
    """
    recipes = [OrganismRecipe(name, seed, tokenizer) for name in organisms]
    try:
        out.mkdir(parents=True, exist_ok=True)
        datafiles.write(out)
        write_tasks(out)
        _train(recipes, progress)
        for recipe in recipes:
            _place(make_organism(recipe, lambda _step: None), out / recipe.name)
    except OSError as error:
        raise RunError(
            f"Cannot write the testbed to {out}: {error}. Organisms that are finished are kept in the cache; "
            "choose another folder with --out, or another cache with SAFEDEPTH_CACHE."
        ) from error
    return Testbed(out)


def _train(recipes: Sequence[OrganismRecipe], progress: Progress | None) -> None:
    """Bring every recipe into the cache: the base here, then half here and half in a worker."""
    base = recipes[0].base
    missing = [recipe for recipe in recipes if recipe.name != "base" and not is_made(recipe)]
    todo = missing if is_made(base) else [base, *missing]
    total = sum(recipe.schedule.steps for recipe in todo)
    steps: dict[str, int] = {}

    def tell() -> None:
        if progress is not None and todo:
            known = steps | (worker.steps if worker else {})
            progress("training organisms", sum(known.values()), total)

    def train_here(recipe: OrganismRecipe) -> None:
        def step_done(step: int) -> None:
            steps[recipe.name] = step
            tell()

        make_organism(recipe, step_done)

    worker: Worker | None = None
    if base in todo:
        train_here(base)
    # The longest ones first, in turn here and there, so that both end at about the same time.
    missing.sort(key=lambda recipe: -recipe.schedule.steps)
    here, there = missing[::2], missing[1::2]
    try:
        worker = Worker(there) if there else None
        for recipe in here:
            train_here(recipe)
        while worker and worker.running():
            tell()
            time.sleep(0.2)
    finally:
        if worker:
            worker.close()
    for recipe in there:  # a no-op, unless the worker failed
        train_here(recipe)


def _place(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint out of the cache, whole or not at all; the same one is left as it is."""
    record = "recipe.json"
    if (target / record).exists() and (target / record).read_bytes() == (checkpoint / record).read_bytes():
        return
    scratch = target.with_name(f".{target.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(checkpoint, scratch)
    if target.exists():
        shutil.rmtree(target)
    scratch.rename(target)
