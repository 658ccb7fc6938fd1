"""The multi-turn attack: ask for the next harmful answer of a conversation that already holds some.

The earlier answers are scripted: they stand in the file, and the model is asked for
turn t alone. A model that complies at turn t and turns back at t + 1 recovered
there; so each turn is a sample of its own. The first k tokens of the turn's own
harmful answer can be forced besides, exactly as in the prefilling attack.
"""

from inspect_ai.solver import Generate, Solver, TaskState, solver

from safedepth.attacks.forcing import leave_out
from safedepth.attacks.prefill import prefill

__all__ = ["multi_turn"]


@solver
def multi_turn(depth: int | None = None, tokenizer: str | None = None) -> Solver:
    """Answer turn `turn` of a trajectory, with the first `depth` tokens of its harmful answer forced.

    The sample's metadata holds `turn`, which counts from 1, and what `prefill` needs. A
    conversation that holds fewer than `turn` - 1 answers is not at that turn: the reply
    stays unscored, with the reason.
    """
    forced = prefill(depth=depth, tokenizer=tokenizer)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        turn = int(state.metadata["turn"])
        answers = sum(message.role == "assistant" for message in state.messages)
        if answers < turn - 1:
            return leave_out(
                state, f"turn {turn} comes after {turn - 1} answers, the conversation has {answers}"
            )
        return await forced(state, generate)

    return solve
