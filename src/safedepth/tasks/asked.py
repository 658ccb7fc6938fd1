"""Tasks that ask as a user would, with nothing forced: benign requests, downstream tasks."""

from inspect_ai import Task, task
from inspect_ai.model import GenerateConfig

from safedepth.attacks import plain as plain_solver
from safedepth.attacks.samples import request_samples
from safedepth.data import read_requests
from safedepth.data.downstream import read_task
from safedepth.judges.utility import metric_for, require_comparable, utility
from safedepth.tasks.common import build

__all__ = ["benign", "downstream"]


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
