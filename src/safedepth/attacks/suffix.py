"""The suffix attack: a text after the request, searched to make the answer begin as an attacker wants.

Zou et al. 2023 (arXiv 2307.15043); section 2.3 and claim C5 of the paper. The suffix is a text
and goes into the user's message, so it can be tried on any model, however it was found.
"""

from collections.abc import Sequence

from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser
from inspect_ai.solver import Generate, Solver, TaskState, solver

from safedepth.attacks.forcing import answer_as_forced, leave_out
from safedepth.attacks.samples import variant_sample
from safedepth.data.suffixes import Suffix, suffix_for
from safedepth.nouns import Prompt

__all__ = ["suffix", "suffix_samples"]

NO_SUFFIX = "no suffix was found for this prompt"


@solver
def suffix(text: str | None = None) -> Solver:
    """Ask with a suffix after the last user message, a space between the two.

    Where `text` is None the sample's metadata holds it as `suffix`; None there too leaves the
    reply unscored. `reply_seed` the metadata holds always.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        given = state.metadata.get("suffix") if text is None else text
        if given is None:
            return leave_out(state, NO_SUFFIX)
        last = state.messages[-1]
        state.messages[-1] = ChatMessageUser(content=f"{last.text} {given}")
        return await answer_as_forced(state, generate, [], tokenizer=None)

    return solve


def suffix_samples(
    prompts: Sequence[Prompt], suffixes: Sequence[Suffix], *, repeats: int, seed: int
) -> list[Sample]:
    """One sample for every (prompt, repeat), with the prompt's own suffix or the one for all."""
    samples = []
    for prompt in prompts:
        one = suffix_for(suffixes, prompt.id)
        variant = "per prompt" if one is None or one.prompt_id is not None else "universal"
        fields = {"attack": "suffix", "variant": variant, "suffix": one.suffix if one else None}
        samples += [
            variant_sample(prompt, f"suffix/{variant}", repeat, seed, fields) for repeat in range(repeats)
        ]
    return samples
