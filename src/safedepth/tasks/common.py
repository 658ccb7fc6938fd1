"""What all tasks have in common: arguments as text or lists, decoding, judges."""

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.solver import Solver

from safedepth.judges import judged

__all__ = ["DEPTHS", "build", "items"]

DEPTHS = "0,1,2,5,10,20,40"


def items(value: str | int | list[str] | list[int]) -> list[str]:
    """Comma-separated text, one value or a list, as a list of texts."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return [item.strip() for item in str(value).split(",") if item.strip()]


def build(
    samples: list[Sample],
    solver: Solver,
    judge: str | list[str],
    temperature: float,
    top_p: float,
    top_k: int,
    max_tokens: int,
) -> Task:
    """A task of these samples whose replies are decoded so and shown to every judge."""
    decoding = GenerateConfig(temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens)
    return Task(dataset=samples, solver=solver, scorer=judged(items(judge)), config=decoding)
