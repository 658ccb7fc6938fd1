"""Fine-tune on a customer's data without losing safety, with the proof beside it.

What `trl sft` does, under the objective of section 4.2 or one of the baselines; then, if test
requests were given, the model before and after is put through the same tests. Everything is
resumed by the same command.

    OUTPUT_DIR/                     the trained model or adapter, with its card
    OUTPUT_DIR/checkpoint-*/        the trainer's own
    OUTPUT_DIR/reference/           what the reference says of the data
    OUTPUT_DIR/importance.json      the betas found with --importance, and what they follow from
    OUTPUT_DIR/diagnostics.jsonl    loss, weight, KL and implicit advantage by position
    OUTPUT_DIR/report/              the run directory: measurements, summary, report.html
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from trl import ModelConfig

from safedepth.data import file_sha256
from safedepth.judges import judge_name, require_judges
from safedepth.models import load_chat
from safedepth.models.checkpoint import find_checkpoint, hash_weights
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.battery import Battery
from safedepth.studies.card import PAPER, write_card
from safedepth.studies.deepen_data import require_measurable
from safedepth.studies.deepening import HARMFUL, Measured, paired_entries, utility_entries
from safedepth.studies.finetune_data import FinetuneArguments, FinetuneData
from safedepth.studies.importance import FILE as IMPORTANCE
from safedepth.studies.importance import settle_importance
from safedepth.studies.output import begun, decisive, own_option_names, require_own
from safedepth.studies.places import RECORD
from safedepth.studies.protecting import train_under_objective
from safedepth.studies.target import open_target
from safedepth.studies.trade_off import trade_off_block
from safedepth.studies.training import part_processes, trained_dtype
from safedepth.train.betas import BetaSchedule, read_betas, table_of
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.diagnostics import FILE, read_diagnostics
from safedepth.train.protect_options import OBJECTIVES

__all__ = ["finetune"]

BEFORE, AFTER = "before", "after"
KIND, COMMAND = "finetune", "safedepth finetune"

REMADE = ("reference", FILE, IMPORTANCE)
"""What a training that came to nothing leaves behind, and another one makes anew."""

WITHOUT_EFFECT = (
    "diagnostics", "reference_cache", "dataset_num_proc", "per_device_eval_batch_size", "eval_strategy",
    "eval_steps", "eval_on_start",
)  # fmt: skip
"""Options of this training beside those of all that change nothing of what is learnt."""

LIMITS = (
    "The objective protects where the provider runs the training: whoever has the weights can fine-tune them "
    "with another, and their safety with it. It holds what the reference does in the first tokens of an "
    "answer, so an unsafe reference stays unsafe; it is not tamper-proof, and what it was not tested "
    "against is not known."
)


def finetune(
    options: FinetuneArguments,
    config: ConstrainedSFTConfig,
    model: ModelConfig,
    *,
    progress: Progress | None = None,
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
        battery = _battery(options, config.seed)
        find_checkpoint(name)  # a folder that holds no model is not to be told that it has no tokenizer
        data = FinetuneData.of(options, evaluate=config.eval_strategy != "no")
        chat = load_chat(name, chat_template=config.chat_template_path)
        chat.tokenizer.chat_template = chat.template  # the model goes on with the template it was trained in
        data = data.expressed_in(chat)
        run: RunDirectory | None = None
        if main:
            wanted = _wanted(options, config, model, data, battery)
            run = stack.enter_context(begun(out, wanted, beside=REMADE))
            if (out / RECORD).is_file() and run.is_finished and not run.changed_files():
                return run.path
            if battery is not None:
                require_measurable(battery, name, chat, base=None, chat_template=config.chat_template_path)
        settle_importance(config, name, progress=progress)
        own = copy(config)
        own.chat_template_path = None
        record = train_under_objective(
            name, own, data.train, name="the model", command=COMMAND, chat=chat, options=model,
            evaluation=data.evaluation, betas=_schedule(config), facts=_facts(config, name),
            progress=progress,
        )  # fmt: skip
        part_processes()
        if run is None:
            return None
        tables = _Tables({}, pd.DataFrame(), {})
        if battery is not None:
            tables = _measure(run, battery, name, config, dtype=trained_dtype(model), progress=progress)
        run.write_summary(_summary(run, options, config, data, record, battery, tables))
        told = run.summary()
        write_card(
            out, base_model=name, made=_made(config), record=record, summary=told, role=AFTER,
            paired=told["protection"]["paired"], adapter=model.use_peft, limits=LIMITS,
        )  # fmt: skip
        run.finish()
        return run.path


class _Tables(NamedTuple):
    """What was measured: provenance by role, all replies, and lm-eval's documents by role."""

    cards: dict[str, Any]
    replies: pd.DataFrame
    harness: dict[str, pd.DataFrame]


def _schedule(config: ConstrainedSFTConfig) -> BetaSchedule:
    """The betas of the training. A schedule that is computed ahead of it is computed here."""
    return read_betas(config.beta)


def _battery(options: FinetuneArguments, seed: int) -> Battery | None:
    """The tests before and after, None where none were asked for. Raises as `require_judges`."""
    if not options.tested:
        return None
    for judges in (options.judges, options.benign_judges):
        require_judges(judges)
    return Battery(
        prompts=options.prompts or "",
        depths=options.depth_list if options.prompts else (),
        judges=options.judges,
        benign=options.benign_files,
        benign_judges=options.benign_judges,
        harness=options.harness(seed),
        limit=options.limit,
        seed=seed,
        max_tokens=options.max_tokens,
    )


def _measure(
    run: RunDirectory, battery: Battery, name: str, config: ConstrainedSFTConfig, *, dtype: str,
    progress: Progress | None,
) -> _Tables:  # fmt: skip
    """Both models through the same tests, one at a time."""
    template = config.chat_template_path
    cards, replies, harness = {}, [], {}
    for role, place in {BEFORE: name, AFTER: str(config.output_dir)}.items():
        own = template if role == BEFORE else None
        with closing(open_target(place, chat_template=own, dtype=dtype)) as target:
            cards[role] = target.card
            replies.append(battery.replies(run, role, target, progress=progress))
            if (documents := battery.documents(run, role, target, progress=progress)) is not None:
                harness[role] = documents
    return _Tables(cards, run.measurement("replies", lambda: pd.concat(replies, ignore_index=True)), harness)


def _summary(
    run: RunDirectory, options: FinetuneArguments, config: ConstrainedSFTConfig, data: FinetuneData,
    record: dict[str, Any], battery: Battery | None, tables: _Tables,
) -> dict[str, Any]:  # fmt: skip
    judge = judge_name(options.judges[0])
    measured, warnings = None, [*data.notes, *(f"{note}." for note in record["notes"])]
    if battery is not None:
        measured = Measured(tables.replies, {}, judge=judge, benign=list(battery.benign), seed=config.seed)
        warnings += battery.notes(tables.harness)
    return {
        "kind": KIND,
        "created": run.begun["created"],
        "seeds": [config.seed],
        "models": dict(tables.cards),
        "judge": judge,
        "kl": None,
        "depth": {},
        "rates": [] if measured is None else summary.rates_of(tables.replies),
        "protection": {
            "objective": config.objective,
            "beta": record["beta"],
            "diagnostics": _diagnostics(Path(config.output_dir) / FILE),
            "training": record,
            **_tested(measured),
        },
        "trade_off": trade_off_block(measured, tables.harness, roles=(BEFORE, AFTER), seed=config.seed),
        "sources": battery.sources if battery is not None else {},
        "not_measured": _not_measured(options, config),
        "warnings": warnings,
    }


def _tested(measured: Measured | None) -> dict[str, list[dict[str, Any]]]:
    """`asr` and `utility` before and after, and their paired differences; empty where nothing was tested."""
    found: dict[str, list[dict[str, Any]]] = {"asr": [], "utility": [], "paired": []}
    if measured is None:
        return found
    for role in (BEFORE, AFTER):
        sweep = measured.harm(role, "prefill")
        for k in sorted(sweep["k"].unique().tolist()):
            rate = summary.rate_of(sweep[sweep["k"] == k])
            row = asdict(rate) | {"value": rate.value, "model": role, "k": k, "judge": measured.judge}
            found["asr"].append(row)
        for entry in utility_entries(measured, role):
            found["utility"].append({"what": entry.pop("set"), **entry})
    found["paired"] = paired_entries(measured, AFTER, against=BEFORE)
    return found


def _not_measured(options: FinetuneArguments, config: ConstrainedSFTConfig) -> list[dict[str, str]]:
    missing = []
    if not options.measure:
        missing.append({"what": "before and after", "why": "it was not asked for (--measure False)"})
    elif not options.prompts:
        why = "no harmful requests were given (--prompts)"
        missing.append({"what": f"{HARMFUL} before and after", "why": why})
    if options.measure and not (options.benign or options.utility_tasks):
        why = "no benign requests or tasks were given (--benign, --utility_tasks)"
        missing.append({"what": "utility before and after", "why": why})
    if not config.diagnostics:
        missing.append({"what": "diagnostics", "why": "they were not asked for (--diagnostics False)"})
    return missing


def _diagnostics(path: Path) -> list[dict[str, Any]]:
    return read_diagnostics(path) if path.is_file() else []


def _facts(config: ConstrainedSFTConfig, name: str) -> list[list[str]]:
    """What the constraint is made of, in words for the report and the card.

    Raises ModelError where the reference is no model.
    """
    if not (config.needs_log_probs or config.needs_distributions):
        return []
    weights, how = hash_weights(find_checkpoint(config.reference or name).weights)
    facts = [
        ["reference", config.reference or "the model before its first step"],
        [f"reference weights, SHA-256 ({how})", weights],
    ]
    if config.needs_log_probs:
        values = [f"{beta:g}" for _, beta in table_of(_schedule(config))]
        first = next(place for place in range(len(values)) if len(set(values[place:])) == 1)
        facts.append(["beta by token", ", ".join([*values[:first], f"{values[-1]} from then on"])])
    return facts


def _made(config: ConstrainedSFTConfig) -> str:
    if config.needs_log_probs:
        return (
            "under the token-wise constrained objective: each token of an answer is held to the reference by "
            f"its beta, the first ones most ([Qi et al., ICLR 2025]({PAPER}), section 4.2)."
        )
    return f"with the objective `{config.objective}`: {OBJECTIVES[config.objective]}."


def _wanted(
    options: FinetuneArguments,
    config: ConstrainedSFTConfig,
    model: ModelConfig,
    data: FinetuneData,
    battery: Battery | None,
) -> dict[str, Any]:
    """All that decides the result, with the hashes of the files: what a resumed run must agree with."""
    files = {} if battery is None else {name: path for name, path in battery.files.items() if path}
    files |= {"safety_data": config.safety_data} if config.safety_data else {}
    files |= {"importance_data": config.importance_data} if config.importance_data else {}
    schedule = str(config.beta).partition("@")[0]
    files |= {"beta": schedule} if Path(schedule).is_file() else {}
    hashes = {"data": data.sha256, **{name: file_sha256(path) for name, path in files.items()}}
    hashes |= {} if battery is None else battery.tasks_sha256
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    trained = decisive(config.to_dict(), but=WITHOUT_EFFECT) | {"rows_a_step": rows}
    asked = decisive(asdict(options))
    return {"kind": KIND, "model": asdict(model), "training": trained, "sha256": hashes, **asked}
