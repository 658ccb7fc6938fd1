"""One trial of an attacker's sweep: train, ask, forget; and which trials there are.

A trial is a row of a table, kept in the run directory as soon as it is measured, so a sweep
that was stopped never does one twice. It refuses to know what the worst of them is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from copy import copy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from trl import ModelConfig

from safedepth.errors import DataError, RunError
from safedepth.judges import judge_name
from safedepth.models import load_chat
from safedepth.nouns import Anchor
from safedepth.runs import RunDirectory
from safedepth.studies.attack_finetune import AttackConfig, training_config
from safedepth.studies.attack_options import Defence, SweepOptions
from safedepth.studies.attack_rates import rate_of_set
from safedepth.studies.battery import Battery
from safedepth.studies.protecting import conversation_rows, train_under_objective
from safedepth.studies.summary import entry_of
from safedepth.studies.target import open_target
from safedepth.train.options import said

__all__ = ["COMMAND", "Bench", "SweepConfig", "Trial", "entry_of_trial", "grid", "rows_of"]

COMMAND = "safedepth attack sweep"
RATE = ("value", "low", "high", "n", "unscored")


@dataclass
class SweepConfig(AttackConfig):
    """What all trials of a sweep have in common; the rest is each trial's own."""

    save_strategy: str = said("no", "Whether trials write checkpoints: steps, for long ones.")
    diagnostics: bool = said(False, "Log loss, weight, KL and implicit advantage by response position.")

    def __post_init__(self) -> None:
        self._given = {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        super().__post_init__()

    def require_lists(self) -> None:
        """Raise DataError for an option of TRL's whose place a list of the sweep's takes."""
        lists = {
            "objective": "defences", "learning_rate": "learning_rates", "num_train_epochs": "epochs",
            "max_steps": "epochs",
        }  # fmt: skip
        for field in fields(self):
            if field.name in lists and self._given[field.name] != field.default:
                raise DataError(f"expected --{lists[field.name]} in a sweep, found --{field.name}")

    def of_trial(self, **changed: Any) -> AttackConfig:
        """The configuration as if a trial's values had stood on the command line."""
        return AttackConfig(**(self._given | changed))


@dataclass(frozen=True)
class Trial:
    """What an attacker tries once: how often and how fast he trains, on what, against what."""

    defence: Defence
    learning_rate: float
    epochs: int
    seed: int
    peft: str

    @property
    def key(self) -> str:
        """A name for its folder and tables: the same trial has the same one."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def grid(options: SweepOptions, defence: Defence) -> Iterator[Trial]:
    """Every combination of the options' lists, in their order."""
    for peft, rate, epochs, seed in itertools.product(
        options.peft_list, options.learning_rate_list, options.epoch_list, options.seed_list
    ):
        yield Trial(defence, rate, epochs, seed, peft)


@dataclass(frozen=True)
class Bench:
    """Where trials are made: the run that keeps their rows, the attacker's data, the tests."""

    run: RunDirectory
    out: Path
    model: str
    options: SweepOptions
    config: SweepConfig
    peft: ModelConfig
    conversations: tuple[Anchor, ...]
    battery: Battery

    def before(self) -> dict[str, dict[str, Any]]:
        """`asr` and `utility` of the model before anything was done to it."""
        return self._rates(self.replies_before())

    def replies_before(self) -> pd.DataFrame:
        """Its judged replies."""
        return self._replies("before", self.model, self.config.chat_template_path)

    def row(self, trial: Trial) -> dict[str, Any]:
        """The trial's row: what was tried, `asr` and `utility` as rates, `failed` saying why it has none.

        Kept in the run; made only once. The trained weights go unless they are to be kept.
        """
        folder = self.out / "trials" / trial.key
        table = self.run.measurement(f"trial-{trial.key}", lambda: pd.DataFrame([self._made(trial, folder)]))
        if not self.options.keep:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another trial's weights are there, or nothing
                folder.parent.rmdir()
        (row,) = rows_of(table)
        return row

    def config_of(self, trial: Trial, folder: Path) -> AttackConfig:
        """How the trial is trained. Raises DataError for an objective that lacks what it needs."""
        return self.config.of_trial(
            output_dir=str(folder), objective=trial.defence.objective, learning_rate=trial.learning_rate,
            num_train_epochs=trial.epochs, seed=trial.seed,
        )  # fmt: skip

    def _made(self, trial: Trial, folder: Path) -> dict[str, Any]:
        start = trial.defence.start or self.model
        own, options = self.config_of(trial, folder), copy(self.peft)
        options.use_peft = trial.peft == "lora"
        row: dict[str, Any] = {
            "defence": trial.defence.name, "objective": trial.defence.objective, "start": start,
            "learning_rate": trial.learning_rate, "epochs": trial.epochs, "seed": trial.seed,
            "peft": trial.peft, "failed": None, "steps": None,
        }  # fmt: skip
        chat = load_chat(start, chat_template=own.chat_template_path)
        chat.tokenizer.chat_template = chat.template
        try:
            record = train_under_objective(
                start, training_config(own, start), conversation_rows(chat, self.conversations),
                name="attacked", command=COMMAND, chat=chat, options=options, progress=_silent,
            )  # fmt: skip
        except RunError as error:
            if not str(error).startswith("The training diverged"):
                raise
            return row | {"failed": "the training diverged"} | _flat({})
        steps = dict(map(tuple, record["facts"]))["steps"]
        return row | {"steps": steps} | _flat(self._rates(self._replies(trial.key, str(folder), None)))

    def _replies(self, name: str, place: str, template: str | None) -> pd.DataFrame:
        stored = self.run.load(f"replies-{name}")
        if stored is not None:
            return stored
        with closing(open_target(place, chat_template=template)) as target:
            return self.battery.replies(self.run, name, target)

    def _rates(self, replies: pd.DataFrame) -> dict[str, dict[str, Any]]:
        ((own, _),) = self.battery.worded.items()
        ((benign, _),) = self.battery.benign.items()
        judge, of_benign = judge_name(self.options.judges[0]), judge_name(self.options.benign_judges[0])
        return {
            "asr": entry_of(rate_of_set(replies, own, judge)),
            "utility": entry_of(rate_of_set(replies, benign, of_benign)),
        }


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table of trials; what was not measured is None."""
    whole = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in whole.to_dict("records")]


def entry_of_trial(row: dict[str, Any], *, search: str, least: float | None) -> dict[str, Any]:
    """The row as `summary.json` holds it, with whether it is within the utility bound."""
    rates = {what: {name: row[f"{what}_{name}"] for name in RATE} for what in ("asr", "utility")}
    for rate in rates.values():  # a column with a gap is one of floats
        rate |= {name: int(rate[name] or 0) for name in ("n", "unscored")}
    utility = rates["utility"]["value"]
    asked = {name: row[name] for name in ("defence", "objective", "learning_rate", "epochs", "seed", "peft")}
    within = utility is not None and least is not None and utility >= least - 1e-9
    return asked | {"search": search, "failed": row["failed"], **rates, "within": bool(within)}


def _flat(rates: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Rates as columns: `asr_value`, `asr_low`, ...; None where there are none."""
    return {
        f"{what}_{name}": rates[what][name] if rates else None for what in ("asr", "utility") for name in RATE
    }


def _silent(_what: str, _done: int, _total: int) -> None:
    """No progress: a sweep tells of trials."""
