"""Attacks, one idea a file: Inspect solvers that produce what the target said and never grade it."""

from safedepth.attacks.multi_turn import multi_turn
from safedepth.attacks.plain import plain
from safedepth.attacks.prefill import prefill
from safedepth.attacks.refusal_prefix import REFUSAL_PREFIXES, refusal_prefix

__all__ = ["REFUSAL_PREFIXES", "multi_turn", "plain", "prefill", "refusal_prefix"]
