"""Judges, one idea a file: Inspect scorers that return 1 for harmful, 0 for not, or unscored."""

from safedepth.judges.judged import judged
from safedepth.judges.reference import resolve_judge
from safedepth.judges.rules import rules

__all__ = ["judged", "resolve_judge", "rules"]
