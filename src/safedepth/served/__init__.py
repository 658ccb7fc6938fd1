"""Models behind servers: what a server can do, found out by asking, and how to ask it.

`connection` makes Inspect's models for one address; `asking` sends one request with bounded
patience; `canaries` are the requests; `forcing`, `settings` and `echo` judge one ability each;
`probe` asks for all of them, and `capabilities` is what it finds. `api` is the model of an audit,
`clients` and `patience` are what it asks with.
"""

from safedepth.served.capabilities import Ability, Answer, Capabilities, require_same_model

__all__ = ["Ability", "Answer", "Capabilities", "require_same_model"]
