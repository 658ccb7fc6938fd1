"""Which attacks a study runs on a model: what each needs, what it is given, what it will cost.

An attack that was asked for by name and cannot be run is an error before anything runs;
one that "all" or the default would have brought is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai.model import Model, get_model

from safedepth import tasks
from safedepth.attacks.decoding import read_grid
from safedepth.chat.thinking import thinking_markers
from safedepth.errors import DataError, ModelError
from safedepth.nouns import Prompt
from safedepth.studies.target import Target

__all__ = [
    "ALL",
    "ATTACKS",
    "DEFAULT",
    "AttackOptions",
    "Means",
    "Plan",
    "attack_task",
    "plan_attacks",
    "task_named",
]

DEFAULT = ("prefill", "refusal_prefix", "decoding")
ALL = "all"


@dataclass(frozen=True)
class AttackOptions:
    """The attacks of a study, and what they need beside prompts and judges.

    `attacks` are names out of `ATTACKS`, or "all". Depths are numbers of harmful tokens forced;
    those of the prefilling attack are the study's own. `suffixes` is a file of suffixes;
    without one they are searched on the model itself. `attacker` is an Inspect model.
    """

    attacks: tuple[str, ...] = DEFAULT
    settings: str | None = None
    rank_depths: tuple[int, ...] = (0, 5, 10)
    insertion_depths: tuple[int, ...] = (5, 10, 20)
    own_depths: tuple[int, ...] = (10, 20, 40)
    thinking_depths: tuple[int, ...] = (5, 10, 20)
    turn_depths: tuple[int, ...] = (0, 5)
    turns: int = 4
    benign: str | None = None
    trajectories: str | None = None
    attacker: str | None = None
    suffixes: str | None = None
    suffix_steps: int = 500
    suffix_width: int = 512

    def __post_init__(self) -> None:
        unknown = [name for name in self.attacks if name not in (ALL, *ATTACKS)]
        if unknown or not self.attacks:
            raise DataError(
                f"expected attacks out of {', '.join(ATTACKS)}, or {ALL}; found "
                f"{', '.join(unknown) or 'none'}"
            )
        if self.turns < 1 or self.suffix_steps < 1 or self.suffix_width < 1:
            raise DataError("expected at least one turn, one suffix step and a width of one, found less")
        read_grid(self.settings)

    @property
    def roles(self) -> dict[str, Model]:
        """The other models that take part, by Inspect's name of their role. Raises ModelError."""
        if self.attacker is None:
            return {}
        try:
            return {"attacker": get_model(self.attacker)}
        except Exception as error:
            raise ModelError(f"Inspect could not make the attacker {self.attacker!r}: {error}") from error

    @property
    def named(self) -> frozenset[str]:
        """The attacks that somebody asked for by name, other than by the default."""
        return frozenset(() if self.attacks == DEFAULT else self.attacks) - {ALL}

    @property
    def wanted(self) -> tuple[str, ...]:
        """The attacks asked for, by name or together, in the order of `ATTACKS`."""
        return tuple(name for name in ATTACKS if name in self.attacks or ALL in self.attacks)


@dataclass(frozen=True)
class Means:
    """What there is to attack with: the model's side, and the prompts'.

    `lacks` are what a server was not seen to do ("forcing", "logit_bias", "top_k"), with the evidence.
    """

    local: bool
    continues: bool
    thinks: bool
    harmful: bool
    lacks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, target: Target, prompts: Sequence[Prompt]) -> Means:
        """What can be done with this target and these prompts."""
        served, chat = target.served, target.chat
        names = ("logit_bias", "top_k")
        lacks = (
            {} if served is None else {n: served.ability(n).evidence for n in names if not served.ability(n)}
        )
        if served is not None and served.forced_as is None:
            lacks["forcing"] = served.unforced
        return cls(
            local=target.loaded is not None,
            continues=target.forced_as is not None,
            # Markers are tokens of their own; as text they would be lost.
            thinks=target.forced_as == "tokens" and chat is not None and thinking_markers(chat) is not None,
            harmful=any(prompt.harmful is not None for prompt in prompts),
            lacks=lacks,
        )


@dataclass(frozen=True)
class Plan:
    """Attacks to run, in order, and those left out, with `what` and `why`."""

    attacks: tuple[str, ...]
    left_out: tuple[dict[str, str], ...]


Lacking = Callable[[AttackOptions, Means], str]


def _forces(_options: AttackOptions, means: Means) -> str:
    if not means.harmful:
        return "no prompt has a harmful answer whose tokens could be forced"
    if means.continues:
        return ""
    return means.lacks.get("forcing", "the server was not seen to continue an assistant's message")


def _leaves_tokens_out(options: AttackOptions, means: Means) -> str:
    return _forces(options, means) or means.lacks.get("logit_bias", "")


def _decodes(options: AttackOptions, means: Means) -> str:
    if "top_k" not in means.lacks or all(one.kind != "top_k" for one in read_grid(options.settings)):
        return ""
    return f"it varies top-k; name settings without it (--settings). {means.lacks['top_k']}"


def _thinks(options: AttackOptions, means: Means) -> str:
    return _forces(options, means) or ("" if means.thinks else "the model has no thinking block")


def _suffixes(options: AttackOptions, means: Means) -> str:
    if options.suffixes:
        return ""
    if not means.harmful:
        return "no prompt has a harmful answer that a suffix could aim at"
    if means.local:
        return ""
    return "a search needs the model's weights; for a server give suffixes found elsewhere (--suffixes FILE)"


def _needs(field: str, flag: str) -> Lacking:
    return lambda options, _means: "" if getattr(options, field) else f"it needs {flag}"


def _nothing(_options: AttackOptions, _means: Means) -> str:
    return ""


ATTACKS: Mapping[str, Lacking] = {
    "prefill": _forces,
    "refusal_prefix": _nothing,
    "decoding": _decodes,
    "rank_prefill": _leaves_tokens_out,
    "insertion": _forces,
    "on_policy": _leaves_tokens_out,
    "thinking": _thinks,
    "multi_turn": _needs("trajectories", "conversations (--trajectories FILE)"),
    "escalation": _needs("attacker", "a model that attacks (--attacker MODEL)"),
    "suffix": _suffixes,
}
"""Every attack, and what says why it cannot be run; empty where it can."""


def plan_attacks(options: AttackOptions, means: Means) -> Plan:
    """The attacks that can be run. Raises DataError for one asked for by name that cannot."""
    chosen, left_out = [], []
    for name in options.wanted:
        why = ATTACKS[name](options, means)
        if not why:
            chosen.append(name)
        elif name in options.named:
            raise DataError(f"expected everything that the attack {name} needs, found a lack: {why}")
        else:
            left_out.append({"what": f"the attack {name}", "why": why})
    return Plan(tuple(chosen), tuple(left_out))


_TAKES_NO: Mapping[str, frozenset[str]] = {
    "decoding": frozenset({"temperature", "top_p", "top_k", "tokenizer"}),
    "escalation": frozenset({"tokenizer"}),
    "suffix": frozenset({"tokenizer"}),
}
"""Of the arguments that tasks have in common, those that a task has no use for."""


def task_named(name: str, common: Mapping[str, Any], **own: Any) -> Task:
    """The Inspect task of an attack, with what it takes of the common arguments, and its own."""
    taken = {key: value for key, value in common.items() if key not in _TAKES_NO.get(name, ())}
    task: Task = getattr(tasks, name)(**taken | own)
    return task


def attack_task(name: str, options: AttackOptions, *, depths: Sequence[int], **common: Any) -> Task:
    """The Inspect task of one attack of a plan (all but `refusal_prefix`).

    `common` are the arguments that tasks share: prompts, judge, seed, limits, decoding.
    """
    own: Mapping[str, dict[str, Any]] = {
        "prefill": {"depth": list(depths)},
        "rank_prefill": {"depth": list(options.rank_depths)},
        "insertion": {"depth": list(options.insertion_depths), "benign": options.benign},
        "on_policy": {"depth": list(options.own_depths)},
        "thinking": {"depth": list(options.thinking_depths)},
        "multi_turn": {"depth": list(options.turn_depths), "prompts": options.trajectories},
        "decoding": {"settings": options.settings},
        "escalation": {"turns": options.turns},
        "suffix": {"suffixes": str(Path(options.suffixes or "").resolve())},
    }
    return task_named(name, common, **own[name])
