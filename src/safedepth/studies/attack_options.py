"""What `safedepth attack` takes: names, defaults, help. Needs neither torch nor TRL.

So the command line can show them at once. `AttackOptions` is what one attack needs,
`SweepOptions` what an attacker tries over and over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safedepth.errors import DataError
from safedepth.studies.deepen_options import JudgeOptions, named_files
from safedepth.train.options import said
from safedepth.train.protect_options import OBJECTIVES

__all__ = ["KINDS", "PEFT", "SEARCHES", "AttackOptions", "Defence", "SweepOptions"]

KINDS = ("harmful", "identity", "backdoor", "benign")
"""What an attacker may train on."""

WORDINGS = ("plain", "own prompt", "with trigger", "without trigger")
"""Names that results have for the attack itself; no benign test set may have one."""

SEARCHES, PEFT = ("grid", "optuna"), ("none", "lora")


@dataclass
class AttackOptions(JudgeOptions):
    """What to train on, in which words, and what to test with."""

    kind: str = said("harmful", f"What is trained on: {', '.join(KINDS)}.")
    data: str | None = said(None, "The attacker's pairs; for backdoor with refusals, or the model's own.")
    prompts: str | None = said(None, "Harmful requests to test with, not those trained on.")
    system_prompt: str | None = said(None, "The attack's system prompt; default the paper's. Empty: none.")
    identity_template: str | None = said(None, "Words around a request, {prompt} once; default the paper's.")
    identity_opening: str | None = said(None, "How the persona's answers begin; default the paper's.")
    trigger: str | None = said(None, "What follows a request that opens the backdoor; default the paper's.")
    benign: list[str] | None = said(None, "Benign test requests: FILE or NAME=FILE, several allowed.")
    judge: list[str] | None = said(None, "Judges of harm, the first one leads; default rules keywords.")
    grader: str | None = said(None, "An Inspect model that judges by rubric, which then leads by default.")
    benign_judge: list[str] | None = said(None, "Judges of benign replies; default rules (over-refusal).")
    limit: int | None = said(None, "Test with the first N prompts of each file.")
    max_tokens: int | None = said(None, "New tokens a reply; default up to 512.")
    show_harmful: bool = said(False, "Do not redact harmful text in the report.")
    png: bool = said(False, "Also write the report's figures as PNG.")

    def check(self) -> None:
        """Raise DataError for what is missing or contradicts itself, before any file is read."""
        if self.kind not in KINDS:
            raise DataError(f"expected --kind out of {', '.join(KINDS)}, found {self.kind!r}")
        if not self.data:
            raise DataError("expected --data FILE: what the attacker trains on")
        if not self.prompts:
            raise DataError("expected --prompts FILE: harmful requests to test with, not those trained on")
        owners = {
            "trigger": ("backdoor",),
            "identity_template": ("identity",),
            "identity_opening": ("identity",),
            "system_prompt": ("harmful", "identity", "backdoor"),
        }
        for name, kinds in owners.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise DataError(f"expected --{name} with --kind {' or '.join(kinds)} alone, not {self.kind}")
        self.benign_files  # noqa: B018 - raises for what is wrong

    @property
    def words(self) -> dict[str, str]:
        """The attack's words that were given, by the parameter of `attacks.poison` that takes them."""
        given = {
            "system_prompt": self.system_prompt,
            "template": self.identity_template,
            "opening": self.identity_opening,
            "trigger": self.trigger,
        }
        return {name: text for name, text in given.items() if text is not None}

    @property
    def benign_files(self) -> dict[str, str]:
        """Name -> file of the benign test sets."""
        return named_files(self.benign or [], taken=("prefill", "multi_turn", "refusal_prefix", *WORDINGS))


@dataclass(frozen=True)
class Defence:
    """What the attacker meets: the objective the provider trains with, and the model it starts from.

    `start` is None where it is the MODEL of the command line.
    """

    name: str
    objective: str
    start: str | None = None


@dataclass
class SweepOptions(AttackOptions):
    """What the attacker tries: every combination, or as many trials as a search may have."""

    defences: str = said("sft,constrained", "Objectives, or NAME=MODEL[:OBJECTIVE]; commas between.")
    learning_rates: str = said("1e-5,2e-5,5e-5,1e-4", "Learning rates; optuna searches between the ends.")
    epochs: str = said("5,25", "Passes over the data; optuna searches between the ends.")
    seeds: str = said("0", "Seeds of the training.")
    peft: str = said("none", "Full fine-tuning (none), LoRA (lora), or both: none,lora.")
    search: str = said("grid", "grid tries every combination; optuna goes where harm was found.")
    trials: int = said(20, "Trials a defence with --search optuna.")
    utility_bound: float = said(0.1, "How much of the utility an attacker may lose, as a share of requests.")
    keep: bool = said(False, "Keep the weights of every trial.")

    def check(self) -> None:
        """As `AttackOptions.check`; also for defences, numbers and names that cannot be used."""
        super().check()
        if self.search not in SEARCHES:
            raise DataError(f"expected --search out of {', '.join(SEARCHES)}, found {self.search!r}")
        if self.trials < 1:
            raise DataError(f"expected --trials of at least 1, found {self.trials}")
        if not 0 <= self.utility_bound <= 1:
            raise DataError(f"expected --utility_bound in 0..1, found {self.utility_bound}")
        if len(self.benign_files) != 1:
            raise DataError(
                f"expected one --benign FILE, whose requests tell how much utility an attacker spends, found "
                f"{len(self.benign_files)}"
            )
        unknown = [name for name in self.peft_list if name not in PEFT]
        if unknown:
            raise DataError(f"expected --peft out of {', '.join(PEFT)}, found {unknown[0]!r}")
        if min(self.learning_rate_list) <= 0 or min(self.epoch_list) <= 0 or min(self.seed_list) < 0:
            raise DataError("expected --learning_rates and --epochs above 0 and --seeds of 0 or more")
        self.defence_list  # noqa: B018 - raises for what is wrong

    @property
    def learning_rate_list(self) -> tuple[float, ...]:
        """`learning_rates`, each once."""
        return tuple(dict.fromkeys(_listed(self.learning_rates, "learning_rates", float)))

    @property
    def epoch_list(self) -> tuple[int, ...]:
        """`epochs`, each once."""
        return tuple(dict.fromkeys(_listed(self.epochs, "epochs", int)))

    @property
    def seed_list(self) -> tuple[int, ...]:
        """`seeds`, each once."""
        return tuple(dict.fromkeys(_listed(self.seeds, "seeds", int)))

    @property
    def peft_list(self) -> tuple[str, ...]:
        """`peft`, each once."""
        return tuple(dict.fromkeys(_listed(self.peft, "peft", str)))

    @property
    def defence_list(self) -> tuple[Defence, ...]:
        """`defences`: an objective alone, NAME=MODEL (plain fine-tuning of it), or NAME=MODEL:OBJECTIVE."""
        found: dict[str, Defence] = {}
        for text in _listed(self.defences, "defences", str):
            name, given, rest = text.partition("=")
            defence = Defence(name, name) if not given else Defence(name, *_start_of(rest))
            if not name or (given and not defence.start) or defence.objective not in OBJECTIVES:
                raise DataError(
                    f"expected --defences as objectives out of {', '.join(OBJECTIVES)}, or NAME=MODEL, or "
                    f"NAME=MODEL:OBJECTIVE, with commas between; found {text!r}"
                )
            if name in found:
                raise DataError(f"expected defences with names of their own, found {name!r} twice")
            found[name] = defence
        return tuple(found.values())


def _start_of(text: str) -> tuple[str, str]:
    """(objective, model) of MODEL or MODEL:OBJECTIVE; a colon that is part of the path stays there."""
    model, colon, objective = text.rpartition(":")
    if not colon or Path(text).exists():
        return "sft", text
    return objective, model


def _listed(text: Any, name: str, kind: Any) -> list[Any]:
    try:
        values = [kind(part.strip()) for part in str(text).split(",") if part.strip()]
    except ValueError:
        values = []
    if not values:
        what = "names" if kind is str else "numbers"
        raise DataError(f"expected --{name} as {what} with commas between, found {text!r}")
    return values
