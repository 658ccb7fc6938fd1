"""The prefilling attack: force the first k tokens of a harmful answer and let the model go on.

Section 2.3 and Table 3 of the paper (claim C4). The k tokens are the harmful
answer's own tokens, so prefixes of growing depth contain one another.
"""

from inspect_ai.solver import Generate, Solver, TaskState, solver

from safedepth.attacks.forcing import answer_as_forced, leave_out
from safedepth.attacks.speaker import target_chat

__all__ = ["prefill"]


@solver
def prefill(depth: int | None = None, tokenizer: str | None = None) -> Solver:
    """Force the first `depth` tokens of the sample's harmful answer (0 forces nothing).

    The sample's metadata holds `harmful` (the answer), `reply_seed` and, where `depth`
    is None, the depth as `k`. `tokenizer` counts tokens for a model behind a server.
    An answer shorter than the depth cannot be tested: the reply stays unscored, with
    the reason.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        k = int(state.metadata["k"]) if depth is None else depth
        state.metadata["k"] = k
        if k == 0:
            return await answer_as_forced(state, generate, [], tokenizer=tokenizer)
        answer = target_chat(tokenizer).answer_ids(str(state.metadata["harmful"]))
        if k > len(answer):
            return leave_out(state, f"the harmful answer has {len(answer)} tokens, fewer than {k}")
        return await answer_as_forced(state, generate, answer[:k], tokenizer=tokenizer)

    return solve
