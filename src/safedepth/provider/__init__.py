"""Local models for Inspect: token-exact prefill, shared prefills, continuous batching, log-probs.

`jobs` holds what goes in and comes out; `cache` and `decoder` are the model's side;
`sharing`, `prefill` and `prefixes` compute what prompts have in common once; `sampling`
and `logprobs` read logits; `rows`, `scheduler` and `engine` run many jobs side by side;
`shared`, `stops` and `api` speak Inspect. All but the last line know token ids only.
"""

from safedepth.provider.engine import Engine
from safedepth.provider.jobs import Completion, Job, Sampling, TokenLogprob

__all__ = ["Completion", "Engine", "Job", "Sampling", "TokenLogprob"]
