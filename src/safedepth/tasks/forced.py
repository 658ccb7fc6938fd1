"""Tasks that force the beginning of a reply: harmful tokens, a refusal, and both over several turns."""

from inspect_ai import Task, task

from safedepth.attacks import REFUSAL_PREFIXES
from safedepth.attacks import multi_turn as multi_turn_solver
from safedepth.attacks import prefill as prefill_solver
from safedepth.attacks import refusal_prefix as refusal_prefix_solver
from safedepth.attacks.samples import prefill_samples, prefix_samples, turn_samples
from safedepth.data import read_prompts
from safedepth.tasks.common import DEPTHS, build, items

__all__ = ["multi_turn", "prefill", "refusal_prefix"]


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
    depths = [int(k) for k in items(depth)]
    samples = prefill_samples(read_prompts(prompts, limit=limit), depths, repeats=repeats, seed=seed)
    return build(samples, prefill_solver(tokenizer=tokenizer), judge, temperature, top_p, top_k, max_tokens)


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
    depths = [int(k) for k in items(depth)]
    samples = turn_samples(read_prompts(prompts, limit=limit), depths, repeats=repeats, seed=seed)
    return build(
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
    return build(samples, solver, judge, temperature, top_p, top_k, max_tokens)
