"""Attacks, one idea a file: Inspect solvers that produce what the target said and never grade it."""

from safedepth.attacks.decoding import DECODINGS, decoding
from safedepth.attacks.escalation import escalation
from safedepth.attacks.insertion import PLACES, insertion
from safedepth.attacks.multi_turn import multi_turn
from safedepth.attacks.on_policy import on_policy
from safedepth.attacks.plain import plain
from safedepth.attacks.prefill import prefill
from safedepth.attacks.rank_prefill import rank_prefill
from safedepth.attacks.refusal_prefix import REFUSAL_PREFIXES, refusal_prefix
from safedepth.attacks.thinking import thinking

__all__ = [
    "DECODINGS",
    "PLACES",
    "REFUSAL_PREFIXES",
    "decoding",
    "escalation",
    "insertion",
    "multi_turn",
    "on_policy",
    "plain",
    "prefill",
    "rank_prefill",
    "refusal_prefix",
    "thinking",
]
