"""Measures: tensors and numbers in, numbers out.

Nothing here knows a model, a tokenizer, a path or a judge. Import the module you
need: `kl` loads torch, `statistics` and `depth` do not.
"""

__all__ = ["depth", "kl", "statistics"]
