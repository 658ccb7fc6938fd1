"""lm-eval on the model that is loaded: MMLU, BBH, GSM8K, MATH, HumanEval, IFEval and all its other tasks.

No second copy of the model is made, and its tokenizer is left as it is. What comes out is a table
with a row for every document, so that two models can be compared on the same ones. Which tasks
there are, and whether they would run code, is `harness_tasks`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

from safedepth.errors import DataError, RunError
from safedepth.models import LoadedModel
from safedepth.nouns import Progress
from safedepth.utility.harness_rows import COLUMNS, rows_of
from safedepth.utility.harness_tasks import code_allowed, find_tasks, library

__all__ = ["COLUMNS", "Harness", "HarnessOptions"]


@dataclass(frozen=True)
class HarnessOptions:
    """How lm-eval asks: all that changes its numbers, and the size of a batch.

    `few_shot` None is each task's own number. `limit` is the documents of each task, of a group's
    every task. `chat_template` asks in the model's chat format, few-shot examples as earlier turns.
    """

    tasks: tuple[str, ...]
    include_path: str | None = None
    limit: int | None = None
    few_shot: int | None = None
    chat_template: bool = True
    allow_code: bool = False
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise DataError(f"expected tasks of lm-eval, each once, found {', '.join(self.tasks) or 'none'}")
        least = {"limit": 1, "few_shot": 0, "batch_size": 1}
        for name, bound in least.items():
            found = getattr(self, name)
            if found is not None and found < bound:
                raise DataError(f"expected --{name.replace('_', '-')} of at least {bound}, found {found}")


@dataclass(frozen=True)
class Harness:
    """Tasks that were found, with their data; `table` measures a model on one of them."""

    options: HarnessOptions
    manager: Any

    @classmethod
    def of(cls, options: HarnessOptions) -> Harness:
        """Find the tasks and their data, before any model is asked.

        Raises:
            MissingExtraError: lm-eval is not installed.
            DataError: a task is unknown (with close names), its data cannot be had, or it would run
                code that the model writes and `allow_code` is False.
        """
        with _quiet():
            manager = find_tasks(options.tasks, options.include_path, allow_code=options.allow_code)
        return cls(options, manager)

    def table(self, loaded: LoadedModel, task: str, *, progress: Progress | None = None) -> pd.DataFrame:
        """Every document of a task, tag or group of tasks, answered and scored by lm-eval.

        Returns:
            Columns `COLUMNS`, as `harness_rows.rows_of` says.

        Raises:
            RunError: lm-eval could not ask this model (a context too short, too little memory).
        """
        lm_eval = library()
        options = self.options
        with _quiet() as told, code_allowed(options.allow_code):
            model = _model(loaded, options, f"lm-eval, {task}", progress)
            try:
                results = lm_eval.simple_evaluate(
                    model, tasks=[task], task_manager=self.manager, limit=options.limit,
                    num_fewshot=options.few_shot, batch_size=options.batch_size, bootstrap_iters=0,
                    apply_chat_template=options.chat_template, fewshot_as_multiturn=options.chat_template,
                    confirm_run_unsafe_code=options.allow_code, random_seed=options.seed,
                    numpy_random_seed=options.seed, torch_random_seed=options.seed,
                    fewshot_random_seed=options.seed,
                )  # fmt: skip
            except torch.OutOfMemoryError as error:
                raise RunError(
                    f"expected room for {options.batch_size} documents of {task} at once on "
                    f"{loaded.card.device}, found too little memory. Try a smaller --batch-size"
                ) from error
            except (AssertionError, ValueError, RuntimeError, KeyError, OSError) as error:
                said = " ".join(str(error).split()) or type(error).__name__
                raise RunError(
                    f"lm-eval could not measure {task} on {loaded.card.name}: {said}. Leave the task out, or "
                    "mend what it says"
                ) from error
        cut = sum("truncat" in message.lower() for message in told)
        note = f"{cut} prompts or batches of them were cut at the left to fit the context" if cut else ""
        return pd.DataFrame(rows_of(results, task, note=note), columns=list(COLUMNS)).astype(
            {"value": "Float64", "weight": "Float64", "doc_id": "Int64"}
        )


def _model(loaded: LoadedModel, options: HarnessOptions, what: str, progress: Progress | None) -> Any:
    """The loaded model as lm-eval wants one, with a tokenizer of its own that may be changed."""
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]

    class Told(HFLM):  # type: ignore[misc]
        """Counts its requests; lm-eval's cache hook hears of every one that is answered."""

        asked = 0

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
            self.asked += len(requests)
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
            self.asked += len(requests)
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
            self.asked += len(requests)
            return super().generate_until(requests, disable_tqdm=True)

    class Hook:
        answered = 0

        def add_partial(self, *_request: Any) -> None:
            self.answered += 1
            if progress is not None:
                progress(what, min(self.answered, model.asked), model.asked)

    tokenizer = deepcopy(loaded.chat.tokenizer)
    tokenizer.chat_template = loaded.chat.template
    model = Told(pretrained=loaded.model, tokenizer=tokenizer, batch_size=options.batch_size)
    model.set_cache_hook(Hook())
    return model


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep lm-eval's bars and log messages off the terminal; its warnings go to the list.

    Nor is it let ask the machine, for seconds a task, what is installed: the run's manifest has it.
    """
    library()
    import lm_eval.api.model  # type: ignore[import-untyped]
    import lm_eval.api.task  # type: ignore[import-untyped]
    import lm_eval.evaluator  # type: ignore[import-untyped]
    import lm_eval.models.huggingface  # type: ignore[import-untyped]

    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, listener = logging.getLogger("lm_eval"), Listener(logging.WARNING)
    before = (logger.propagate, logger.handlers[:], logger.level)
    places: list[tuple[Any, str]] = [
        (module, "tqdm") for module in (lm_eval.api.task, lm_eval.api.model, lm_eval.models.huggingface)
    ]
    places.append((lm_eval.evaluator, "add_env_info"))
    own = [getattr(module, name) for module, name in places]
    logger.propagate, logger.handlers = False, [listener]
    logger.setLevel(logging.WARNING)
    for (module, name), what in zip(places, own, strict=True):
        setattr(module, name, partial(_silent, what) if name == "tqdm" else lambda _results: None)
    try:
        yield told
    finally:
        logger.propagate, logger.handlers = before[0], before[1]
        logger.setLevel(before[2])
        for (module, name), what in zip(places, own, strict=True):
            setattr(module, name, what)


def _silent(bar: Any, *arguments: Any, **named: Any) -> Any:
    return bar(*arguments, **(named | {"disable": True}))
