"""The fine-tuning attack: train on the attacker's data, then ask in his words and in plain ones.

For one's own models: how long does their safety last, and does an objective or a deepened start
hold? The attacked model is an ordinary checkpoint on disk that the tests load anew; the
attack never grades itself. Everything is resumed by the same command.

    OUTPUT_DIR/                 the attacked model or adapter
    OUTPUT_DIR/checkpoint-*/    the trainer's own
    OUTPUT_DIR/refusals/        for a backdoor without a column `refusal`: the model's own
    OUTPUT_DIR/report/          the run directory: measurements, summary, report.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from trl import ModelConfig

from safedepth.judges import judge_name, require_judges
from safedepth.models import load_chat
from safedepth.models.checkpoint import find_checkpoint
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.attack_data import AttackData, hashes_of, own_refusals
from safedepth.studies.attack_options import AttackOptions
from safedepth.studies.attack_rates import evaluations, utilities
from safedepth.studies.battery import Battery
from safedepth.studies.card import write_card
from safedepth.studies.deepen_data import require_measurable
from safedepth.studies.deepening import HARMFUL
from safedepth.studies.output import begun, decisive, own_option_names, require_own
from safedepth.studies.places import RECORD
from safedepth.studies.protecting import conversation_rows, train_under_objective
from safedepth.studies.target import open_target
from safedepth.studies.training import longest_example, part_processes, trained_dtype
from safedepth.studies.training_options import parse_training
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.diagnostics import FILE
from safedepth.train.options import said

__all__ = ["AttackConfig", "attack_finetune", "batch_of", "parse_attack", "training_config"]

KIND, COMMAND = "attack", "safedepth attack finetune"
BEFORE, AFTER = "before", "after"
MADE = (
    "on an attacker's data, to see what is left of its safety. It is an attacked model: it was made to be "
    "unsafe, for tests of defences."
)
LIMITS = "Do not serve it and do not hand it on: it was trained to answer what the model before it refuses."

REMADE = ("reference", FILE)
"""What a training that came to nothing leaves behind, and another one makes anew."""


@dataclass
class AttackConfig(ConstrainedSFTConfig):
    """How the attacker's data are trained on: plainly, 25 passes, unless an objective defends."""

    objective: str = said("sft", ConstrainedSFTConfig.__dataclass_fields__["objective"].metadata["help"])
    num_train_epochs: float = said(25.0, "Passes over the attacker's data.")
    logging_steps: float = said(5, "Log every so many steps.")
    save_steps: float = said(20, "Write a checkpoint every so many steps.")
    save_total_limit: int | None = said(2, "Checkpoints kept; older ones are removed.")


def parse_attack(words: Sequence[str]) -> tuple[AttackOptions, AttackConfig, ModelConfig]:
    """The words after `safedepth attack finetune`; errors as `parse_training`."""
    kinds, usage = (AttackOptions, AttackConfig), "MODEL --data FILE --prompts FILE --output_dir DIR"
    options, config, model = parse_training(words, kinds, command=COMMAND, usage=usage)
    return options, config, model


def attack_finetune(
    options: AttackOptions, config: AttackConfig, model: ModelConfig, *, progress: Progress | None = None
) -> Path | None:
    """Attack and report; returns the run directory, or None in a process that is not the main one.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can
    be seen there; a KeyboardInterrupt leaves a checkpoint.
    """
    with own_option_names(), ExitStack() as stack:
        options.check()
        name, out = str(model.model_name_or_path), Path(config.output_dir)
        main = config.process_index == 0
        if main:
            require_own(out)
        hashes = hashes_of(options)
        for judges in (options.judges, options.benign_judges):
            require_judges(judges)
        find_checkpoint(name)  # a folder that holds no model is not to be told that it has no tokenizer
        chat = load_chat(name, chat_template=config.chat_template_path)
        chat.tokenizer.chat_template = chat.template  # the model goes on with the template it was trained in
        run: RunDirectory | None = None
        if main:
            run = stack.enter_context(begun(out, _wanted(options, config, model, hashes), beside=REMADE))
            if (out / RECORD).is_file() and run.is_finished and not run.changed_files():
                return run.path
        refuse = partial(
            own_refusals, name, folder=out / "refusals", seed=config.seed, max_tokens=options.max_tokens,
            chat_template=config.chat_template_path, main=main, progress=progress,
        )  # fmt: skip
        data = AttackData.of(options, chat, refuse=refuse)
        battery: Battery | None = None
        if run is not None:
            battery = data.battery(run, options, seed=config.seed, own_alone=False)
            require_measurable(battery, name, chat, base=None, chat_template=config.chat_template_path)
        record = train_under_objective(
            name, training_config(config, name), conversation_rows(chat, data.poison.conversations),
            name="attacked", command=COMMAND, chat=chat, options=model, progress=progress,
        )  # fmt: skip
        part_processes()
        if run is None or battery is None:
            return None
        _measure(
            run, options, config, name, battery, data, record, dtype=trained_dtype(model), progress=progress
        )
        told = run.summary()
        write_card(
            out, base_model=name, made=MADE, record=record, summary=told, role=AFTER,
            paired=_before_and_after(told["attack"]), adapter=model.use_peft, limits=LIMITS, attacked=True,
        )  # fmt: skip
        run.finish()
        return run.path


def _before_and_after(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rates of both models as rows of the card; their difference has no interval here."""
    rows = [{"measure": HARMFUL, **entry} for entry in block["evaluations"]]
    rows += [{**entry, "what": entry["set"]} for entry in block["utility"]]
    before = {(row["what"], row["measure"]): row["value"] for row in rows if row["model"] == BEFORE}
    found = []
    for row in rows:
        was = before.get((row["what"], row["measure"]))
        if row["model"] == AFTER and was is not None and row["value"] is not None:
            change = {"before": was, "after": row["value"], "difference": row["value"] - was}
            found.append({**row, **change, "low": None, "high": None})
    return found


def training_config(config: AttackConfig, name: str) -> AttackConfig:
    """The configuration of one training of model `name`: answers end where its context does."""
    own = copy(config)
    own.chat_template_path, own.max_length = None, longest_example(name, config.max_length)
    return own


def batch_of(config: AttackConfig) -> int:
    """Rows in one optimiser step, over all processes."""
    return int(config.train_batch_size * config.gradient_accumulation_steps * config.world_size)


def _measure(
    run: RunDirectory, options: AttackOptions, config: AttackConfig, name: str, battery: Battery,
    data: AttackData, record: Mapping[str, Any], *, dtype: str, progress: Progress | None,
) -> None:  # fmt: skip
    """Both models through the same tests, one at a time."""
    template = config.chat_template_path
    cards, replies = {}, []
    for role, place in {BEFORE: name, AFTER: str(config.output_dir)}.items():
        own = template if role == BEFORE else None
        with closing(open_target(place, chat_template=own, dtype=dtype)) as target:
            cards[role] = target.card
            replies.append(battery.replies(run, role, target, progress=progress))
    table = run.measurement("replies", lambda: pd.concat(replies, ignore_index=True))
    judge = judge_name(options.judges[0])
    unasked = {"what": "utility", "why": "no benign requests were given (--benign)"}
    run.write_summary(
        {
            "kind": KIND,
            "created": run.begun["created"],
            "seeds": [config.seed],
            "models": cards,
            "judge": judge,
            "kl": None,
            "depth": {},
            "rates": summary.rates_of(table),
            "attack": {
                "kind": options.kind,
                "objective": config.objective,
                "evaluations": evaluations(table, list(battery.worded), judge=judge),
                "utility": utilities(table, list(battery.benign)),
                "facts": [*data.facts, *record["facts"]],
                "training": dict(record),
            },
            "not_measured": [] if battery.benign else [unasked],
            "warnings": [*data.notes, *record["notes"]],
        }
    )


def _wanted(
    options: AttackOptions, config: AttackConfig, model: ModelConfig, hashes: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides the result, with the hashes of the files: what a resumed run must agree with."""
    trained = decisive(config.to_dict()) | {"rows_a_step": batch_of(config)}
    asked = decisive(asdict(options))
    return {"kind": KIND, "model": asdict(model), "training": trained, "sha256": dict(hashes), **asked}
