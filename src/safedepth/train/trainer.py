"""`RecoveryTrainer`: TRL's `SFTTrainer` on a plan of safety examples and anchors.

Three overrides: the loss (one weighted sum, see `losses`), what is logged, and the
checkpoint, which also holds the state of a policy that learns. Everything else (LoRA,
several processes, FSDP, DeepSpeed, resuming, trackers) is TRL's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PrinterCallback
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from safedepth.nouns import Progress
from safedepth.runs.files import read_json, to_json, write_atomically
from safedepth.train.callbacks import Estimator, Interruptible, Teller
from safedepth.train.config import RecoveryConfig
from safedepth.train.draws import Draws
from safedepth.train.examples import IGNORED
from safedepth.train.failures import last_checkpoint, whole_checkpoint
from safedepth.train.losses import mixture_weights, weighted_nll
from safedepth.train.recovery import AdaptiveRecovery

__all__ = ["RecoveryTrainer"]

POLICY_STATE = "recovery.json"


class RecoveryTrainer(SFTTrainer):  # type: ignore[misc]
    """Train `model` on `draws`; all other arguments are `SFTTrainer`'s.

    The loss is alpha times the mean over the step's safety examples plus (1 - alpha) times that
    over its anchors, an example's loss being the mean over its tokens with loss (section 4.1). It
    is the same for every split of the step over batches, accumulation and processes.
    """

    # The token weights of a whole optimiser step sum to one: nothing is left to divide by.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        args: RecoveryConfig,
        *,
        draws: Draws,
        progress: Progress | None = None,
        what: str = "training",
        **others: Any,
    ) -> None:
        args.max_steps = draws.steps
        if args.padding_free:
            args.max_length = None  # the draws are cut to it already, which TRL cannot know
        super().__init__(
            model=model,
            args=args,
            train_dataset=draws.dataset(),
            processing_class=draws.chat.tokenizer,
            **others,
        )
        self.draws = draws
        self._sums: dict[str, list[Tensor]] = {"safety": [], "anchor": []}
        self.data_collator = _Collator(
            pad_token_id=self._tokenizer.pad_token_id,
            padding_free=self.padding_free,
            pad_to_multiple_of=None if args.pad_to_multiple_of == "auto" else args.pad_to_multiple_of,
            config=args,
        )
        self.interruptible = Interruptible()
        self.add_callback(self.interruptible)
        if isinstance(draws.recovery, AdaptiveRecovery):
            self.add_callback(Estimator(draws, every=args.estimate_every))
        if progress is not None:
            self.remove_callback(PrinterCallback)
            self.add_callback(Teller(progress, what))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted sum over this batch's tokens, in proportion for one whole step."""
        weights, safety = inputs.pop("loss_weights"), inputs.pop("safety")
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        weights, safety = weights[:, 1:], safety[:, 1:]  # as log-probabilities stand: of the next token
        loss = weighted_nll(outputs.log_probs, weights)
        with torch.no_grad():
            self._sums["safety"].append(weighted_nll(outputs.log_probs, weights * safety))
            self._sums["anchor"].append(loss - self._sums["safety"][-1])
        # Processes average their gradients, and the step's weights sum to one over all of them.
        loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        if self.aux_loss_enabled:  # a mean already: over batches and processes the mean of it is taken
            share = self.router_aux_loss_coef / self.current_gradient_accumulation_steps
            loss = loss + share * outputs.aux_loss
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean losses of safety examples and of anchors since the last time."""
        batches = len(self._sums["safety"])
        if batches:
            steps = batches / self.args.gradient_accumulation_steps
            alpha = self.args.alpha if self.args.anchors_per_step else 1.0
            for kind, share in (("safety", alpha), ("anchor", 1 - alpha)):
                total = cast(Tensor, self.accelerator.reduce(torch.stack(self._sums[kind]).sum(), "sum"))
                self._sums[kind].clear()
                if share > 0:
                    logs[f"{kind}_loss"] = total.item() / share / steps
        super().log(logs, start_time)

    def create_model_card(self, *_arguments: Any, **_others: Any) -> None:
        """Write none: the study that trains writes the card once it has measured the model."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with whole_checkpoint(folder):
            # First: with the trainer's own state the checkpoint counts as whole, and older ones go.
            if isinstance(self.draws.recovery, AdaptiveRecovery) and self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / POLICY_STATE, to_json(self.draws.recovery.state()).encode())
            super()._save_checkpoint(model, trial)

    def train(self, resume_from_checkpoint: str | bool | None = None, **others: Any) -> Any:
        """As `Trainer.train`; a policy that learns goes on from the checkpoint's state.

        True resumes from the last whole checkpoint in the output folder, if there is one.
        """
        if resume_from_checkpoint is True:
            kept = last_checkpoint(Path(self.args.output_dir))
            resume_from_checkpoint = str(kept) if kept else None
        if isinstance(self.draws.recovery, AdaptiveRecovery) and resume_from_checkpoint:
            self.draws.recovery.restore(read_json(Path(str(resume_from_checkpoint)) / POLICY_STATE))
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **others)
        finally:
            self.interruptible.release()


class _Collator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """TRL's collator, plus every token's weight in the loss and whether a safety example holds it."""

    def __init__(self, *, config: RecoveryConfig, **others: Any) -> None:
        super().__init__(**others)
        self.config = config

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super().torch_call(examples)
        rows = [self._weights(example) for example in examples]
        safety = [torch.full_like(row, float(e["safety"])) for row, e in zip(rows, examples, strict=True)]
        width = output["input_ids"].shape[1]
        for name, parts in (("loss_weights", rows), ("safety", safety)):
            parts = [torch.cat(parts)] if self.padding_free else parts
            output[name] = torch.stack([torch.nn.functional.pad(p, (0, width - len(p))) for p in parts])
        return output

    def _weights(self, example: dict[str, Any]) -> Tensor:
        counted = torch.tensor(example["labels"])[None] != IGNORED
        counted[:, 0] = False  # nothing stands before the first token to predict it from
        return mixture_weights(
            counted,
            torch.tensor([example["safety"]]),
            alpha=self.config.alpha,
            safety_examples=self.config.safety_per_step,
            anchor_examples=self.config.anchors_per_step,
        )[0]
