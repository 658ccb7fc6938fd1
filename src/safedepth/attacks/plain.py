"""No attack: the request alone, with nothing forced.

For benign requests, where what counts is whether the model still answers and still
answers right.
"""

from inspect_ai.solver import Generate, Solver, TaskState, solver

from safedepth.attacks.forcing import answer_as_forced

__all__ = ["plain"]


@solver
def plain() -> Solver:
    """Ask as the conversation stands, with the seed `reply_seed` of the sample's metadata."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await answer_as_forced(state, generate, [], tokenizer=None)

    return solve
