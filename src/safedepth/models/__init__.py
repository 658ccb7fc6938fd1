"""Models: loading them with a record of what was loaded, and taking their logits apart.

Safetensors only, never code from a checkpoint, never a family guessed from a name.
"""

from safedepth.models.heads import context_length, head_of, hidden_states
from safedepth.models.loading import LoadedModel, load_chat, load_model, require_same_vocabulary

__all__ = [
    "LoadedModel",
    "context_length",
    "head_of",
    "hidden_states",
    "load_chat",
    "load_model",
    "require_same_vocabulary",
]
