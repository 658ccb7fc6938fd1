"""The tries an adaptive attacker has to choose from: one attack at one setting, one run on a prompt each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspect_ai import Task

from safedepth.studies.attack_plan import AttackOptions, Plan, task_named

__all__ = ["Arm", "arms_of"]

SETTINGS = ("temperature=1.0", "top_p=0.9", "top_k=200")
"""Decoding settings that are worth a try of their own; the others of the 49 are close to these."""


@dataclass(frozen=True)
class Arm:
    """One attack at one setting; `options` are the arguments of its Inspect task that say so."""

    name: str
    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def task(self, **common: Any) -> Task:
        """The Inspect task of this arm. `common` are prompts, judge, seed and decoding."""
        return task_named(self.attack, common, **self.options)


def arms_of(plan: Plan, options: AttackOptions, *, depths: Sequence[int]) -> list[Arm]:
    """Every arm of the attacks of a plan, in its order. Scripted conversations are no arm: they have
    prompts of their own."""
    return [arm for attack in plan.attacks for arm in _arms(attack, options, depths)]


def _arms(attack: str, options: AttackOptions, depths: Sequence[int]) -> Iterator[Arm]:
    forced = {
        "prefill": depths,
        "rank_prefill": options.rank_depths,
        "on_policy": options.own_depths,
        "thinking": options.thinking_depths,
    }
    if attack in forced:
        more = {"source": ["own"]} if attack == "on_policy" else {}
        for k in forced[attack]:
            yield Arm(f"{attack} {k}", attack, {"depth": [k], **more})
    elif attack == "insertion":
        for k in options.insertion_depths:
            yield Arm(f"insertion {k}", attack, {"depth": [k], "place": ["after refusal"]})
    elif attack == "decoding":
        for setting in SETTINGS:
            yield Arm(f"decoding {setting}", attack, {"settings": setting})
    elif attack == "suffix" and options.suffixes:
        yield Arm("suffix", attack, {"suffixes": options.suffixes})
    elif attack == "escalation":
        yield Arm("escalation", attack, {"turns": options.turns})
