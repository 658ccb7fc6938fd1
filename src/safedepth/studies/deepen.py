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

import json
import random
from collections.abc import Sequence
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from trl import ModelConfig

from safedepth.data import file_sha256, read_anchors, read_requests, read_triplets
from safedepth.errors import DataError, RunError
from safedepth.judges import resolve_judge
from safedepth.models import load_chat, require_same_vocabulary
from safedepth.models.checkpoint import find_checkpoint
from safedepth.nouns import Anchor, Progress, Triplet
from safedepth.runs import RunDirectory, write_atomically
from safedepth.studies import summary
from safedepth.studies.battery import Battery
from safedepth.studies.card import write_card
from safedepth.studies.deepen_options import DeepenOptions
from safedepth.studies.deepening import BEFORE, Measured, deepening_block
from safedepth.studies.recovering import CONTROL_POLICY, RECORD, train_recovery
from safedepth.studies.self_anchors import self_anchors
from safedepth.studies.target import open_target
from safedepth.train.config import RecoveryConfig

__all__ = ["deepen"]

AFTER, CONTROL = "deepened", "control"
HELD_OUT = 8
"""Without test prompts of its own, one triplet in this many is held out of training for the test."""

# Options that change neither what is learnt nor what is measured: another value resumes all the same.
_FREE = (
    "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
    "activation_checkpointing", "dataloader_num_workers", "dataloader_pin_memory", "ddp_timeout",
    "save_strategy", "save_steps", "save_total_limit", "logging_steps", "disable_tqdm", "show_harmful",
    "png", "local_rank", "logging_dir", "run_name", "report_to", "push_to_hub", "hub_token",
    "resume_from_checkpoint",
)  # fmt: skip


@dataclass(frozen=True)
class _Data:
    """What is trained on, what is tested with, and what the reader should know of it."""

    triplets: Sequence[Triplet]
    anchors: Sequence[Anchor]
    battery: Battery
    warnings: tuple[str, ...]


def deepen(
    options: DeepenOptions, config: RecoveryConfig, model: ModelConfig, *, progress: Progress | None = None
) -> Path | None:
    """Train and report; returns the run directory, or None in a process that is not the main one.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can
    be seen there; a KeyboardInterrupt leaves a checkpoint.
    """
    options.check()
    name = str(model.model_name_or_path)
    main = config.process_index == 0
    out = Path(config.output_dir)
    if main:
        _require_own(out)
    triplets, battery, notes = _tests(options, out, config.seed, main=main)
    for judge in (*options.judges, *options.benign_judges):
        resolve_judge(judge)
    with ExitStack() as stack:
        run: RunDirectory | None = None
        if main:
            wanted = _wanted(options, config, model, battery.check())
            run = stack.enter_context(RunDirectory.open(out / "report", wanted))
        anchors, more = _anchors(options, name, config, main=main, progress=progress)
        data = _Data(triplets, anchors, battery, (*notes, *more))
        roles = {AFTER: out} | ({CONTROL: out / "control"} if options.control else {})
        training = _train(name, roles, data, config, model, progress=progress)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # what follows is the main process's alone
        if run is None:
            return None
        if options.measure:
            _measure(run, options, name, roles, data, training, config, progress=progress)
        else:
            run.write_summary(_summary(run, options, data, training, {}, None, config))
        write_card(out, base_model=name, record=training[0], summary=run.summary(), adapter=model.use_peft)
        run.finish()
    return out / "report"


def _train(
    name: str, roles: dict[str, Path], data: _Data, config: RecoveryConfig, model: ModelConfig,
    *, progress: Progress | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train every role that is not trained yet; the records of how, in order."""
    find_checkpoint(name)  # a folder that holds no model is not to be told that it has no tokenizer
    chat = load_chat(name, chat_template=config.chat_template_path)
    chat.tokenizer.chat_template = chat.template  # the model goes on with the template it was trained in
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
    run: RunDirectory, options: DeepenOptions, name: str, roles: dict[str, Path], data: _Data,
    training: Sequence[dict[str, Any]], config: RecoveryConfig, *, progress: Progress | None,
) -> None:  # fmt: skip
    """Every model through the same tests, one at a time so that one fits where two would not."""
    template = config.chat_template_path
    base = open_target(options.base, chat_template=template or name) if options.base else None
    cards: dict[str, Any] = {"base": base.card if base else None}
    replies: list[pd.DataFrame] = []
    kl: dict[str, pd.DataFrame] = {}
    for role, place in {BEFORE: name, **{role: str(path) for role, path in roles.items()}}.items():
        with closing(open_target(place, chat_template=template if role == BEFORE else None)) as target:
            cards[role] = target.card
            replies.append(data.battery.replies(run, role, target, progress=progress))
            if base is not None and base.loaded and target.loaded:
                require_same_vocabulary(target.loaded, base.loaded)
                kl[role] = data.battery.kl(run, role, target, base, progress=progress)
    table = run.measurement("replies", lambda: pd.concat(replies, ignore_index=True))
    run.write_summary(_summary(run, options, data, training, cards, (table, kl), config))


def _summary(
    run: RunDirectory, options: DeepenOptions, data: _Data, training: Sequence[dict[str, Any]],
    cards: dict[str, Any], tables: tuple[pd.DataFrame, dict[str, pd.DataFrame]] | None,
    config: RecoveryConfig,
) -> dict[str, Any]:  # fmt: skip
    replies, kl = tables if tables is not None else (pd.DataFrame(), {})
    judge = options.judges[0].rpartition("@")[2]
    missing = []
    if tables is None:
        missing.append({"what": "before and after", "why": "it was not asked for (--measure False)"})
    elif not kl:
        missing.append({"what": "KL by token position", "why": "no base model was given (--base)"})
    roles = [BEFORE, *(record["model"] for record in training)]
    block: dict[str, Any] = {"models": roles, "training": list(training)}
    if tables is not None:
        measured = Measured(replies, kl, judge=judge, benign=list(data.battery.benign), seed=config.seed)
        block = deepening_block(measured, roles=roles, training=training)
    return {
        "kind": "deepen",
        "created": run.begun["created"],
        "seeds": [config.seed],
        "models": cards,
        "judge": judge,
        "kl": None,
        "depth": {},
        "rates": summary.rates_of(replies) if tables is not None else [],
        "deepening": block,
        "not_measured": missing,
        "warnings": list(data.warnings),
    }


def _tests(
    options: DeepenOptions, out: Path, seed: int, *, main: bool
) -> tuple[list[Triplet], Battery, list[str]]:
    """The triplets to train on, and the tests; without test prompts some triplets are held out for them."""
    triplets = read_triplets(str(options.triplets))
    prompts, notes = options.prompts, []
    if prompts is None:
        held = _held_out(triplets, seed)
        triplets = [triplet for triplet in triplets if triplet not in held]
        prompts = str(out / "held-out.jsonl")
        if main:
            _write_prompts(held, Path(prompts))
        notes.append(
            f"No test prompts were given (--prompts): {len(held)} of the triplets were held out of training "
            "for the test. They come from the same source as what was trained on."
        )
    battery = Battery(
        prompts=prompts,
        depths=options.depth_list,
        judges=options.judges,
        trajectories=options.trajectories,
        turn_depths=options.turn_depth_list,
        benign=options.benign_files,
        benign_judges=options.benign_judges,
        limit=options.limit,
        seed=seed,
        max_tokens=options.max_tokens,
    )
    return triplets, battery, notes


def _held_out(triplets: Sequence[Triplet], seed: int) -> list[Triplet]:
    """One trajectory in `HELD_OUT`, whole, at least two."""
    ids = sorted({triplet.id.partition("/t")[0] for triplet in triplets})
    if len(ids) < HELD_OUT:
        raise DataError(
            f"expected --prompts FILE to test with, or at least {HELD_OUT} triplets to hold some out of, "
            f"found {len(ids)} triplets"
        )
    chosen = set(random.Random(f"held out {seed}").sample(ids, max(2, len(ids) // HELD_OUT)))
    return [triplet for triplet in triplets if triplet.id.partition("/t")[0] in chosen]


def _write_prompts(held: Sequence[Triplet], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {"id": t.id, "messages": [*t.messages, {"role": "assistant", "content": t.harmful}]} for t in held
    )
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _anchors(
    options: DeepenOptions, name: str, config: RecoveryConfig, *, main: bool, progress: Progress | None
) -> tuple[list[Anchor], list[str]]:
    if options.anchors != "self":
        return read_anchors(str(options.anchors)), []
    requests = str(options.anchor_prompts)
    anchors = self_anchors(
        name, requests, Path(config.output_dir), seed=config.seed, max_tokens=options.anchor_tokens,
        chat_template=config.chat_template_path, main=main, progress=progress,
    )  # fmt: skip
    left = len(read_requests(requests)) - len(anchors)
    note = f"{left} of the anchor requests had no answer that ended, and made no anchor."
    return anchors, [note] if left else []


def _wanted(
    options: DeepenOptions, config: RecoveryConfig, model: ModelConfig, hashes: dict[str, str]
) -> dict[str, Any]:
    """All that decides the result, with the hashes of the files: what a resumed run must agree with."""
    files = {"triplets": options.triplets, "anchors": options.anchor_prompts or options.anchors}
    hashes = {name: file_sha256(str(path)) for name, path in files.items()} | hashes
    trained = {key: value for key, value in config.to_dict().items() if key not in _FREE}
    asked = {key: value for key, value in asdict(options).items() if key not in _FREE}
    return {"kind": "deepen", "model": asdict(model), "training": trained, "sha256": hashes, **asked}


def _require_own(out: Path) -> None:
    """A folder with a model that this command did not make is left alone."""
    own = (out / RECORD).exists() or (out / "report").exists()
    if not own and any((out / name).exists() for name in ("config.json", "adapter_config.json")):
        raise RunError(
            f"{out} holds a model already, and it was not made by this command. Choose another --output_dir."
        )
