"""How a training asks its reference: from a file, or alive at every step; and what penalties cost.

One object beside the trainer, so that the trainer stays small. A training that needs a
reference and can have none is refused here, before its first step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import add_fused_lm_head, create_model_from_path

from safedepth.errors import ModelError
from safedepth.models import head_of, load_chat
from safedepth.nouns import Progress
from safedepth.train.diagnostics import KLProbe
from safedepth.train.penalties import HiddenTap, kl_to_reference, safety_token_kl
from safedepth.train.reference import COLUMN, ReferenceStore, hash_of_model, kept_mode, score_rows
from safedepth.train.safety import safety_tokens

__all__ = ["Reference"]


@dataclass
class Reference:
    """The reference of one trainer; `named` is a model, a name, or None for the model it begins with."""

    trainer: Any
    named: Any
    progress: Progress | None
    alive: Any = None
    taps: dict[str, HiddenTap] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    tokens: Tensor | None = None
    stored: bool = False
    hash: str = ""

    @classmethod
    def of(cls, trainer: Any, named: Any, progress: Progress | None) -> Reference:
        """The reference that the trainer's options ask for.

        Raises ModelError where it does not fit the model, or cannot be had this way.
        """
        args = trainer.args
        found = cls(trainer, named, progress)
        if getattr(trainer.model, "active_peft_config", None) is not None and (
            trainer.model.active_peft_config.is_prompt_learning
        ):
            raise ModelError("expected adapters that change weights (LoRA): prompt learning shifts positions")
        if isinstance(named, str):
            _require_same_language(trainer, named)
        found.stored = args.needs_log_probs and args.precompute_reference
        if args.needs_distributions or (args.needs_log_probs and not found.stored):
            found._begin_alive()
        if args.needs_distributions:
            found._prepare_penalty()
        return found

    def joined(self, dataset: Any) -> Any:
        """The data set with the reference's log-probabilities as a column, where the loss needs them."""
        if not self.stored:
            return dataset
        if not isinstance(dataset, Dataset):
            raise ModelError(
                "expected a data set that can be read ahead, found a stream: without the reference's "
                "log-probabilities there is no constraint. Load it whole (--dataset_streaming False), or "
                "train an adapter with --precompute_reference False"
            )
        args, trainer = self.trainer.args, self.trainer
        with self._asked() as model:
            score = partial(
                score_rows, model, collate=_plain(trainer), batch=args.per_device_eval_batch_size,
                accelerator=trainer.accelerator,
                progress=partial(self.progress, "asking the reference") if self.progress else _silent,
            )  # fmt: skip
            folder = Path(args.reference_cache or Path(args.output_dir) / "reference")
            template = trainer._tokenizer.chat_template or ""
            store = ReferenceStore(
                folder, self.hash, str(template), lambda rows: score(rows=rows), trainer.accelerator
            )
            return dataset.add_column(COLUMN, store.column(dataset))

    def probe(self, dataset: Any) -> KLProbe | None:
        """A few rows to measure the KL on; None for a stream, or a model in shards."""
        if not isinstance(dataset, Dataset) or self._sharded:
            return None
        few = dataset.select(range(min(8, len(dataset))))
        vocabulary = self.trainer.model.config.get_text_config().vocab_size
        probe = KLProbe(list(few), _plain(self.trainer), vocabulary=vocabulary)
        with self._asked() as model, self.trainer.accelerator.autocast():
            probe.remember(model)
        return probe

    def log_probs(self, column: Tensor | None, inputs: dict[str, Any]) -> Tensor | None:
        """log pi_ref of the next tokens [B, T - 1]; None where no loss needs them.

        Raises ModelError for a batch of data that the reference was not asked about.
        """
        if not self.trainer.args.needs_log_probs:
            return None
        if self.stored:
            if column is None:
                raise ModelError(
                    "this data has no log-probabilities of the reference, and without them there is no "
                    "constraint. Give every data set to the trainer when it is made"
                )
            return column[:, 1:]
        return self._ask_alive(inputs).log_probs  # type: ignore[no-any-return]

    def penalty(
        self, trainer: Any, outputs: Any, inputs: dict[str, Any], positions: Tensor
    ) -> Tensor | float:
        """The weighted penalty of every token, 0 where there is none."""
        if not trainer.args.needs_distributions:
            return 0.0
        counted = positions > 0
        hidden = self.taps["model"].take()[:, :-1][counted]
        said = self._ask_alive(inputs)
        of_hidden = self.taps["reference"].take()[:, :-1][counted].detach()
        head, of_head = self.heads["model"], self.heads["reference"]
        if trainer.args.objective == "kl":
            found = kl_to_reference(hidden, head, of_hidden, of_head)
        else:
            targets = inputs["labels"][:, 1:][counted]
            assert self.tokens is not None
            found = safety_token_kl(
                hidden, head, outputs.log_probs[counted], of_hidden, of_head, said.log_probs[counted],
                targets, self.tokens.to(hidden.device),
            )  # fmt: skip
        spread = torch.zeros_like(outputs.log_probs).masked_scatter(
            counted, found.to(outputs.log_probs.dtype)
        )
        return trainer.args.kl_weight * spread  # type: ignore[no-any-return]

    @property
    def _sharded(self) -> bool:
        return bool(self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled)

    @property
    def _adapted(self) -> bool:
        return hasattr(self.trainer.model, "disable_adapter")

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """The reference, ready to be run in every process; let go of afterwards."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        # Under FSDP the model is sharded only once it trains: its checkpoint is loaded once more.
        own = self.named is None and not trainer.is_fsdp_enabled
        model = trainer.model if own else self._loaded()
        if accelerator.is_main_process:  # which alone reads and writes files by it
            self.hash = self.hash or hash_of_model(model)
        if trainer.is_deepspeed_enabled:
            model = prepare_deepspeed(model, accelerator)
        elif trainer.is_fsdp_enabled:
            model = prepare_fsdp(model, accelerator)
        else:
            model = model.to(accelerator.device)
        with kept_mode(model):
            yield model

    def _loaded(self) -> Any:
        """The named reference with the fused head; under FSDP the model's own checkpoint once more."""
        trainer = self.trainer
        name = self.named or trainer.model.config._name_or_path
        if isinstance(name, str):
            try:
                model = create_model_from_path(
                    name, dtype=trainer.model.dtype, device_map=None, use_safetensors=True,
                    attn_implementation=trainer.model.config._attn_implementation,
                )  # fmt: skip
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"expected a reference model at {name!r}: {str(error).splitlines()[0]}"
                ) from error
        else:
            model = name
        if model.config.get_text_config().vocab_size != trainer.model.config.get_text_config().vocab_size:
            raise ModelError(
                f"expected a reference over the model's {trainer.model.config.get_text_config().vocab_size} "
                f"tokens, found one over {model.config.get_text_config().vocab_size}"
            )
        add_fused_lm_head(_core(model))
        return model

    def _begin_alive(self) -> None:
        """Keep the reference at hand for every step: the model without its adapter, or a frozen copy."""
        trainer = self.trainer
        if self._sharded:
            raise ModelError(
                "expected a model that is whole in every process, found FSDP or DeepSpeed: --objective "
                f"{trainer.args.objective} asks the reference at every step. Train with DDP, or with "
                "--objective constrained and --precompute_reference True"
            )
        if self.named is not None:
            self.alive = self._loaded().to(trainer.accelerator.device)
        elif not self._adapted and trainer.args.needs_log_probs:
            raise ModelError(
                "refusing to train without a reference: --precompute_reference False takes it from the "
                "same weights without the adapter, and this model has none. Leave the option out, train an "
                "adapter (--use_peft), or name a model (--reference)"
            )
        elif not self._adapted:
            self.alive = deepcopy(trainer.model)
        else:
            _require_idle_adapter(trainer.model)
        if self.alive is not None:
            self.alive.eval().requires_grad_(False)

    @torch.no_grad()
    def _ask_alive(self, inputs: dict[str, Any]) -> Any:
        given = {name: value for name, value in inputs.items() if name != "output_router_logits"}
        own = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with without_adapter(own, self.alive) as model, self.trainer.accelerator.autocast():
            return model(**given)

    def _prepare_penalty(self) -> None:
        own = _core(self.trainer.model)
        of = own if self.alive is None else _core(self.alive)
        for name, model in (("model", own), ("reference", of)):
            with kept_mode(model):
                self.heads[name] = head_of(model)
        tap = HiddenTap(own.base_model)
        self.taps = {"model": tap, "reference": tap if of is own else HiddenTap(of.base_model)}
        if self.trainer.args.objective == "pact":
            with without_adapter(self.trainer.model, self.alive) as model:
                self.tokens = safety_tokens(model, self.trainer._tokenizer, self.trainer.args)


def _require_same_language(trainer: Any, named: str) -> None:
    """Raise ModelError unless the reference's tokenizer and chat template are the model's."""
    own, of = trainer._tokenizer, load_chat(named, chat_template=None).tokenizer
    if own.get_vocab() != of.get_vocab():
        raise ModelError(
            f"expected the reference {named} to have the model's tokenizer, found another vocabulary: token "
            "ids would mean other words to it. Use the model that this one was tuned from"
        )
    if of.chat_template and own.chat_template and of.chat_template != own.chat_template:
        raise ModelError(
            f"expected the reference {named} to have the model's chat template, found another: it would be "
            "asked in a form it does not know. Give both the same (--chat_template_path)"
        )


@torch.no_grad()
def _require_idle_adapter(model: Any) -> None:
    """Raise ModelError unless the model is, before its first step, what it is without its adapter."""
    ids = torch.arange(8, device=model.device)[None]
    with kept_mode(model):
        own = model(input_ids=ids, use_cache=False).logits.float()
        with model.disable_adapter():
            without = model(input_ids=ids, use_cache=False).logits.float()
    tolerance = 1e-4 if model.dtype == torch.float32 else 2e-2
    if not (own - without).abs().max() <= tolerance * without.abs().max():
        raise ModelError(
            "expected an adapter that changes nothing before the first step, found one that has been trained "
            "or is initialised otherwise: the model without it is not the model to stay near. Leave "
            "--precompute_reference True, merge the adapter first, or name the model (--reference)"
        )


def _plain(trainer: Any) -> Any:
    """The trainer's batches without what the loss adds to them."""

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        kept = [
            {name: row[name] for name in ("input_ids", "labels", "seq_lengths") if name in row}
            for row in examples
        ]
        output = trainer.data_collator(kept)
        return {name: value for name, value in output.items() if name != "response_positions"}

    return collate


@contextmanager
def without_adapter(model: Any, alive: Any = None) -> Iterator[Any]:
    """The reference that is at hand: `alive` if there is one, else the model without its adapter."""
    without = model.disable_adapter() if alive is None else nullcontext()
    asked = model if alive is None else alive
    with without, kept_mode(asked):
        yield asked


def _core(model: Any) -> Any:
    """The transformers model inside an adapter's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _silent(_done: int, _total: int) -> None:
    """No progress."""
