"""The commands `safedepth attack ...`: attacks on the weights of one's own models.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import typer

from safedepth.terminal import finish, print_attack_help, progress_bars, quiet_libraries

__all__ = ["attack_app"]

attack_app = typer.Typer(
    help="Attacks on the weights of one's own models: what a defence must hold against.",
    no_args_is_help=True,
)

# TRL's options are hundreds: its parser reads them all.
_UNREAD = {"allow_extra_args": True, "ignore_unknown_options": True}


@attack_app.command("finetune", context_settings=_UNREAD, add_help_option=False)
def attack_finetune(context: typer.Context) -> None:
    """Fine-tune MODEL on an attacker's data and see what is left of its safety (--help lists the options)."""
    words = context.args
    if not words or "--help" in words or "-h" in words:
        print_attack_help("finetune")
        return
    quiet_libraries()
    from safedepth.studies.attack_finetune import attack_finetune as run
    from safedepth.studies.attack_finetune import parse_attack

    options, config, model = parse_attack(words)
    with progress_bars(shown=config.process_index == 0) as progress:
        out = run(options, config, model, progress=progress)
    if out is not None:
        finish(out, show_harmful=options.show_harmful, png=options.png)


@attack_app.command("sweep", context_settings=_UNREAD, add_help_option=False)
def attack_sweep(context: typer.Context) -> None:
    """Attack MODEL over and over; the worst case under a utility bound (--help lists the options)."""
    words = context.args
    if not words or "--help" in words or "-h" in words:
        print_attack_help("sweep")
        return
    quiet_libraries()
    from safedepth.studies.sweep import parse_sweep
    from safedepth.studies.sweep import sweep as run

    options, config, model = parse_sweep(words)
    with progress_bars() as progress:
        out = run(options, config, model, progress=progress)
    finish(out, show_harmful=options.show_harmful, png=options.png)
