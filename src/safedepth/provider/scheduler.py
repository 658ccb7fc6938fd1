"""Which rows run: groups that share a prefill wait, rows fill slots, decode together, retire.

Runs on one thread and knows tokens and forwards, not where jobs come from. What goes
wrong in a forward fails the rows it concerns; when memory runs out, every row goes
back to the queue with what it has and half the slots go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from safedepth.errors import ModelError
from safedepth.provider.cache import SlotCache
from safedepth.provider.decoder import Decoder, is_out_of_memory
from safedepth.provider.jobs import TokenLogprob
from safedepth.provider.logprobs import logprobs_of
from safedepth.provider.prefill import LOGITS_TILE, prefill
from safedepth.provider.rows import Row
from safedepth.provider.sampling import choose
from safedepth.provider.sharing import Group, share

__all__ = ["Counters", "Scheduler"]

logger = logging.getLogger(__name__)


@dataclass
class Counters:
    """What the engine has done: how well prefills were shared and slots filled.

    `prefill_tokens` of all the `asked_tokens` of the rows' contexts were computed;
    `step_rows / steps` rows were decoded together on average; `restarts` counts
    how often memory ran out.
    """

    prefills: int = 0
    prefill_tokens: int = 0
    asked_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class _Ready:
    """A row that has its first token and whose keys and values lie in row `source` of `cache`."""

    row: Row
    cache: Cache
    source: int


class Scheduler:
    """Rows of `decoder` in up to `slots` slots and `capacity` cached tokens."""

    def __init__(self, decoder: Decoder, *, slots: int, prefill_tokens: int, capacity: int) -> None:
        self.decoder = decoder
        self.slots = slots
        self.prefill_tokens = prefill_tokens
        self.counters = Counters()
        self._cache = SlotCache(slots=slots, capacity=capacity)
        self._waiting: deque[Group[Row]] = deque()
        self._ready: deque[_Ready] = deque()
        self._live: list[Row] = []

    @property
    def busy(self) -> bool:
        """Whether any row is under way."""
        return bool(self._waiting or self._ready or self._live)

    def add(self, rows: Sequence[Row]) -> None:
        """Queue rows; those that lie inside one another will share a prefill."""
        self._waiting.extend(share(rows))

    @property
    def resting(self) -> bool:
        """Whether the cache holds no memory."""
        return self._cache.shape == (0, 0)

    def rest(self) -> None:
        """Give back the cache's memory while nothing runs."""
        self._cache.release()

    def outstanding(self) -> list[Row]:
        """Every row that is not done, in no order."""
        waiting = [row for group in self._waiting for row in group.rows]
        return [row for row in (*self._live, *(ready.row for ready in self._ready), *waiting) if not row.done]

    def round(self) -> None:
        """Fill free slots, then decode one token for every row."""
        while True:
            self._guarded([*self._live, *(entry.row for entry in self._ready)], self._admit)
            # Rows that are ready but do not fit hold their prefill's memory: no further one till they are in.
            if self._ready or len(self._live) >= self.slots:
                break
            groups = self._next_groups()
            if not groups:
                break
            self._guarded([row for group in groups for row in group.rows], partial(self._prefill, groups))
        if self._live:
            self._guarded(list(self._live), self._step)
        self._retire()

    def _guarded(self, rows: list[Row], work: Callable[[], None]) -> None:
        """Do `work` for `rows`; whatever it raises becomes theirs, or a restart with fewer slots."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - every failure is handed to those who wait for it
            if is_out_of_memory(error):
                self._shrink(rows, error)
            else:
                for row in rows:
                    row.fail(error)
                self._retire()
                if not self._live:
                    self._cache.release()

    def _next_groups(self) -> list[Group[Row]]:
        """Take groups from the queue that fill the free slots, padded to no more than the token limit."""
        groups: list[Group[Row]] = []
        wanted = self.slots - len(self._live)
        longest = 0
        while self._waiting and wanted > 0:
            group = self._waiting[0]
            longest = max(longest, len(group.ids))
            if groups and longest * (len(groups) + 1) > self.prefill_tokens:
                break
            self._waiting.popleft()
            group.rows[:] = [row for row in group.rows if not row.done]
            if group.rows:
                groups.append(group)
                wanted -= len(group.rows)
        return groups

    def _prefill(self, groups: list[Group[Row]]) -> None:
        """Run each group's longest context once; give every row what it asked for and its next token."""
        found = prefill(self.decoder, groups, tokens=self.prefill_tokens)
        self.counters.prefills += 1
        self.counters.prefill_tokens += sum(len(group.ids) for group in groups)
        self.counters.asked_tokens += sum(len(row.context) for group in groups for row in group.rows)
        entries = [(row, source) for source, group in enumerate(groups) for row in group.rows]
        for row, source in entries:
            if row.wants_prompt:
                row.prompt_logprobs = found.score(source, row)
            if not row.limit:
                row.finish()
        entries = [entry for entry in entries if not entry[0].done]
        size = max(1, LOGITS_TILE // self.decoder.vocabulary)
        for start in range(0, len(entries), size):
            part = entries[start : start + size]
            logits = torch.stack([found.next_logits[source, len(row.context)] for row, source in part])
            self._extend([row for row, _ in part], logits)
        self._ready.extend(_Ready(row, found.cache, source) for row, source in entries if not row.done)

    def _admit(self) -> None:
        """Move ready rows into free slots, in order, as long as the cached tokens stay within bounds."""
        entries: list[_Ready] = []
        most = max((row.most for row in self._live), default=1)
        while self._ready and len(self._live) + len(entries) < self.slots:
            entry = self._ready[0]
            taken = len(self._live) + len(entries)
            if taken and (taken + 1) * max(most, entry.row.most) > self._cache.capacity:
                break
            most = max(most, entry.row.most)
            entries.append(self._ready.popleft())
        if not entries:
            return
        rows = [*self._live, *(entry.row for entry in entries)]
        self._live = rows
        self._cache.reserve(len(rows), max(row.length for row in rows) + 1, most=most, like=entries[0].cache)
        for slot, entry in enumerate(entries, start=len(rows) - len(entries)):
            self._cache.load(slot, entry.cache, entry.source, entry.row.length)

    def _step(self) -> None:
        rows = self._live
        lengths = [row.length for row in rows]
        self._cache.reserve(len(rows), max(lengths) + 1, most=max(row.most for row in rows))
        logits = self.decoder.step([row.generated[-1] for row in rows], lengths, self._cache)
        self.counters.steps += 1
        self.counters.step_rows += len(rows)
        for slot in self._extend(rows, logits.float()):
            self._cache.wipe(slot)

    def _extend(self, rows: Sequence[Row], logits: Tensor) -> list[int]:
        """Pick the next token of each row from `logits` [n, V] float32; return the indices of broken rows."""
        settings = [row.job.sampling for row in rows]
        tokens, peaks = choose(logits, settings, [row.key() for row in rows])
        picked = tokens.tolist()
        finite = peaks.isfinite().tolist()
        watched = [i for i, chosen in enumerate(settings) if chosen.logprobs is not None and finite[i]]
        values: dict[int, TokenLogprob] = {}
        if watched:
            top = max(settings[i].logprobs or 0 for i in watched)
            found = logprobs_of(logits[watched], [picked[i] for i in watched], top=top)
            values = {
                i: value.keep(settings[i].logprobs or 0) for i, value in zip(watched, found, strict=True)
            }
        for i, row in enumerate(rows):
            if finite[i]:
                value = values.get(i)
                row.take(
                    picked[i],
                    value and TokenLogprob(value.id, value.logprob, value.top[: settings[i].logprobs]),
                )
            else:
                row.fail(
                    ModelError(
                        f"expected finite logits, found {float(peaks[i])} after {len(row.context)} tokens. "
                        "Load the model with dtype=float32 or bfloat16"
                    )
                )
        return [i for i, fine in enumerate(finite) if not fine]

    def _retire(self) -> None:
        """Drop rows that are done; the last row takes the place of one that leaves."""
        for slot in reversed(range(len(self._live))):
            if self._live[slot].done:
                last = self._live.pop()
                if slot < len(self._live):
                    self._cache.move(len(self._live), slot, last.length)
                    self._live[slot] = last
        if any(entry.row.done for entry in self._ready):
            self._ready = deque(entry for entry in self._ready if not entry.row.done)

    def _shrink(self, concerned: list[Row], error: Exception) -> None:
        """Start every row again from what it has, with half the slots, cache and prefill."""
        if self.slots == 1:
            message = f"expected memory for at least one row, found too little ({error}). Use a smaller dtype"
            for row in concerned:
                row.fail(ModelError(message))
        rows = [*self._live, *(entry.row for entry in self._ready), *concerned]
        self._live, self._ready = [], deque()
        self.slots = max(1, self.slots // 2)
        self.prefill_tokens = max(256, self.prefill_tokens // 2)
        self._cache = SlotCache(slots=self.slots, capacity=max(1, self._cache.capacity // 2))
        again = [row for row in dict.fromkeys(rows) if not row.done]
        self._waiting.extendleft(reversed(share(again)))
        self.counters.restarts += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory: %d rows start again, now with %d slots", len(again), self.slots)
