"""What Inspect finds: `inspect eval safedepth/prefill --model safedepth/PATH -T prompts=FILE -T depth=5`.

The tasks, solvers and scorers of the package under their Inspect names, and the model
provider `safedepth`. Task arguments are plain values, because Inspect knows a task
again by them when it resumes.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ModelAPI, modelapi
from inspect_ai.solver import Solver

from safedepth.attacks import REFUSAL_PREFIXES
from safedepth.attacks import multi_turn as multi_turn_solver
from safedepth.attacks import plain as plain_solver
from safedepth.attacks import prefill as prefill_solver
from safedepth.attacks import refusal_prefix as refusal_prefix_solver
from safedepth.attacks.samples import prefill_samples, prefix_samples, request_samples, turn_samples
from safedepth.data import read_prompts, read_requests
from safedepth.data.downstream import read_task
from safedepth.judges import judged, rules
from safedepth.judges.utility import metric_for, require_comparable, utility
from safedepth.testbed.scorer import knowledge, oracle

__all__ = [
    "benign",
    "downstream",
    "judged",
    "knowledge",
    "multi_turn",
    "oracle",
    "prefill",
    "refusal_prefix",
    "rules",
    "safedepth",
    "utility",
]

DEPTHS = "0,1,2,5,10,20,40"


@modelapi(name="safedepth")
def safedepth() -> type[ModelAPI]:
    """Local models with token-exact prefill (see `safedepth.provider`)."""
    from safedepth.provider.api import SafedepthAPI

    return SafedepthAPI


@task
def prefill(
    prompts: str,
    depth: str | int | list[int] = DEPTHS,
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
    """Prefilling attack at one depth or several ("0,5,10"), with the paper's decoding (claim C4)."""
    depths = [int(k) for k in _items(depth)]
    samples = prefill_samples(read_prompts(prompts, limit=limit), depths, repeats=repeats, seed=seed)
    return _task(samples, prefill_solver(tokenizer=tokenizer), judge, temperature, top_p, top_k, max_tokens)


@task
def multi_turn(
    prompts: str,
    depth: str | int | list[int] = 0,
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
    """Each turn of scripted harmful trajectories, with no token forced or the first few at several depths."""
    depths = [int(k) for k in _items(depth)]
    samples = turn_samples(read_prompts(prompts, limit=limit), depths, repeats=repeats, seed=seed)
    return _task(
        samples, multi_turn_solver(tokenizer=tokenizer), judge, temperature, top_p, top_k, max_tokens
    )


@task
def refusal_prefix(
    prompts: str,
    prefix: str | list[str] | None = None,
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
    """No prefix and each refusal prefix in turn (claims C1 and C2); `prefix` defaults to the paper's five."""
    prefixes = ["", *REFUSAL_PREFIXES] if prefix is None else [prefix] if isinstance(prefix, str) else prefix
    samples = prefix_samples(read_prompts(prompts, limit=limit), prefixes, repeats=repeats, seed=seed)
    solver = refusal_prefix_solver(tokenizer=tokenizer)
    return _task(samples, solver, judge, temperature, top_p, top_k, max_tokens)


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
    return _task(samples, plain_solver(), judge, temperature, top_p, top_k, max_tokens)


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


def _items(value: str | int | list[str] | list[int]) -> list[str]:
    """Comma-separated text, one value or a list, as a list of texts."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return [item.strip() for item in str(value).split(",") if item.strip()]


def _task(
    samples: list[Sample],
    solver: Solver,
    judge: str | list[str],
    temperature: float,
    top_p: float,
    top_k: int,
    max_tokens: int,
) -> Task:
    """What all tasks have in common."""
    decoding = GenerateConfig(temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens)
    return Task(dataset=samples, solver=solver, scorer=judged(_items(judge)), config=decoding)
