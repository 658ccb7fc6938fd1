"""Many jobs, one model, one thread: token ids in, token ids out.

Jobs may come from anywhere at any time; a thread gathers those that arrive together,
so that a prompt's depths and seeds share their prefill, and decodes all of them side
by side. Knows neither text nor Inspect.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import TracebackType

import torch
from transformers import PreTrainedModel

from safedepth.errors import ModelError
from safedepth.models import context_length
from safedepth.provider.decoder import Decoder
from safedepth.provider.jobs import Completion, Job
from safedepth.provider.rows import Row
from safedepth.provider.scheduler import Counters, Scheduler

__all__ = ["Engine"]

_REST_SECONDS = 2.0
"""Idle time after which the cache's memory is given back."""


class Engine:
    """Generates for many jobs at once with `model`; close it, or use it in a `with` statement.

    `slots` rows are decoded together. `prefill_tokens` bounds the padded tokens of one
    prefill, `cache_bytes` the keys and values of all rows (default: half of the free
    memory of a GPU, a quarter of the machine's otherwise). Jobs that arrive within
    `gather_seconds` of one another, but for no longer than ten times that, are
    considered together.

    The same job gives the same tokens whatever runs beside it, up to the rounding of
    the model's arithmetic. Raises ModelError for a model that cannot be decoded so.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int = 64,
        prefill_tokens: int = 8192,
        cache_bytes: int | None = None,
        gather_seconds: float = 0.02,
    ) -> None:
        if slots < 1 or prefill_tokens < 1:
            raise ModelError(
                f"expected at least 1 slot and 1 prefill token, found {slots} and {prefill_tokens}"
            )
        decoder = Decoder(model)
        self.context = context_length(model)
        self.slots = slots
        self._vocabulary = decoder.vocabulary
        capacity = (cache_bytes or _spare_bytes(model.device)) // decoder.bytes_per_token
        self._scheduler = Scheduler(
            decoder, slots=slots, prefill_tokens=prefill_tokens, capacity=max(1, capacity)
        )
        self._gather = gather_seconds
        self._queue: SimpleQueue[Row | None] = SimpleQueue()
        self._arrived: list[Row] = []
        self._first = self._last = 0.0
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="safedepth-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, job: Job) -> Future[Completion]:
        """Queue a job. Cancelling the future takes it out at the next token.

        Raises ModelError at once where the ids are none, unknown to the model, or as
        long as its context, and when the engine is closed.
        """
        if not job.ids:
            raise ModelError("expected a prompt of at least one token, found none")
        if not 0 <= min(job.ids) <= max(job.ids) < self._vocabulary:
            raise ModelError(
                f"expected token ids below {self._vocabulary}, found {min(job.ids)} to {max(job.ids)}. "
                "Use the tokenizer that belongs to the model"
            )
        if any(index >= self._vocabulary for index, _ in job.sampling.bias):
            raise ModelError(
                f"expected biased token ids below {self._vocabulary}, found "
                f"{max(index for index, _ in job.sampling.bias)}"
            )
        room = None if self.context is None else self.context - len(job.ids)
        if room is not None and (room < 0 or (room == 0 and job.sampling.max_tokens)):
            raise ModelError(
                f"expected a prompt shorter than the model's context of {self.context} tokens, found "
                f"{len(job.ids)} tokens. Shorten the prompt or the prefill"
            )
        future: Future[Completion] = Future()
        with self._lock:
            if self._closed:
                raise ModelError("expected an open engine, found it closed. Make a new one")
            self._queue.put(Row(job, future, room=room))
        return future

    def complete(self, jobs: Sequence[Job]) -> list[Completion]:
        """Submit jobs and wait for all of them, in order."""
        return [future.result() for future in [self.submit(job) for job in jobs]]

    @property
    def counters(self) -> Counters:
        """What has been done so far."""
        return replace(self._scheduler.counters)

    def close(self) -> None:
        """End the thread; jobs that are not done fail with ModelError. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        reason: BaseException = ModelError("the engine was closed before this job was done")
        try:
            with torch.inference_mode():
                while self._receive():
                    self._scheduler.round()
        except BaseException as error:
            reason = error
            raise
        finally:
            with self._lock:
                self._closed = True
            for row in (*self._scheduler.outstanding(), *self._arrived, *self._left()):
                row.fail(reason)

    def _receive(self) -> bool:
        """Take in what has arrived, waiting where there is nothing else to do. False: close."""
        while True:
            try:
                row = self._queue.get(timeout=self._patience())
            except Empty:
                break
            if row is None:
                return False
            self._last = time.monotonic()
            if not self._arrived:
                self._first = self._last
            self._arrived.append(row)
        if self._arrived and (time.monotonic() >= self._ripe or len(self._arrived) >= 4 * self.slots):
            self._scheduler.add(self._arrived)
            self._arrived = []
        elif not self._arrived and not self._scheduler.busy:
            self._scheduler.rest()
        return True

    @property
    def _ripe(self) -> float:
        """When to stop waiting for more jobs that could share a prefill with those here."""
        return min(self._last + self._gather, self._first + 10 * self._gather)

    def _patience(self) -> float | None:
        """Seconds to wait for a job; None is for ever."""
        if self._scheduler.busy:
            return 0
        if self._arrived:
            return max(0, self._ripe - time.monotonic())
        return None if self._scheduler.resting else _REST_SECONDS

    def _left(self) -> list[Row]:
        rows: list[Row] = []
        while True:
            try:
                row = self._queue.get_nowait()
            except Empty:
                return rows
            if row is not None:
                rows.append(row)


def _spare_bytes(device: torch.device) -> int:
    """Memory that the cache may take unless told otherwise."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
