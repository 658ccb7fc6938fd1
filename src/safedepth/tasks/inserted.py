"""Tasks that force harmful tokens as plain prefill does not: by rank, mid-answer, in own words, thinking."""

from inspect_ai import Task, task

from safedepth.attacks import PLACES
from safedepth.attacks import insertion as insertion_solver
from safedepth.attacks import on_policy as on_policy_solver
from safedepth.attacks import rank_prefill as rank_prefill_solver
from safedepth.attacks import thinking as thinking_solver
from safedepth.attacks.insertion import Place
from safedepth.attacks.on_policy import SOURCES
from safedepth.attacks.samples import placed_samples
from safedepth.attacks.thinking import THINKING_PLACES
from safedepth.data import read_prompts
from safedepth.errors import DataError
from safedepth.tasks.common import build, items

__all__ = ["insertion", "on_policy", "rank_prefill", "thinking"]


@task
def rank_prefill(
    prompts: str,
    depth: str | int | list[int] = "0,5,10",
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 50,
    max_tokens: int = 512,
    tokenizer: str | None = None,
) -> Task:
    """Prefill, then greedy decoding that leaves out what refusals begin with (arXiv 2512.05518).

    Greedy whatever temperature, top-p and top-k say, and so the same in every repeat; they are
    taken so that all attacks can be given the same arguments.
    """
    depths = [int(k) for k in items(depth)]
    samples = placed_samples(
        read_prompts(prompts, limit=limit), depths, ["rank"], attack="rank_prefill", repeats=repeats,
        seed=seed,
    )  # fmt: skip
    solver = rank_prefill_solver(tokenizer=tokenizer)
    return build(samples, solver, judge, temperature, top_p, top_k, max_tokens)


@task
def insertion(
    prompts: str,
    depth: str | int | list[int] = "5,10,20",
    place: str | list[str] | None = None,
    benign: str | None = None,
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.9,
    top_p: float = 0.6,
    top_k: int = 50,
    max_tokens: int = 512,
    tokenizer: str | None = None,
) -> Task:
    """Harmful tokens after a refusal, the model's own words or a benign stretch (2606.04168, 2603.04851).

    `place` defaults to "after refusal", "after own 20" and, where the file `benign` is given,
    "after benign 100".
    """
    places = (
        [p for p in PLACES if benign or Place.read(p).what != "benign"] if place is None else items(place)
    )
    if benign is None and any(Place.read(p).what == "benign" for p in places):
        raise DataError("expected a file of benign requests with answers (benign=FILE), found none")
    depths = [int(k) for k in items(depth)]
    samples = placed_samples(
        read_prompts(prompts, limit=limit), depths, places, attack="insertion", repeats=repeats, seed=seed
    )
    solver = insertion_solver(benign=benign, tokenizer=tokenizer)
    return build(samples, solver, judge, temperature, top_p, top_k, max_tokens)


@task
def on_policy(
    prompts: str,
    depth: str | int | list[int] = "10,20,40",
    source: str | list[str] = "own,foreign",
    opening: int = 5,
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.9,
    top_p: float = 0.6,
    top_k: int = 50,
    max_tokens: int = 512,
    tokenizer: str | None = None,
) -> Task:
    """Prefill with harmful tokens that the model itself wrote, beside the file's, to any depth."""
    sources = items(source)
    if not sources or set(sources) - set(SOURCES):
        raise DataError(f"expected sources out of {', '.join(SOURCES)}, found {source!r}")
    depths = [int(k) for k in items(depth)]
    samples = placed_samples(
        read_prompts(prompts, limit=limit), depths, sources, attack="on_policy", repeats=repeats, seed=seed
    )
    solver = on_policy_solver(opening=opening, tokenizer=tokenizer)
    return build(samples, solver, judge, temperature, top_p, top_k, max_tokens)


@task
def thinking(
    prompts: str,
    depth: str | int | list[int] = "5,10,20",
    place: str | list[str] = "inside,after",
    thought: str = "",
    markers: str | None = None,
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.9,
    top_p: float = 0.6,
    top_k: int = 50,
    max_tokens: int = 512,
    tokenizer: str | None = None,
) -> Task:
    """Prefill inside and after the thinking block of a reasoning model; `markers` as "OPEN,CLOSE"."""
    places = items(place)
    if not places or set(places) - set(THINKING_PLACES):
        raise DataError(f"expected places out of {', '.join(THINKING_PLACES)}, found {place!r}")
    depths = [int(k) for k in items(depth)]
    samples = placed_samples(
        read_prompts(prompts, limit=limit), depths, places, attack="thinking", repeats=repeats, seed=seed
    )
    solver = thinking_solver(thought=thought, markers=markers, tokenizer=tokenizer)
    return build(samples, solver, judge, temperature, top_p, top_k, max_tokens)
