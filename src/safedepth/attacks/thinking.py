"""Prefill for reasoning models: harmful tokens inside the thinking block, or right after it.

Section 2.3 of the paper forces the start of the answer; a model that thinks first has two
starts. "inside" begins its thought with the harmful answer's tokens, "after" closes a
short or empty thought and begins the answer with them.
"""

from inspect_ai.solver import Generate, Solver, TaskState, solver

from safedepth.attacks.forcing import answer_as_forced, leave_out
from safedepth.attacks.speaker import target_chat
from safedepth.chat.thinking import require_thinking
from safedepth.errors import DataError

__all__ = ["THINKING_PLACES", "thinking"]

THINKING_PLACES = ("inside", "after")


@solver
def thinking(
    place: str | None = None,
    depth: int | None = None,
    thought: str = "",
    markers: str | None = None,
    tokenizer: str | None = None,
) -> Solver:
    """Force `depth` harmful tokens "inside" the thinking block or "after" it, closed over `thought`.

    After the paper's section 2.3. `markers` names the block's own as "OPEN,CLOSE", where they are
    none of `chat.thinking.MARKERS`. Where `place` and `depth` are None the metadata holds
    `variant` and `k`. Raises TemplateError for a model without a thinking block, DataError
    for another place or markers that are no pair.
    """
    pair = None if markers is None else _pair(markers)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        k = int(state.metadata["k"]) if depth is None else depth
        variant = str(state.metadata["variant"]) if place is None else place
        if variant not in THINKING_PLACES:
            raise DataError(f"expected a place out of {', '.join(THINKING_PLACES)}, found {variant!r}")
        state.metadata |= {"k": k, "variant": variant}
        chat = target_chat(tokenizer)
        block = require_thinking(chat, pair)
        before = block.before_thought(chat) if variant == "inside" else block.before_answer(chat, thought)
        harmful = chat.continuation_ids(before, str(state.metadata["harmful"])) if k else []
        if k > len(harmful):
            return leave_out(state, f"the harmful answer has {len(harmful)} tokens, fewer than {k}")
        return await answer_as_forced(state, generate, [*before, *harmful[:k]], tokenizer=tokenizer)

    return solve


def _pair(text: str) -> tuple[str, str]:
    start, comma, end = (part.strip() for part in text.partition(","))
    if not (start and comma and end):
        raise DataError(f"expected two markers as 'OPEN,CLOSE', found {text!r}")
    return start, end
