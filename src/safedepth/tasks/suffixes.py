"""The task that asks with suffixes, found on this model or on another."""

from inspect_ai import Task, task

from safedepth.attacks.suffix import suffix as suffix_solver
from safedepth.attacks.suffix import suffix_samples
from safedepth.data import read_prompts
from safedepth.data.suffixes import read_suffixes
from safedepth.tasks.common import build

__all__ = ["suffix"]


@task
def suffix(
    prompts: str,
    suffixes: str,
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.9,
    top_p: float = 0.6,
    top_k: int = 50,
    max_tokens: int = 512,
) -> Task:
    """Every prompt with its suffix out of a file (JSONL of ours, or a JailbreakBench artifact): claim C5."""
    samples = suffix_samples(
        read_prompts(prompts, limit=limit), read_suffixes(suffixes), repeats=repeats, seed=seed
    )
    return build(samples, suffix_solver(), judge, temperature, top_p, top_k, max_tokens)
