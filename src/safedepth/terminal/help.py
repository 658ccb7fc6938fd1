"""The help of commands whose options are dataclasses: ours as tables, TRL's by reference."""

from __future__ import annotations

from collections.abc import Mapping

from safedepth.terminal.console import console, escaped, say

__all__ = ["print_attack_help", "print_finetune_help", "print_training_help"]


def print_training_help() -> None:
    """Our options as a table; TRL's by reference, for there are hundreds and TRL documents them."""
    from safedepth.studies.deepen_options import DeepenOptions
    from safedepth.train.options import RecoveryOptions

    usage = "safedepth deepen MODEL --triplets FILE --anchors FILE|self --output_dir DIR"
    _print_options(usage, {"Data and tests": DeepenOptions, "Training": RecoveryOptions})
    say("On several GPUs: accelerate launch --config_file configs/fsdp2.yaml -m safedepth deepen ...")


def print_finetune_help() -> None:
    """The options of `finetune`."""
    from safedepth.studies.finetune_options import FinetuneOptions
    from safedepth.train.protect_options import ProtectOptions

    usage = "safedepth finetune MODEL --dataset_name FILE|HUB_ID --output_dir DIR [--objective constrained]"
    _print_options(usage, {"Data and tests": FinetuneOptions, "Protection": ProtectOptions})
    say(
        "What `trl sft` takes for its data is taken too. On several GPUs: accelerate launch --config_file "
        "configs/fsdp2.yaml -m safedepth finetune ..."
    )


def print_attack_help(command: str) -> None:
    """The options of `attack finetune` or `attack sweep`."""
    from safedepth.studies.attack_options import AttackOptions, SweepOptions
    from safedepth.train.protect_options import ProtectOptions

    usage = f"safedepth attack {command} MODEL --kind KIND --data FILE --prompts FILE --output_dir DIR"
    own = SweepOptions if command == "sweep" else AttackOptions
    usage += " --benign FILE" if command == "sweep" else ""
    _print_options(usage, {"Attack and tests": own, "Defence": ProtectOptions}, objective="sft")
    if command == "sweep":
        say("\nOf these, --defences and the lists decide objective, learning rate, passes, seed and LoRA.")


def _print_options(usage: str, kinds: Mapping[str, type], **other_defaults: str) -> None:
    """Usage, a table for each kind of options, and where the others are."""
    from dataclasses import fields

    from rich.table import Table

    terminal = console()
    terminal.print(f"Usage: {usage} [OPTIONS]\n", highlight=False, markup=False)
    for title, kind in kinds.items():
        table = Table("option", "default", "", title=title, title_justify="left", box=None)
        for option in fields(kind):
            default = "–" if option.default in (None, False) else str(option.default)
            default = other_defaults.get(option.name, default)
            table.add_row(f"--{option.name}", default, escaped(option.metadata["help"]))
        terminal.print(table)
    say(
        "\nBesides these, every option of TRL's SFTConfig and ModelConfig by its own name: --learning_rate, "
        "--max_steps, --num_train_epochs, --per_device_train_batch_size, --dtype, --use_peft, --lora_r, "
        "--gradient_checkpointing, --max_length, --report_to, --seed, ...; --config FILE.yaml holds any of "
        "them."
    )
