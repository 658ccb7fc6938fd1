"""The command `safedepth audit`: how deep, and what gets past it.

Heavy imports happen inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from safedepth.cli_words import depths_of, names_of
from safedepth.terminal import finish, print_plan, progress_bars, quiet_libraries

__all__ = ["audit"]


def audit(
    model: Annotated[str, typer.Argument(help="A path, a hub id, or an Inspect model name (vllm/...).")],
    prompts: Annotated[
        str, typer.Option(help="CSV or JSONL with prompt and harmful, AdvBench's columns, or chats.")
    ],
    base: Annotated[
        str | None, typer.Option(help="The unaligned base model, for the KL and refusal prefixes.")
    ] = None,
    depths: Annotated[str, typer.Option(help="Numbers of harmful tokens to force.")] = "0,1,2,5,10,20,40",
    judge: Annotated[
        list[str] | None, typer.Option(help="rules, oracle, package/scorer or file.py@name; repeatable.")
    ] = None,
    attacks: Annotated[
        str, typer.Option(help="Names with commas between, or all; --help of docs/audit.md lists them.")
    ] = "prefill,refusal_prefix,decoding",
    settings: Annotated[
        str | None, typer.Option(help="Decoding settings, such as 'temperature=0.7,1;top_k=500'.")
    ] = None,
    benign: Annotated[
        str | None, typer.Option(help="Benign requests with answers: insertion takes a stretch of them.")
    ] = None,
    trajectories: Annotated[
        str | None, typer.Option(help="Conversations whose answers are harmful, for multi_turn.")
    ] = None,
    attacker: Annotated[
        str | None, typer.Option(help="An Inspect model that leads conversations, for escalation.")
    ] = None,
    turns: Annotated[int, typer.Option(min=1, help="Turns of such a conversation.")] = 4,
    suffixes: Annotated[
        str | None, typer.Option(help="Suffixes found elsewhere; without them they are searched here.")
    ] = None,
    suffix_steps: Annotated[int, typer.Option(min=1, help="Steps of that search, a prompt.")] = 500,
    refusal_prefix: Annotated[
        list[str] | None, typer.Option(help="A refusal prefix to force; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; an interrupted run there is resumed.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N prompts alone.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Sampled replies per prompt and variant.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all sampling.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 decodes greedily.")] = 0.9,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.6,
    top_k: Annotated[int, typer.Option(min=1)] = 50,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="New tokens a reply; default up to 512.")
    ] = None,
    chat_template: Annotated[str | None, typer.Option(help="File, or model that lends its template.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Counts tokens for a model behind a server.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    show_harmful: Annotated[bool, typer.Option(help="Do not redact harmful text in the report.")] = False,
    png: Annotated[bool, typer.Option(help="Also write the figures as PNG.")] = False,
) -> None:
    """Measure how many tokens deep the safety of MODEL goes."""
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
        judges=tuple(judge or ["rules"]), limit=limit, repeats=repeats, seed=seed,
        temperature=temperature, top_p=top_p, top_k=top_k,
        max_tokens=max_tokens, chat_template=chat_template, tokenizer=tokenizer, dtype=dtype, device=device,
        **chosen,
    )  # fmt: skip
    out = out or Path("runs") / f"audit-{Path(model).name}"
    with progress_bars() as progress:
        run(config, out, progress=progress, announce=print_plan)
    finish(out, show_harmful=show_harmful, png=png)
