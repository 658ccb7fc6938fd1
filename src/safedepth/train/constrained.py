"""`ConstrainedSFTTrainer`: TRL's `SFTTrainer` under a constraint that keeps the first tokens.

Drop-in: the same data, the same options, the same trackers. Four overrides: how data is
made ready, what of it a batch carries, what each token's loss is, what is logged. The sum
over tokens, accumulation, several processes and the rest are TRL's.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import disable_dropout_in_model

from safedepth.errors import DataError, RunError
from safedepth.nouns import Progress
from safedepth.train.asking import Reference
from safedepth.train.betas import BetaSchedule, checked_betas, read_betas
from safedepth.train.callbacks import Interruptible, Teller
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.diagnostics import DiagnosticsFile, KLProbe, PositionSums, tracked
from safedepth.train.examples import IGNORED
from safedepth.train.failures import last_checkpoint, whole_checkpoint
from safedepth.train.losses import constrained_loss
from safedepth.train.positions import group_of, response_positions
from safedepth.train.reference import COLUMN
from safedepth.train.rows import ROW, one_row_per_answer, require_responses
from safedepth.train.safety import mixed_with_safety

__all__ = ["ConstrainedSFTTrainer"]

POSITIONS = "response_positions"
EXTRA = (POSITIONS, COLUMN, ROW)
"""What a batch carries beside the model's inputs."""


class ConstrainedSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Fine-tune `model` on `train_dataset`, each response token held to the reference by its beta.

    Arguments are `SFTTrainer`'s, and:

        betas: a function of response positions (section 4.2); default: what `args.beta` names.
        reference: the model to stay near, loaded or a folder or hub id; default: what `args.reference`
            names, else the model as it is before its first step.

    An `SFTConfig` will do for `args`; what it leaves at TRL's default is then the paper's. Raises
    DataError, naming rows, for data without responses or without prompts, ModelError for a
    reference that does not fit or cannot be had, RunError for a stale cache and, while it trains,
    for a loss that is no number.
    """

    def __init__(
        self,
        model: Any,
        args: SFTConfig | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        betas: BetaSchedule | None = None,
        reference: Any = None,
        progress: Progress | None = None,
        what: str = "training",
        **others: Any,
    ) -> None:
        args = _own_config(args, model)
        for name in ("data_collator", "compute_loss_func"):
            if others.get(name) is not None:
                raise DataError(f"expected no {name}: batches carry positions, and the objective is the loss")
        if args.importance is not None and betas is None and not str(args.beta).endswith(".json"):
            raise DataError(
                "expected betas=..., found --importance alone: what is important is measured ahead of the "
                "training (safedepth finetune does it; in Python, studies.importance.settle_importance)"
            )
        self.betas = checked_betas(betas) if betas is not None else read_betas(args.beta)
        self.notes: list[str] = []
        self._sums = PositionSums()
        ready = partial(one_row_per_answer, keep=args.assistant_only_loss)
        self.data_collator: Any  # as TRL's constructor sets them
        self.train_dataset: Any
        self.eval_dataset: Any
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset if train_dataset is None else ready(train_dataset),
            eval_dataset=_each(ready, eval_dataset),
            **others,
        )
        if args.disable_dropout:
            _disable_dropout(self.model)
        self.data_collator = _Collator(
            pad_token_id=self.data_collator.pad_token_id,
            padding_free=self.padding_free,
            pad_to_multiple_of=self.data_collator.pad_to_multiple_of,
        )
        self.reference = Reference.of(self, reference or args.reference, progress)
        self.train_dataset = self.reference.joined(self.train_dataset)
        self.eval_dataset = _each(self.reference.joined, self.eval_dataset)
        self.probe: KLProbe | None = None
        self.interruptible = Interruptible()
        self.add_callback(self.interruptible)
        if args.diagnostics:
            self._file = DiagnosticsFile(Path(args.output_dir))
            self.add_callback(self._file)
            self.probe = self.reference.probe(self.train_dataset)
        if progress is not None:
            self.remove_callback(PrinterCallback)
            self.add_callback(Teller(progress, what))

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, name: str
    ) -> Any:
        """As TRL's, in two steps: tokenised whole and looked at, then cut and packed."""
        if COLUMN in (dataset.column_names or ()):
            return dataset  # made ready before
        uncut = copy(args)
        uncut.max_length, uncut.shuffle_dataset = None, False
        whole = super()._prepare_dataset(dataset, processing_class, uncut, False, formatting_func, name)
        if not hasattr(whole, "select_columns") or not hasattr(whole, "__len__"):
            return super()._prepare_dataset(whole, processing_class, args, packing, None, name)  # a stream
        numbers = list(whole[ROW]) if ROW in whole.column_names else list(range(1, len(whole) + 1))
        whole = whole.select_columns(["input_ids", "labels"])
        if name == "train" and args.objective == "safeinstr":
            whole = mixed_with_safety(whole, processing_class, args)
            numbers += range(len(numbers) + 1, len(whole) + 1)
        whole = whole.add_column(ROW, numbers)
        self.notes += require_responses(whole, name, max_length=args.max_length)
        return super()._prepare_dataset(whole, processing_class, args, packing, None, name)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if COLUMN not in self._signature_columns:
            self._signature_columns += [COLUMN, ROW]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As TRL's, which sums and scales; each token's loss is the objective's."""
        carried = {name: inputs[name] for name in EXTRA if name in inputs}
        own = {name: value for name, value in inputs.items() if name not in EXTRA}
        asked = partial(self._with_objective, model, carried)
        return super().compute_loss(asked, own, return_outputs, num_items_in_batch)

    def _with_objective(self, model: Any, carried: dict[str, Any], **inputs: Any) -> Any:
        """The model's outputs, with minus each token's loss where TRL expects its log-probability."""
        outputs = model(**inputs)
        if not inputs.get("fused_lm_head"):
            return outputs
        positions = carried[POSITIONS][:, 1:]  # as log-probabilities stand: of the next token
        of = self.reference.log_probs(carried.get(COLUMN), inputs)
        betas = self.betas(positions)
        losses = -outputs.log_probs
        if of is not None:
            counted = positions > 0
            held = constrained_loss(outputs.log_probs, of, betas)
            losses = torch.where(counted, held, 0.0)
        losses = losses + self.reference.penalty(self, outputs, inputs, positions)
        self._require_numbers(losses, carried, inputs)
        if self.model.training and self.args.diagnostics:
            self._sums.add(positions, outputs.log_probs, of, betas)
        outputs.log_probs = -losses
        return outputs

    def _require_numbers(self, losses: Tensor, carried: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Raise RunError naming the rows whose loss is no finite number."""
        bad = ~torch.isfinite(losses.detach())
        if not bool(bad.any()):
            return
        where = bad.any(dim=1).nonzero().flatten().tolist()
        if ROW in carried and not self.padding_free:
            rows = "row " + ", ".join(str(carried[ROW][i].item()) for i in where)
        else:
            place = int(bad[where[0]].nonzero()[0])
            own = inputs.get("position_ids")  # where sequences stand in one row
            begin = 0 if own is None else place - int(own[where[0], place])
            text = self._tokenizer.decode(inputs["input_ids"][where[0], max(begin, place - 40) : place + 2])
            rows = f"a row that reads ...{text!r}"
        raise RunError(
            f"The training diverged at step {self.state.global_step + 1}: the loss is no finite number in "
            f"{rows} of the data. Lower --learning_rate (now {self.args.learning_rate:g}) or clip gradients "
            f"(--max_grad_norm 1, now {self.args.max_grad_norm:g}); if it is the first step, look at that row"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the constraint does, position by position, since the last time."""
        if self.model.training and self.args.diagnostics:
            rows = self._sums.told(self._summed)
            if rows:
                kl = self.probe.measure(self.model_wrapped) if self.probe else {}
                for row in rows:
                    row["step"] = self.state.global_step
                    row["kl"] = kl.get(int(group_of(torch.tensor(row["position"]))))
                if self.is_world_process_zero():
                    self._file.write(rows)
                if set(self.args.report_to) - {"none"}:
                    logs |= tracked(rows)
        super().log(logs, start_time)

    def _summed(self, sums: Tensor) -> Tensor:
        moved = sums.to(self.accelerator.device, torch.float32)
        total: Any = self.accelerator.reduce(moved, "sum")
        return total.double().cpu()  # type: ignore[no-any-return]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with whole_checkpoint(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def train(self, resume_from_checkpoint: str | bool | None = None, **others: Any) -> Any:
        """As `Trainer.train`; True resumes from the last whole checkpoint, if there is one."""
        if resume_from_checkpoint is True:
            kept = last_checkpoint(Path(self.args.output_dir))
            resume_from_checkpoint = str(kept) if kept else None
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **others)
        finally:
            self.interruptible.release()


class _Collator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """TRL's collator, plus response positions and the reference's log-probabilities, where there are some."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super().torch_call(examples)
        labels, lengths = output["labels"], None
        if self.padding_free:  # TRL has taken the labels of first tokens away, before which nothing stands
            flat = torch.tensor([label for example in examples for label in example["labels"]])
            labels = torch.nn.functional.pad(flat, (0, labels.shape[1] - len(flat)), value=IGNORED)
            lengths = [n for e in examples for n in e.get("seq_lengths") or [len(e["input_ids"])]]
        positions = response_positions(labels, lengths).reshape(output["labels"].shape)
        output[POSITIONS] = positions.masked_fill(output["labels"] == IGNORED, 0)
        if COLUMN in examples[0]:
            values = torch.tensor([value for example in examples for value in example[COLUMN]])
            spread = torch.zeros(labels.shape).masked_scatter(labels != IGNORED, values)
            output[COLUMN] = spread.reshape(output["labels"].shape)
        if ROW in examples[0]:
            output[ROW] = torch.tensor([example[ROW] for example in examples])
        return output


def _own_config(args: Any, model: Any) -> ConstrainedSFTConfig:
    """The configuration as ours: TRL's with the paper's values where it has TRL's defaults."""
    if isinstance(args, ConstrainedSFTConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "") or "model"
        return ConstrainedSFTConfig(output_dir=f"{Path(name).name}-constrained")
    if not isinstance(args, SFTConfig):
        raise DataError(f"expected a ConstrainedSFTConfig or an SFTConfig, found {type(args).__name__}")
    usual = {field.name: field.default for field in fields(SFTConfig)}
    given = {f.name: getattr(args, f.name) for f in fields(SFTConfig) if f.init}
    changed = {name: value for name, value in given.items() if value != usual[name]}
    return ConstrainedSFTConfig(**changed)


def _disable_dropout(model: Any) -> None:
    """As TRL does it, and for modules that have its rate as a number (attention in Llama)."""
    disable_dropout_in_model(model)
    for module in model.modules():
        for name in [name for name in vars(module) if name.endswith("dropout")]:
            if isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)


def _each(change: Callable[[Any], Any], datasets: Any) -> Any:
    """`change` of a data set, of each of a dictionary of them, or None of none."""
    if datasets is None:
        return None
    if isinstance(datasets, dict):
        return {name: change(dataset) for name, dataset in datasets.items()}
    return change(datasets)
