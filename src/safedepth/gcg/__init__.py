"""GCG: suffixes found by gradients (Zou et al. 2023, arXiv 2307.15043; claim C5), fast and without Inspect.

`objective` says what a good suffix is, `places` where it stands in a chat, `candidates`
what to try next, `victim` what the model makes of it, `search` goes step by step.
"""

from safedepth.gcg.search import Found, Lane, SearchOptions, search
from safedepth.gcg.victim import Victim

__all__ = ["Found", "Lane", "SearchOptions", "Victim", "search"]
