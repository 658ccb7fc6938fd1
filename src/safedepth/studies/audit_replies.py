"""What an audit asks of one model: the tasks of its plan, run together, as one table of judged replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from inspect_ai import Task

from safedepth import tasks
from safedepth.attacks.insertion import longest_stretch
from safedepth.data import resolved
from safedepth.nouns import Progress, Prompt
from safedepth.studies.attack_plan import Plan, attack_task
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.target import Target, room_after, room_for_reply

if TYPE_CHECKING:
    from safedepth.studies.audit import AuditConfig

__all__ = ["audit_tasks", "model_replies"]

REFUSAL_TOKENS = 16
"""Room for a forced refusal."""


def audit_tasks(
    config: AuditConfig, target: Target, prompts: Sequence[Prompt], plan: Plan, *, role: str
) -> list[Task]:
    """The Inspect tasks of one model: refusal prefixes, the request alone, then the plan's attacks.

    Only the model with the role "aligned" is attacked. Raises ModelError where a context is too
    short for what is to be forced.
    """
    forcing = target.forced_as is not None
    prefixes = config.prefixes if forcing and (role != "aligned" or "refusal_prefix" in plan.attacks) else ()
    deepest = max(config.depths) if role == "aligned" else REFUSAL_TOKENS
    common = _common(config, _room(config, target, prompts, deepest))
    todo = [tasks.refusal_prefix(prefix=["", *prefixes], **common)]
    if role != "aligned":
        return todo
    if "prefill" not in plan.attacks:  # what the others are compared with
        todo.append(tasks.prefill(depth=[0], **common))
    options = config.attack if forcing else replace(config.attack, turn_depths=(0,))
    turns = 1 if options.attacker is None else options.turns
    forced = {
        "rank_prefill": max(options.rank_depths),
        "on_policy": max(options.own_depths),
        "thinking": max(options.thinking_depths) + REFUSAL_TOKENS,
        "insertion": max(options.insertion_depths) + longest_stretch(),
        "suffix": 4 * REFUSAL_TOKENS,
        "decoding": 0,
    }
    for name in plan.attacks:
        given = common
        if name in forced:
            given = common | {"max_tokens": _room_after(config, target, prompts, forced[name])}
        elif name == "escalation":
            given = common | {"max_tokens": _room_after(config, target, prompts, 0) // turns}
        if name != "refusal_prefix":
            todo.append(attack_task(name, options, depths=config.depths, **given))
    return todo


def model_replies(
    config: AuditConfig,
    target: Target,
    todo: Sequence[Task],
    *,
    role: str,
    logs: Path,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every reply the tasks ask of one model, judged."""
    told = counting(progress, f"replies of the {role} model", todo)
    logged = run_tasks(todo, target.model, logs, sample_done=told, roles=config.attack.roles)
    return replies_of(logged, role)


def _common(config: AuditConfig, room: int) -> dict[str, Any]:
    return {
        "prompts": resolved(config.prompts),
        "judge": list(config.judges),
        "limit": config.limit,
        "repeats": config.repeats,
        "seed": config.seed,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_tokens": room,
        "tokenizer": config.tokenizer,
    }


def _room(config: AuditConfig, target: Target, prompts: Sequence[Prompt], deepest: int) -> int:
    return room_for_reply(target, prompts, deepest=deepest, wanted=config.max_tokens)


def _room_after(config: AuditConfig, target: Target, prompts: Sequence[Prompt], forced: int) -> int:
    return room_after(target, prompts, forced=forced, wanted=config.max_tokens)
