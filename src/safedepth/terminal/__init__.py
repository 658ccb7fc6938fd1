"""What the terminal shows: progress, tables, messages. With `cli` the only place that prints."""

from safedepth.terminal.console import INTERRUPTED, console, escaped, progress_bars, quiet_libraries, say
from safedepth.terminal.help import print_attack_help, print_finetune_help, print_training_help
from safedepth.terminal.pushing import asked_to_push, push_folder
from safedepth.terminal.tables import (
    finish,
    print_attack,
    print_dynamics,
    print_plan,
    print_sweep,
)

__all__ = [
    "INTERRUPTED",
    "asked_to_push",
    "console",
    "escaped",
    "finish",
    "print_attack",
    "print_attack_help",
    "print_dynamics",
    "print_finetune_help",
    "print_plan",
    "print_sweep",
    "print_training_help",
    "progress_bars",
    "push_folder",
    "quiet_libraries",
    "say",
]
