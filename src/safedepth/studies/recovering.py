"""Training one model for recovery, from a checkpoint to a checkpoint, resumed where it was interrupted.

The trainer trains; this module loads what it needs, says what went wrong, and leaves a
record of how the model was made beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback
from trl import ModelConfig

from safedepth.chat import ChatFormat
from safedepth.models import load_chat
from safedepth.nouns import Anchor, Progress, Triplet
from safedepth.runs.files import read_json, to_json, write_atomically
from safedepth.studies.places import RECORD
from safedepth.studies.training import diverged, free_memory, longest_example, require_numbers, trainer_on
from safedepth.train.config import RecoveryConfig
from safedepth.train.draws import Draws
from safedepth.train.failures import explained_failures, last_checkpoint
from safedepth.train.options import Mix
from safedepth.train.recovery import RECOVERIES, AdaptiveRecovery, RecoveryPolicy, refusal_only
from safedepth.train.styles import style_named
from safedepth.train.trainer import RecoveryTrainer

__all__ = ["CONTROL_POLICY", "plan", "train_recovery"]

CONTROL_POLICY: Mapping[str, Any] = {
    "policy": refusal_only,
    "rule": "none: k = 0 always, refusals without a harmful prefix",
}
"""Arguments of `train_recovery` that make the control."""


def train_recovery(
    model: str,
    config: RecoveryConfig,
    triplets: Sequence[Triplet],
    anchors: Sequence[Anchor],
    *,
    name: str = "deepened",
    policy: RecoveryPolicy | AdaptiveRecovery | None = None,
    rule: str = "",
    chat: ChatFormat | None = None,
    options: ModelConfig | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train `model` (folder or hub id) into `config.output_dir`; returns the record of how.

    A finished training is not repeated, an interrupted one goes on from its last whole
    checkpoint. `policy` replaces the one that `config` names, and `rule` then says it in words;
    `name` is the trained model's in reports. `options` are TRL's (dtype, LoRA,
    attention). Raises DataError or TemplateError for data that does not fit the model,
    RunError where memory or disk run out or the loss is no number any more, KeyboardInterrupt
    after Ctrl-C, with a checkpoint.
    """
    out = Path(config.output_dir)
    if (out / RECORD).is_file():
        return read_json(out / RECORD)
    what = "training" if name == "deepened" else f"training {name}"
    policy = policy or config.policy()
    chat = chat or load_chat(model)
    draws = plan(model, config, triplets, anchors, chat=chat, policy=policy, progress=progress)
    begun = time.monotonic()
    kept = last_checkpoint(out)
    with explained_failures(out, batch=config.per_device_train_batch_size):
        trainer = _trainer(model, config, draws, options or ModelConfig(), progress, what)
        trainer.add_callback(_Diverged())
        try:
            trainer.train(resume_from_checkpoint=str(kept) if kept else None)
        finally:
            trainer.interruptible.release()
        if trainer.interruptible.stopped and trainer.state.global_step < draws.steps:
            raise KeyboardInterrupt
        require_numbers(trainer)
        trainer.save_model(str(out))
    facts = [["recovery points", rule or _rule(config)], *_facts(config, draws)]
    record: dict[str, Any] = {"model": name, "facts": facts, "losses": _losses(trainer)}
    record["seconds"] = round(time.monotonic() - begun, 1)
    if trainer.is_world_process_zero():
        write_atomically(out / RECORD, to_json(record).encode())
    del trainer
    free_memory()
    return record


def plan(
    model: str,
    config: RecoveryConfig,
    triplets: Sequence[Triplet],
    anchors: Sequence[Anchor],
    *,
    chat: ChatFormat,
    policy: RecoveryPolicy | AdaptiveRecovery | None = None,
    mix: Mix | None = None,
    progress: Progress | None = None,
) -> Draws:
    """The examples of the training that `config` describes, or of one with another policy or mix.

    Raises DataError or TemplateError for data that does not fit the model.
    """
    policy = policy or config.policy()
    return Draws(
        chat,
        triplets,
        anchors,
        mix=mix or config.mix,
        steps=config.steps(len(triplets)),
        seed=config.seed,
        recovery=policy,
        style=style_named(config.refusal_style, triplets),
        longest=0 if policy is refusal_only else config.longest_prefix,
        max_length=longest_example(model, config.max_length),
        progress=(lambda done, total: progress("reading data", done, total)) if progress else _silent,
    )


def _silent(_done: int, _total: int) -> None:
    """No progress."""


def _trainer(
    model: str,
    config: RecoveryConfig,
    draws: Draws,
    options: ModelConfig,
    progress: Progress | None,
    what: str,
) -> RecoveryTrainer:
    """The trainer on the model. Errors as `trainer_on`."""
    make = partial(RecoveryTrainer, draws=draws, progress=progress, what=what)
    return cast(
        RecoveryTrainer,
        trainer_on(make, model, config, options, quiet=progress is not None, command="safedepth deepen"),
    )


class _Diverged(TrainerCallback):
    """Ends a training that has come to nothing, and says at which step."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        losses = [value for name, value in (logs or {}).items() if name in ("safety_loss", "anchor_loss")]
        if not all(math.isfinite(loss) for loss in losses):
            raise diverged(args, state.global_step, "the loss is")


def _rule(config: RecoveryConfig) -> str:
    numbers = f"p = {config.prefix_probability:g}, C = {config.longest_prefix}"
    if config.recovery == "dynamic":
        numbers += f", M = {config.most_points}"
    if config.recovery == "adaptive":
        numbers = f"C = {config.longest_prefix}, e = 0.2, every {config.estimate_every} steps"
    return f"{config.recovery}: {RECOVERIES[config.recovery]}; {numbers}"


def _facts(config: RecoveryConfig, draws: Draws) -> list[list[str]]:
    """How the model was made, in words for the report and the card."""
    epochs = draws.steps * config.safety_per_step / len(draws.triplets)
    return [
        ["refusal style", config.refusal_style],
        ["triplets, anchors", f"{len(draws.triplets):,}, {len(draws.anchors):,}"],
        ["a step", f"{config.safety_per_step} safety examples + {config.anchors_per_step} anchors"],
        ["loss", f"{config.alpha:g} × safety + {1 - config.alpha:g} × anchors"],
        ["steps", f"{draws.steps:,} (about {epochs:.1f} passes over the triplets)"],
        [
            "learning rate",
            f"{config.learning_rate:g}, {getattr(config.lr_scheduler_type, 'value', 'linear')}",
        ],
        ["seed", str(config.seed)],
        ["anchors cut at the longest length", f"{draws.cut_anchors:,} (at {draws.max_length} tokens)"],
        ["processes", str(config.world_size)],
    ]


def _losses(trainer: RecoveryTrainer) -> list[dict[str, Any]]:
    return [
        {"step": entry["step"], "safety": entry["safety_loss"], "anchor": entry.get("anchor_loss")}
        for entry in trainer.state.log_history
        if "safety_loss" in entry
    ]
