"""Deepen: from a shallowly aligned model to one that turns back, with the proof beside it.

Reads the user's triplets and anchors, trains (and, if asked, the control), then puts the
model before, the model after and the control through the same tests and writes the
report and the model card. Everything is resumed by the same command.

    OUTPUT_DIR/                 the trained model or adapter, with its card
    OUTPUT_DIR/checkpoint-*/    the trainer's own
    OUTPUT_DIR/control/         the control
    OUTPUT_DIR/report/          the run directory: measurements, summary, report.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from trl import ModelConfig

from safedepth.chat import ChatFormat
from safedepth.judges import judge_name, require_judges
from safedepth.models import load_chat, require_same_vocabulary
from safedepth.models.checkpoint import find_checkpoint
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.card import PAPER, write_card
from safedepth.studies.deepen_data import HELD_OUT_FILE, DeepenData, require_measurable
from safedepth.studies.deepen_options import DeepenOptions
from safedepth.studies.deepening import BEFORE, Measured, deepening_block
from safedepth.studies.output import begun, decisive, own_option_names, require_own
from safedepth.studies.places import RECORD
from safedepth.studies.recovering import CONTROL_POLICY, train_recovery
from safedepth.studies.target import open_target
from safedepth.studies.trade_off import trade_off_block
from safedepth.studies.training import part_processes, trained_dtype
from safedepth.train.config import RecoveryConfig

__all__ = ["deepen"]

AFTER, CONTROL = "deepened", "control"
KIND = "deepen"

MADE = (
    "to turn back in the middle of a harmful answer (safety-recovery augmentation, "
    f"[Qi et al., ICLR 2025]({PAPER}), section 4.1)."
)
LIMITS = (
    "Recovery training closes the attacks it was measured against. Suffixes found by search, picking "
    "low-ranked tokens while decoding, and fine-tuning may still break this model; whoever has its weights "
    "can train its safety away again."
)


def deepen(
    options: DeepenOptions, config: RecoveryConfig, model: ModelConfig, *, progress: Progress | None = None
) -> Path | None:
    """Train and report; returns the run directory, or None in a process that is not the main one.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can
    be seen there; a KeyboardInterrupt leaves a checkpoint.
    """
    with own_option_names(), ExitStack() as stack:
        options.check()
        name, out = str(model.model_name_or_path), Path(config.output_dir)
        main = config.process_index == 0
        if main:
            require_own(out)
        data = DeepenData.of(options, out, config.seed)
        for judges in (options.judges, options.benign_judges):
            require_judges(judges)
        find_checkpoint(name)  # a folder that holds no model is not to be told that it has no tokenizer
        chat = load_chat(name, chat_template=config.chat_template_path)
        chat.tokenizer.chat_template = chat.template  # the model goes on with the template it was trained in
        roles = {AFTER: out} | ({CONTROL: out / "control"} if options.control else {})
        run: RunDirectory | None = None
        if main:
            wanted = _wanted(options, config, model, data.hashes(options))
            run = stack.enter_context(begun(out, wanted, beside={HELD_OUT_FILE}))
            if _is_done(run, roles):
                return run.path
            data.write_held_out()
            if options.measure:
                template = config.chat_template_path
                require_measurable(data.battery, name, chat, base=options.base, chat_template=template)
        data = data.with_anchors(options, name, chat, config, progress=progress)
        training = _train(name, roles, data, config, model, chat=chat, progress=progress)
        part_processes()
        if run is None:
            return None
        if options.measure:
            dtype = trained_dtype(model)
            _measure(run, options, name, roles, data, training, config, dtype=dtype, progress=progress)
        else:
            run.write_summary(_summary(run, options, data, training, {}, None, config))
        told = run.summary()
        paired = [entry for entry in told["deepening"].get("paired") or () if entry["model"] == AFTER]
        write_card(
            out, base_model=name, made=MADE, record=training[0], summary=told, role=AFTER, paired=paired,
            adapter=model.use_peft, limits=LIMITS,
        )  # fmt: skip
        run.finish()
        return run.path


class _Tables(NamedTuple):
    """What was measured: all replies, and by role KL and lm-eval's documents where there are any."""

    replies: pd.DataFrame
    kl: dict[str, pd.DataFrame]
    harness: dict[str, pd.DataFrame]


def _train(
    name: str, roles: dict[str, Path], data: DeepenData, config: RecoveryConfig, model: ModelConfig,
    *, chat: ChatFormat, progress: Progress | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train every role that is not trained yet; the records of how, in order."""
    records = []
    for role, folder in roles.items():
        own = copy(config)
        own.output_dir, own.chat_template_path = str(folder), None
        records.append(
            train_recovery(
                name, own, data.triplets, data.anchors, name=role, chat=chat, options=model,
                progress=progress, **(CONTROL_POLICY if role == CONTROL else {}),
            )
        )  # fmt: skip
    return records


def _measure(
    run: RunDirectory, options: DeepenOptions, name: str, roles: dict[str, Path], data: DeepenData,
    training: Sequence[dict[str, Any]], config: RecoveryConfig, *, dtype: str, progress: Progress | None,
) -> None:  # fmt: skip
    """Every model through the same tests, one at a time so that one fits where two would not."""
    template = config.chat_template_path
    lent = template or name
    base = open_target(options.base, chat_template=lent, dtype=dtype) if options.base else None
    cards: dict[str, Any] = {"base": base.card if base else None}
    replies: list[pd.DataFrame] = []
    kl: dict[str, pd.DataFrame] = {}
    harness: dict[str, pd.DataFrame] = {}
    for role, place in {BEFORE: name, **{role: str(path) for role, path in roles.items()}}.items():
        own = template if role == BEFORE else None
        with closing(open_target(place, chat_template=own, dtype=dtype)) as target:
            cards[role] = target.card
            replies.append(data.battery.replies(run, role, target, progress=progress))
            if (documents := data.battery.documents(run, role, target, progress=progress)) is not None:
                harness[role] = documents
            if base is not None and base.loaded and target.loaded:
                require_same_vocabulary(target.loaded, base.loaded)
                kl[role] = data.battery.kl(run, role, target, base, progress=progress)
    table = run.measurement("replies", lambda: pd.concat(replies, ignore_index=True))
    run.write_summary(_summary(run, options, data, training, cards, _Tables(table, kl, harness), config))


def _summary(
    run: RunDirectory, options: DeepenOptions, data: DeepenData, training: Sequence[dict[str, Any]],
    cards: dict[str, Any], tables: _Tables | None, config: RecoveryConfig,
) -> dict[str, Any]:  # fmt: skip
    judge = judge_name(options.judges[0])
    missing = []
    if tables is None:
        missing.append({"what": "before and after", "why": "it was not asked for (--measure False)"})
    elif not tables.kl:
        missing.append({"what": "KL by token position", "why": "no base model was given (--base)"})
    roles = [BEFORE, *(record["model"] for record in training)]
    block: dict[str, Any] = {"models": roles, "training": list(training)}
    measured, harness, warnings = None, dict[str, pd.DataFrame](), list(data.notes)
    if tables is not None:
        benign, harness = list(data.battery.benign), tables.harness
        measured = Measured(tables.replies, tables.kl, judge=judge, benign=benign, seed=config.seed)
        block = deepening_block(measured, roles=roles, training=training)
        warnings += data.battery.notes(harness)
    return {
        "kind": KIND,
        "created": run.begun["created"],
        "seeds": [config.seed],
        "models": cards,
        "judge": judge,
        "kl": None,
        "depth": {},
        "rates": summary.rates_of(tables.replies) if tables is not None else [],
        "deepening": block,
        "trade_off": trade_off_block(measured, harness, roles=roles, seed=config.seed),
        "sources": data.battery.sources if tables is not None else {},
        "not_measured": missing,
        "warnings": warnings,
    }


def _wanted(
    options: DeepenOptions, config: RecoveryConfig, model: ModelConfig, hashes: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides the result, with the hashes of the files: what a resumed run must agree with."""
    trained, asked = decisive(config.to_dict()), decisive(asdict(options))
    return {"kind": KIND, "model": asdict(model), "training": trained, "sha256": hashes, **asked}


def _is_done(run: RunDirectory, roles: Mapping[str, Path]) -> bool:
    """Whether nothing is left to do: all is trained, measured and as it was left."""
    trained = all((folder / RECORD).is_file() for folder in roles.values())
    return trained and run.is_finished and not run.changed_files()
