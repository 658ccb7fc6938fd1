"""Utility by the field's own benchmarks: lm-eval's tasks and AlpacaEval, on the model that is loaded."""

from safedepth.utility.alpaca import (
    AlpacaScore,
    Instruction,
    alpaca_score,
    read_instructions,
    require_alpaca,
    write_outputs,
)
from safedepth.utility.harness import COLUMNS, Harness, HarnessOptions

__all__ = [
    "COLUMNS",
    "AlpacaScore",
    "Harness",
    "HarnessOptions",
    "Instruction",
    "alpaca_score",
    "read_instructions",
    "require_alpaca",
    "write_outputs",
]
