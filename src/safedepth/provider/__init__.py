"""Local models for Inspect: token-exact prefill, shared prefills, continuous batching, log-probs.

`jobs` holds what goes in and comes out, `sampling` picks tokens, `sharing` finds the
prompts inside one another, `cache` and `decoder` are the model's side, `engine`
schedules, and `api` speaks Inspect. All but `api` know token ids only.
"""

from safedepth.provider.engine import Engine
from safedepth.provider.jobs import Completion, Job, Sampling, TokenLogprob

__all__ = ["Completion", "Engine", "Job", "Sampling", "TokenLogprob"]
