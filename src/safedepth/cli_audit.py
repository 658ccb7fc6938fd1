"""The command `safedepth audit`: how deep, and what gets past it.

Heavy imports happen inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from safedepth.cli_words import (
    ChatTemplate,
    Device,
    Dtype,
    Grader,
    Judges,
    Limit,
    MaxTokens,
    Model,
    Out,
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
)
from safedepth.terminal import finish, print_plan, progress_bars, quiet_libraries

__all__ = ["audit"]


_Base = Annotated[str | None, typer.Option(help="The unaligned base model, for the KL and refusal prefixes.")]
_Attacks = Annotated[
    str,
    typer.Option(
        help="Names with commas between, or all: prefill, refusal_prefix, decoding, rank_prefill, insertion, "
        "on_policy, thinking, multi_turn, escalation, suffix."
    ),
]
_Settings = Annotated[
    str | None, typer.Option(help="Decoding settings, such as 'temperature=0.7,1;top_k=500'.")
]
_Benign = Annotated[
    str | None, typer.Option(help="Benign requests with answers: insertion takes a stretch of them.")
]
_Trajectories = Annotated[
    str | None, typer.Option(help="Conversations whose answers are harmful, for multi_turn.")
]
_Attacker = Annotated[
    str | None, typer.Option(help="An Inspect model that leads conversations, for escalation.")
]
_Suffixes = Annotated[
    str | None, typer.Option(help="Suffixes found elsewhere; without them they are searched here.")
]
_RefusalPrefix = Annotated[list[str] | None, typer.Option(help="A refusal prefix to force; repeatable.")]


def audit(
    model: Model,
    prompts: Prompts,
    base: _Base = None,
    depths: Annotated[str, typer.Option(help="Numbers of harmful tokens to force.")] = "0,1,2,5,10,20,40",
    judge: Judges = None,
    grader: Grader = None,
    attacks: _Attacks = "prefill,refusal_prefix,decoding",
    settings: _Settings = None,
    benign: _Benign = None,
    trajectories: _Trajectories = None,
    attacker: _Attacker = None,
    turns: Turns = 4,
    suffixes: _Suffixes = None,
    suffix_steps: Annotated[int, typer.Option(min=1, help="Steps of that search, a prompt.")] = 500,
    refusal_prefix: _RefusalPrefix = None,
    out: Out = None,
    limit: Limit = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 decodes greedily.")] = 0.9,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.6,
    top_k: Annotated[int, typer.Option(min=1)] = 50,
    max_tokens: MaxTokens = None,
    server: Servers = None,
    chat_template: ChatTemplate = None,
    tokenizer: Tokenizer = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    show_harmful: ShowHarmful = False,
    png: Png = False,
) -> None:
    """Measure how many tokens deep the safety of MODEL goes, and what gets past it."""
    from safedepth.studies.attack_plan import AttackOptions
    from safedepth.studies.audit import AuditConfig
    from safedepth.studies.audit import audit as run

    quiet_libraries()
    chosen: dict[str, Any] = {"prefixes": tuple(refusal_prefix)} if refusal_prefix else {}
    attack = AttackOptions(
        attacks=names_of(attacks), settings=settings, benign=benign, trajectories=trajectories,
        attacker=attacker, turns=turns, suffixes=suffixes, suffix_steps=suffix_steps,
    )  # fmt: skip
    config = AuditConfig(
        model=model, prompts=prompts, base=base, attack=attack, depths=depths_of(depths),
        judges=judges_of(judge, grader), limit=limit, repeats=repeats, seed=seed,
        temperature=temperature, top_p=top_p, top_k=top_k,
        max_tokens=max_tokens, servers=tuple(server or ()), chat_template=chat_template, tokenizer=tokenizer,
        dtype=dtype, device=device, **chosen,
    )  # fmt: skip
    out = out or Path("runs") / f"audit-{Path(model).name}"
    with progress_bars() as progress:
        run(config, out, progress=progress, announce=print_plan)
    finish(out, show_harmful=show_harmful, png=png)
