"""The public names, nothing else.

A name is imported when it is first used, so that `import safedepth` costs nothing
and loads neither torch nor Inspect.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safedepth.chat import ChatFormat
    from safedepth.data import read_prompts
    from safedepth.errors import SafedepthError
    from safedepth.measure.kl import token_kl
    from safedepth.models import LoadedModel, load_model
    from safedepth.nouns import Estimate, Message, Outcome, Prompt, Rate, Scope, TokenSeries, Triplet
    from safedepth.report import build_report
    from safedepth.runs import RunDirectory
    from safedepth.studies.audit import AuditConfig, audit
    from safedepth.studies.reproduce import ReproduceConfig, reproduce
    from safedepth.testbed import build_testbed
    from safedepth.train.constrained import ConstrainedSFTTrainer
    from safedepth.train.constrained_config import ConstrainedSFTConfig

    __version__: str

__all__ = [
    "AuditConfig",
    "ChatFormat",
    "ConstrainedSFTConfig",
    "ConstrainedSFTTrainer",
    "Estimate",
    "LoadedModel",
    "Message",
    "Outcome",
    "Prompt",
    "Rate",
    "ReproduceConfig",
    "RunDirectory",
    "SafedepthError",
    "Scope",
    "TokenSeries",
    "Triplet",
    "__version__",
    "audit",
    "build_report",
    "build_testbed",
    "load_model",
    "read_prompts",
    "reproduce",
    "token_kl",
]

# The same names as above, for the interpreter; tests/test_public_names.py holds them together.
_HOME = {
    "AuditConfig": "studies.audit",
    "ChatFormat": "chat",
    "ConstrainedSFTConfig": "train.constrained_config",
    "ConstrainedSFTTrainer": "train.constrained",
    "Estimate": "nouns",
    "LoadedModel": "models",
    "Message": "nouns",
    "Outcome": "nouns",
    "Prompt": "nouns",
    "Rate": "nouns",
    "ReproduceConfig": "studies.reproduce",
    "RunDirectory": "runs",
    "SafedepthError": "errors",
    "Scope": "nouns",
    "TokenSeries": "nouns",
    "Triplet": "nouns",
    "audit": "studies.audit",
    "build_report": "report",
    "build_testbed": "testbed",
    "load_model": "models",
    "read_prompts": "data",
    "reproduce": "studies.reproduce",
    "token_kl": "measure.kl",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("safedepth")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"safedepth.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'safedepth' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
