"""On-policy prefill: the forced harmful tokens are the model's own words instead of the file's.

Recovery training sees prefixes that others wrote; a model's own harmful words are
likelier to it, and at depths up to thousands of tokens no file has them. Compared with
the same number of foreign tokens, they tell whether a defence knows the author rather
than the content. Rejection of refusals as in rank-assisted prefill (arXiv 2512.05518).
"""

from inspect_ai.model import get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver

from safedepth.attacks.forcing import answer_as_forced, leave_out
from safedepth.attacks.insertion import own_tokens
from safedepth.attacks.refusal_tokens import leaving_out, refusal_tokens
from safedepth.attacks.speaker import target_chat
from safedepth.errors import DataError
from safedepth.provider.api import SafedepthAPI

__all__ = ["SOURCES", "on_policy"]

SOURCES = ("own", "foreign")


@solver
def on_policy(
    source: str | None = None, depth: int | None = None, opening: int = 5, tokenizer: str | None = None
) -> Solver:
    """Force `depth` harmful tokens written by this model ("own") or the file ("foreign"), and go on freely.

    Own tokens begin with the first `opening` of the file's answer; the model writes the
    rest as the task decodes, with the reply's seed, while tokens that begin a refusal or
    end a turn are left out. Both score as `prefill` does. Where `source` and `depth` are
    None the metadata holds `variant` and `k`. Raises DataError for another source.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        k = int(state.metadata["k"]) if depth is None else depth
        variant = str(state.metadata["variant"]) if source is None else source
        if variant not in SOURCES:
            raise DataError(f"expected a source out of {', '.join(SOURCES)}, found {variant!r}")
        state.metadata |= {"k": k, "variant": variant}
        chat = target_chat(tokenizer)
        forced = chat.answer_ids(str(state.metadata["harmful"])) if k else []
        if variant == "own" and k > opening:
            api = get_model().api
            stops = api.loaded.stop_ids if isinstance(api, SafedepthAPI) else chat.stop_ids
            start = forced[:opening]
            without = leaving_out(refusal_tokens(chat) | stops)
            forced = start + await own_tokens(
                state, chat, k - len(start), after=start, tokenizer=tokenizer, logit_bias=without
            )
        if k > len(forced):
            whose = "model wrote" if variant == "own" else "harmful answer has"
            return leave_out(state, f"the {whose} {len(forced)} tokens, fewer than {k}")
        return await answer_as_forced(state, generate, forced[:k], tokenizer=tokenizer)

    return solve
