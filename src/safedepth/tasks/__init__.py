"""What Inspect finds: `inspect eval safedepth/prefill --model safedepth/PATH -T prompts=FILE -T depth=5`.

The tasks, solvers and scorers of the package under their Inspect names, and the model
provider `safedepth`. Task arguments are plain values, because Inspect knows a task
again by them when it resumes.
"""

from inspect_ai.model import ModelAPI, modelapi

from safedepth.judges import (
    harmbench,
    judged,
    keywords,
    llama_guard,
    rubric,
    rules,
    strongreject,
    strongreject_finetuned,
    wildguard,
)
from safedepth.judges.utility import utility
from safedepth.tasks.asked import benign, decoding, downstream, escalation
from safedepth.tasks.forced import multi_turn, prefill, refusal_prefix
from safedepth.tasks.inserted import insertion, on_policy, rank_prefill, thinking
from safedepth.tasks.suffixes import suffix
from safedepth.testbed.scorer import knowledge, oracle

__all__ = [
    "benign",
    "decoding",
    "downstream",
    "escalation",
    "harmbench",
    "insertion",
    "judged",
    "keywords",
    "knowledge",
    "llama_guard",
    "multi_turn",
    "on_policy",
    "oracle",
    "prefill",
    "rank_prefill",
    "refusal_prefix",
    "rubric",
    "rules",
    "safedepth",
    "safedepth_attacker",
    "safedepth_grader",
    "safedepth_served",
    "strongreject",
    "strongreject_finetuned",
    "suffix",
    "thinking",
    "utility",
    "wildguard",
]


@modelapi(name="safedepth")
def safedepth() -> type[ModelAPI]:
    """Local models with token-exact prefill (see `safedepth.provider`)."""
    from safedepth.provider.api import SafedepthAPI

    return SafedepthAPI


@modelapi(name="safedepth_served")
def safedepth_served() -> type[ModelAPI]:
    """What a study connected to its servers (see `safedepth.served`); it cannot be named elsewhere."""
    from safedepth.served.api import ServedAPI

    return ServedAPI


@modelapi(name="safedepth_attacker")
def safedepth_attacker() -> type[ModelAPI]:
    """The testbed's attacker by rules, for the role `attacker` (`safedepth_attacker/toy`)."""
    from safedepth.testbed.attacker import ToyAttackerAPI

    return ToyAttackerAPI


@modelapi(name="safedepth_grader")
def safedepth_grader() -> type[ModelAPI]:
    """The testbed's graders, which know the toy language (`safedepth_grader/toy`, `/swayed`)."""
    from safedepth.testbed.grader import ToyGraderAPI

    return ToyGraderAPI
