"""Tasks that ask with nothing forced: benign requests, downstream tasks, many settings, many turns."""

from inspect_ai import Task, task
from inspect_ai.model import GenerateConfig

from safedepth.attacks import decoding as decoding_solver
from safedepth.attacks import escalation as escalation_solver
from safedepth.attacks import plain as plain_solver
from safedepth.attacks.decoding import read_grid
from safedepth.attacks.samples import decoding_samples, escalation_samples, request_samples
from safedepth.data import read_prompts, read_requests
from safedepth.data.downstream import read_task
from safedepth.judges import judged
from safedepth.judges.utility import metric_for, require_comparable, utility
from safedepth.tasks.common import build, items

__all__ = ["benign", "decoding", "downstream", "escalation"]


@task
def benign(
    prompts: str,
    name: str = "benign",
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.9,
    top_p: float = 0.6,
    top_k: int = 50,
    max_tokens: int = 512,
) -> Task:
    """Benign requests as they stand: what a model still answers. `name` is what results call them."""
    samples = request_samples(read_requests(prompts, limit=limit), attack=name, repeats=repeats, seed=seed)
    return build(samples, plain_solver(), judge, temperature, top_p, top_k, max_tokens)


@task
def downstream(
    data: str,
    task: str | None = None,
    metric: str | None = None,
    split: str = "test",
    config: str | None = None,
    revision: str | None = None,
    skip_empty: bool = False,
    system: bool = True,
    limit: int | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    max_tokens: int = 512,
) -> Task:
    """A downstream task's test rows (claim C17), from a file or the hub; each reply scored by `metric`.

    Greedy unless a temperature is given, and then the paper's is 0.6 with top-p 0.9, top-k 50.
    """
    rows = read_task(
        data, task=task, split=split, config=config, revision=revision, limit=limit, skip_empty=skip_empty,
        system=system,
    )  # fmt: skip
    chosen = metric_for(rows.task, metric)
    require_comparable(chosen, rows.requests)
    samples = request_samples(rows.requests, attack=rows.task, repeats=1, seed=seed)
    decoding = GenerateConfig(temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens)
    return Task(dataset=samples, solver=plain_solver(), scorer=utility(chosen.name), config=decoding)


@task
def decoding(
    prompts: str,
    settings: str | None = None,
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    max_tokens: int = 512,
) -> Task:
    """Every prompt under the 49 decoding settings of arXiv 2310.06987 (claim C6), or a grid of one's own.

    `settings` is text such as "temperature=0.5,1.5;top_k=10". Each states temperature, top-p and top-k
    itself, so the task takes none.
    """
    chosen = read_grid(settings)
    samples = decoding_samples(read_prompts(prompts, limit=limit), len(chosen), repeats=repeats, seed=seed)
    solver = decoding_solver(settings, max_tokens)
    config = GenerateConfig(max_tokens=max_tokens)
    return Task(dataset=samples, solver=solver, scorer=judged(items(judge)), config=config)


@task
def escalation(
    prompts: str,
    turns: int = 4,
    judge: str | list[str] = "rules",
    limit: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    temperature: float = 0.9,
    top_p: float = 0.6,
    top_k: int = 50,
    max_tokens: int = 512,
) -> Task:
    """Conversations led by the model role `attacker` towards each request; every turn is judged."""
    samples = escalation_samples(read_prompts(prompts, limit=limit), turns, repeats=repeats, seed=seed)
    return build(samples, escalation_solver(turns), judge, temperature, top_p, top_k, max_tokens)
