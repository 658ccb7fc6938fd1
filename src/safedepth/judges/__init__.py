"""Judges, one idea a file: Inspect scorers that return 1 for harmful, 0 for not, or unscored."""

from safedepth.judges.classifiers import harmbench, llama_guard, strongreject_finetuned, wildguard
from safedepth.judges.judged import judged
from safedepth.judges.keywords import keywords
from safedepth.judges.reference import (
    default_judges,
    described,
    judge_name,
    require_judges,
    resolve_judge,
    with_grader,
)
from safedepth.judges.rubric import rubric
from safedepth.judges.rules import rules
from safedepth.judges.strongreject import strongreject

__all__ = [
    "default_judges",
    "described",
    "harmbench",
    "judge_name",
    "judged",
    "keywords",
    "llama_guard",
    "require_judges",
    "resolve_judge",
    "rubric",
    "rules",
    "strongreject",
    "strongreject_finetuned",
    "wildguard",
    "with_grader",
]
