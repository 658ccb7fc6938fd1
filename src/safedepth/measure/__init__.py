"""Measures: tensors and numbers in, numbers out.

Nothing here knows a tokenizer, a path or a judge, and `gradients` alone a torch module.
Import the module you need: `kl` and `gradients` load torch, `statistics` and `depth` do not.
"""

__all__ = ["depth", "gradients", "kl", "statistics"]
