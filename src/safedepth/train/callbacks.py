"""Callbacks of the trainer: progress, a stop that loses nothing, estimates for a policy that learns."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, cast

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safedepth.nouns import Progress, Triplet
from safedepth.train.draws import Draws
from safedepth.train.recovery import AdaptiveRecovery

__all__ = ["Estimator", "Interruptible", "Teller", "recovery_curve"]

SAMPLED = 64
"""Triplets an estimate is made from."""


class Teller(TrainerCallback):
    """Tells a study's progress of every optimiser step."""

    def __init__(self, progress: Progress, what: str) -> None:
        self.progress, self.what = progress, what

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Say how many steps are done."""
        if state.is_world_process_zero:
            self.progress(self.what, state.global_step, state.max_steps)


class Interruptible(TrainerCallback):
    """Ctrl-C once: end after this step, with a checkpoint. Twice: end at once.

    For one process alone; several would not stop at the same step.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._before: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Take Ctrl-C over."""
        if args.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Stop here if that was asked for."""
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_others: Any
    ) -> None:
        """Give Ctrl-C back."""
        self.release()

    def release(self) -> None:
        """Give Ctrl-C back, also after a training that failed."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True


class Estimator(TrainerCallback):
    """Re-estimates, every so many steps, where the model turns back (see `AdaptiveRecovery`).

    An estimate made after step s is in force from step s + 2 on, because the first batch of
    step s + 1 may have been fetched already; so a resumed run draws what an unbroken one does.
    """

    def __init__(self, draws: Draws, *, every: int) -> None:
        self.draws, self.every = draws, every

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Estimate before the first step of a run that begins."""
        if state.global_step == 0:
            self._estimate(others["model"], 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Estimate anew when it is time."""
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self._estimate(others["model"], state.global_step + 1)

    def _estimate(self, model: Any, from_step: int) -> None:
        recovery = cast(AdaptiveRecovery, self.draws.recovery)
        curve = recovery_curve(model, self.draws, longest=recovery.longest)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shared = torch.tensor(curve, device=model.device)
            torch.distributed.broadcast(shared, 0)  # the same for all, to the last bit
            curve = shared.tolist()
        recovery.learn(from_step, curve)


@torch.no_grad()
def recovery_curve(model: Any, draws: Draws, *, longest: int, batch: int = 4) -> list[float]:
    """q(k) for k = 0..: how likely the model is to turn back after k tokens of a harmful answer.

    The mean over the first `SAMPLED` triplets of the probability that the next token is one
    that some refusal of the data begins with, there being k tokens of the answer before it.
    """
    chosen = draws.opened_triplets[:SAMPLED]
    starts = {_first_ids(draws, triplet) for triplet in draws.triplets}
    sums = torch.zeros(longest + 1, dtype=torch.float64)
    counts = torch.zeros_like(sums)
    training, _ = model.training, model.eval()
    for place in range(0, len(chosen), batch):
        rows = [(o.prompt, o.answer[:longest]) for o in chosen[place : place + batch]]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, (prompt, answer) in enumerate(rows):
            ids[index, : len(prompt) + len(answer)] = torch.tensor((*prompt, *answer))
            mask[index, : len(prompt) + len(answer)] = 1
        logits = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits
        for index, (prompt, answer) in enumerate(rows):
            said = logits[index, len(prompt) - 1 : len(prompt) + len(answer)].float().softmax(-1)
            for k, row in enumerate(said):
                wanted = sorted({pair[0 if k == 0 else 1] for pair in starts})
                sums[k] += row[wanted].sum().item()
                counts[k] += 1
    model.train(training)
    reached = int((counts > 0).sum())
    return [min(1.0, float(s / c)) for s, c in zip(sums[:reached], counts[:reached], strict=True)]


def _first_ids(draws: Draws, triplet: Triplet) -> tuple[int, int]:
    """The first token of a triplet's refusal: as the first of an answer, and in the middle of one."""
    inside: Sequence[int] = draws.opened_triplets[0].answer[:1]
    return draws.chat.answer_ids(triplet.refusal)[0], draws.chat.continuation_ids(inside, triplet.refusal)[0]
