"""Attacks, one idea a file: Inspect solvers that produce what the target said and never grade it."""

from safedepth.attacks.prefill import prefill
from safedepth.attacks.refusal_prefix import REFUSAL_PREFIXES, refusal_prefix

__all__ = ["REFUSAL_PREFIXES", "prefill", "refusal_prefix"]
