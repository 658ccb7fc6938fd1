"""Training one model for recovery, from a checkpoint to a checkpoint, resumed where it was interrupted.

The trainer trains; this module loads what it needs, says what went wrong, and leaves a
record of how the model was made beside it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, TrainerCallback
from trl import ModelConfig, get_peft_config, get_quantization_config

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError, RunError
from safedepth.models import context_length, load_chat
from safedepth.models.checkpoint import find_checkpoint, first_line
from safedepth.nouns import Anchor, Progress, Triplet
from safedepth.runs.files import read_json, to_json, write_atomically
from safedepth.train.config import RecoveryConfig
from safedepth.train.draws import Draws
from safedepth.train.failures import explained_failures, last_checkpoint
from safedepth.train.options import Mix
from safedepth.train.recovery import RECOVERIES, AdaptiveRecovery, RecoveryPolicy, refusal_only
from safedepth.train.styles import style_named
from safedepth.train.trainer import RecoveryTrainer

__all__ = ["CONTROL_POLICY", "RECORD", "plan", "train_recovery"]

RECORD = "training.json"
"""Written last into a trained model's folder: how it was made, its losses, and that it is whole."""


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
        _require_numbers(trainer)
        trainer.save_model(str(out))
    facts = [["recovery points", rule or _rule(config)], *_facts(config, draws)]
    record: dict[str, Any] = {"model": name, "facts": facts, "losses": _losses(trainer)}
    record["seconds"] = round(time.monotonic() - begun, 1)
    if trainer.is_world_process_zero():
        write_atomically(out / RECORD, to_json(record).encode())
    del trainer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
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
        max_length=_longest(model, config),
        progress=(lambda done, total: progress("reading data", done, total)) if progress else _silent,
    )


def _longest(model: str, config: RecoveryConfig) -> int | None:
    """The most tokens an example may have: `--max_length` as far as the model's context goes."""
    limits = [config.max_length, context_length(AutoConfig.from_pretrained(find_checkpoint(model).folder))]
    return min((limit for limit in limits if limit is not None), default=None)


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
    """The trainer on the model, loaded by TRL: safetensors only. Raises ModelError for unfit options."""
    place = Path(model).expanduser()
    config.disable_tqdm = config.disable_tqdm or progress is not None
    config.model_init_kwargs = {
        "revision": options.model_revision,
        "dtype": options.dtype,
        "attn_implementation": options.attn_implementation,
        **(config.model_init_kwargs or {}),
        "use_safetensors": True,
    }
    try:
        return RecoveryTrainer(
            str(place.resolve()) if place.exists() else model,  # as an adapter will name its base
            config,
            draws=draws,
            progress=progress,
            what=what,
            quantization_config=get_quantization_config(options),
            peft_config=get_peft_config(options),
        )
    except (ValueError, ImportError, RuntimeError) as error:
        # TRL, PEFT and transformers on options that do not fit, and on trackers that are not there.
        if isinstance(error, RuntimeError) and "installed" not in str(error):
            raise
        raise ModelError(
            f"{model} cannot be trained with these options ({first_line(error)}). Change them: see safedepth "
            "deepen --help, and TRL's ModelConfig and SFTConfig"
        ) from error


class _Diverged(TrainerCallback):
    """Ends a training that has come to nothing, and says at which step."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        losses = [value for name, value in (logs or {}).items() if name in ("safety_loss", "anchor_loss")]
        if not all(math.isfinite(loss) for loss in losses):
            raise _diverged(args, state.global_step, "the loss is")


def _require_numbers(trainer: RecoveryTrainer) -> None:
    """Raise RunError where the last step, whose loss nobody saw, left weights that are no numbers."""
    for weight in trainer.model.parameters():
        own: Any = weight
        own = own.to_local() if hasattr(own, "to_local") else own  # a shard, under FSDP
        if not bool(torch.isfinite(own).all()):
            raise _diverged(trainer.args, trainer.state.global_step, "weights are")


def _diverged(args: Any, step: int, what: str) -> RunError:
    return RunError(
        f"The training diverged: at step {step} {what} no finite number. Lower --learning_rate (now "
        f"{args.learning_rate:g}), or clip gradients (--max_grad_norm 1, now {args.max_grad_norm:g}), and "
        "choose another --output_dir."
    )


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
