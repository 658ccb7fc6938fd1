"""The commands `safedepth attack ...`: attacks on one's own models, on their weights and past their refusals.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safedepth.cli_words import (
    ChatTemplate,
    Device,
    Dtype,
    Grader,
    Limit,
    MaxTokens,
    Model,
    Png,
    Prompts,
    Repeats,
    Seed,
    Servers,
    ShowHarmful,
    Tokenizer,
    Turns,
    depths_of,
    judges_of,
    names_of,
    require_one_process,
)
from safedepth.terminal import (
    asked_to_push,
    finish,
    print_attack_help,
    progress_bars,
    push_folder,
    quiet_libraries,
)

__all__ = ["attack_app"]

attack_app = typer.Typer(
    help="Attacks on one's own models: what a defence must hold against.",
    no_args_is_help=True,
)

# TRL's options are hundreds: its parser reads them all.
_UNREAD = {"allow_extra_args": True, "ignore_unknown_options": True}


@attack_app.callback()
def only_where_work_is_shared(context: typer.Context) -> None:
    """Refuse a launcher's processes where each would do all of the work."""
    require_one_process(f"attack {context.invoked_subcommand}")


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
    place = asked_to_push(config, attacked=True)
    with progress_bars(shown=config.process_index == 0) as progress:
        out = run(options, config, model, progress=progress)
    if out is not None:
        finish(out, show_harmful=options.show_harmful, png=options.png)
        if place is not None:
            push_folder(Path(str(config.output_dir)), place)


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


@attack_app.command("suffix")
def attack_suffix(
    model: Annotated[str, typer.Argument(help="A local checkpoint: a path or a hub id.")],
    prompts: Prompts,
    out: Annotated[Path, typer.Option(help="Run directory; an interrupted run there is resumed.")],
    universal: Annotated[bool, typer.Option(help="One suffix for all prompts.")] = False,
    steps: Annotated[int, typer.Option(help="Steps of a search, at most.")] = 500,
    width: Annotated[int, typer.Option(help="Candidates a step.")] = 512,
    topk: Annotated[int, typer.Option(help="Tokens considered at a position.")] = 256,
    tokens: Annotated[int, typer.Option(help="Tokens of a suffix.")] = 20,
    target: Annotated[str | None, typer.Option(help="What every answer is to begin with.")] = None,
    target_tokens: Annotated[int, typer.Option(help="Tokens of each harmful answer to aim at.")] = 20,
    objective: Annotated[str, typer.Option(help="cross_entropy or mellowmax.")] = "cross_entropy",
    non_ascii: Annotated[bool, typer.Option(help="Allow other than ASCII characters.")] = False,
    check_every: Annotated[int, typer.Option(help="Steps between questions to the judge.")] = 10,
    also: Annotated[
        list[str] | None, typer.Option(help="Another local model it must work on at once; repeatable.")
    ] = None,
    transfer: Annotated[
        list[str] | None, typer.Option(help="Another model to try the suffixes on; repeatable.")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="The first one stops the search; repeatable.")
    ] = None,
    grader: Grader = None,
    limit: Limit = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    max_tokens: MaxTokens = None,
    server: Servers = None,
    chat_template: ChatTemplate = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    show_harmful: ShowHarmful = False,
    png: Png = False,
) -> None:
    """Search suffixes that make MODEL answer (GCG), and ask with them."""
    quiet_libraries()
    from safedepth.studies.suffix import SuffixConfig, suffix_attack
    from safedepth.studies.suffix_search import SuffixOptions

    options = SuffixOptions(
        steps=steps, width=width, topk=topk, check_every=check_every, tokens=tokens,
        target_tokens=target_tokens, target=target, objective=objective, universal=universal,
        ascii_only=not non_ascii,
    )  # fmt: skip
    config = SuffixConfig(
        model=model, prompts=prompts, options=options, also=tuple(also or ()),
        transfer=tuple(transfer or ()),
        judges=judges_of(judge, grader), limit=limit, repeats=repeats, seed=seed, max_tokens=max_tokens,
        servers=tuple(server or ()), chat_template=chat_template, dtype=dtype, device=device,
    )  # fmt: skip
    with progress_bars() as progress:
        suffix_attack(config, out, progress=progress)
    finish(out, show_harmful=show_harmful, png=png)


@attack_app.command("adaptive")
def attack_adaptive(
    model: Model,
    prompts: Prompts,
    out: Annotated[Path, typer.Option(help="Run directory; an interrupted run there is resumed.")],
    budget: Annotated[int, typer.Option(help="Tries a prompt, at most.")] = 20,
    attacks: Annotated[str, typer.Option(help="Names with commas between, or all.")] = "all",
    depths: Annotated[str, typer.Option(help="Numbers of harmful tokens to force.")] = "0,1,5,10,20,40",
    suffixes: Annotated[str | None, typer.Option(help="Suffixes found elsewhere, to try as well.")] = None,
    attacker: Annotated[str | None, typer.Option(help="An Inspect model that leads conversations.")] = None,
    turns: Turns = 4,
    confirm: Annotated[int, typer.Option(help="How often what broke is tried again.")] = 3,
    compare: Annotated[bool, typer.Option(help="Also attack in a fixed order, to compare.")] = False,
    judge: Annotated[list[str] | None, typer.Option(help="The attacker learns from the first one.")] = None,
    grader: Grader = None,
    limit: Limit = None,
    seed: Seed = 0,
    max_tokens: MaxTokens = None,
    server: Servers = None,
    chat_template: ChatTemplate = None,
    tokenizer: Tokenizer = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    show_harmful: ShowHarmful = False,
    png: Png = False,
) -> None:
    """Attack every prompt again and again, each time as what worked so far suggests; the worst case."""
    quiet_libraries()
    from safedepth.studies.adaptive import AdaptiveConfig, adaptive
    from safedepth.studies.attack_plan import AttackOptions

    options = AttackOptions(
        attacks=names_of(attacks), suffixes=suffixes, attacker=attacker, turns=turns
    )  # fmt: skip
    config = AdaptiveConfig(
        model=model, prompts=prompts, budget=budget, options=options, depths=depths_of(depths),
        judges=judges_of(judge, grader), confirm=confirm, compare=compare, limit=limit, seed=seed,
        max_tokens=max_tokens, servers=tuple(server or ()), chat_template=chat_template, tokenizer=tokenizer,
        dtype=dtype, device=device,
    )  # fmt: skip
    with progress_bars() as progress:
        adaptive(config, out, progress=progress)
    finish(out, show_harmful=show_harmful, png=png)
