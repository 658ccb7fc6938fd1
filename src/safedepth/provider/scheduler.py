"""Which rows run: they wait in groups that share a prefill, fill slots, decode together, retire.

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

from safedepth.errors import ModelError
from safedepth.provider.cache import SlotCache
from safedepth.provider.decoder import Decoder, is_out_of_memory
from safedepth.provider.jobs import TokenLogprob
from safedepth.provider.logprobs import logprobs_of
from safedepth.provider.prefill import LOGITS_TILE, prefill
from safedepth.provider.prefixes import PrefixStore, Stored
from safedepth.provider.rows import Row
from safedepth.provider.sampling import choose
from safedepth.provider.sharing import Group, share

__all__ = ["Counters", "Scheduler"]

logger = logging.getLogger(__name__)


@dataclass
class Counters:
    """What the engine has done: how well prefills were shared and slots filled.

    `prefill_tokens` of all the `asked_tokens` of the rows' contexts were computed, the
    others shared; `step_rows / steps` rows were decoded together on average;
    `restarts` counts how often memory ran out.
    """

    prefills: int = 0
    prefill_tokens: int = 0
    asked_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class _Ready:
    """A row of whose context the first `length` tokens have keys and values in `stored`."""

    row: Row
    stored: Stored
    length: int


class Scheduler:
    """Rows of `decoder` in up to `slots` slots and `capacity` cached tokens."""

    def __init__(self, decoder: Decoder, *, slots: int, prefill_tokens: int, capacity: int) -> None:
        self.decoder = decoder
        self.slots = slots
        self.prefill_tokens = prefill_tokens
        self.counters = Counters()
        self._cache = SlotCache(slots=slots, capacity=capacity)
        self._prefixes = PrefixStore(capacity=capacity // 4)
        self._waiting: deque[Group[Row]] = deque()
        self._ready: deque[_Ready] = deque()
        self._live: list[Row] = []

    @property
    def busy(self) -> bool:
        """Whether any row is under way."""
        return bool(self._waiting or self._ready or self._live)

    def add(self, rows: Sequence[Row]) -> None:
        """Queue rows; those that lie inside one another will share a prefill.

        Short ones go first: rows that run together all pay attention to as many
        columns as the longest of them has.
        """
        self._waiting.extend(sorted(share(rows), key=lambda group: len(group.ids)))

    @property
    def resting(self) -> bool:
        """Whether no memory is held for rows."""
        return self._cache.shape == (0, 0) and self._prefixes.empty

    def rest(self) -> None:
        """Give back the memory held for rows while nothing runs."""
        self._cache.release()
        self._prefixes.clear()

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
        """Take groups from the queue that fill the free slots; those known already are ready at once.

        The others come back, padded to no more than the token limit, to be prefilled.
        """
        groups: list[Group[Row]] = []
        wanted = self.slots - len(self._live)
        longest = 0
        while self._waiting and wanted > 0:
            group = self._waiting[0]
            group.rows[:] = [row for row in group.rows if not row.done]
            known = self._known(group)
            if group.rows and not known:
                longest = max(longest, len(group.ids))
                if groups and longest * (len(groups) + 1) > self.prefill_tokens:
                    break
                groups.append(group)
            self._ready.extend(known)
            self._waiting.popleft()
            wanted -= len(group.rows)
        return groups

    def _known(self, group: Group[Row]) -> list[_Ready]:
        """The group's rows, if stored prefixes leave so little that stepping is cheaper than a prefill."""
        if any(row.wants_prompt or not row.limit for row in group.rows):
            return []
        stored, shared = self._prefixes.find(group.ids)
        # The last token has to be run in any case, for its logits.
        contexts = [len(row.context) for row in group.rows]
        lengths = [min(shared, length - 1) for length in contexts]
        rest = sum(contexts) - sum(lengths)
        if stored is None or rest > len(group.ids) // 4:
            return []
        self.counters.prefill_tokens += rest
        self.counters.asked_tokens += sum(contexts)
        return [_Ready(row, stored, length) for row, length in zip(group.rows, lengths, strict=True)]

    def _prefill(self, groups: list[Group[Row]]) -> None:
        """Run each group's longest context once; give every row what it asked for and its next token."""
        found = prefill(self.decoder, groups, tokens=self.prefill_tokens)
        stored = self._prefixes.add([group.ids for group in groups], found.cache)
        self.counters.prefills += 1
        self.counters.prefill_tokens += sum(len(group.ids) for group in groups)
        self.counters.asked_tokens += sum(len(row.context) for group in groups for row in group.rows)
        entries = [(row, source) for source, group in enumerate(groups) for row in group.rows]
        for row, source in entries:
            if row.wants_prompt:
                row.prompt_logprobs = found.score(source, row)
            if not row.limit:
                row.finish()
        entries = [(row, source) for row, source in entries if not row.done]
        lengths = [len(row.context) for row, _ in entries]
        size = max(1, LOGITS_TILE // self.decoder.vocabulary)
        for start in range(0, len(entries), size):
            part = entries[start : start + size]
            logits = torch.stack([found.next_logits[source, len(row.context)] for row, source in part])
            self._extend([row for row, _ in part], logits)
        self._ready.extend(
            _Ready(row, stored[source], length)
            for (row, source), length in zip(entries, lengths, strict=True)
            if not row.done
        )

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
        first = len(self._live)
        self._live = [*self._live, *(entry.row for entry in entries)]
        for entry in entries:
            entry.row.cached = entry.length
        columns = max(row.cached for row in self._live) + 1
        self._cache.reserve(len(self._live), columns, most=most, like=entries[0].stored.cache)
        for slot, entry in enumerate(entries, start=first):
            self._cache.load(slot, entry.stored.cache, entry.stored.source, entry.length)

    def _step(self) -> None:
        """Run one token of every row; rows all of whose tokens have been run get their next one."""
        rows = self._live
        lengths = [row.cached for row in rows]
        self._cache.reserve(len(rows), max(lengths) + 1, most=max(row.most for row in rows))
        logits = self.decoder.step([row.next_input for row in rows], lengths, self._cache)
        self.counters.steps += 1
        self.counters.step_rows += len(rows)
        for row in rows:
            row.cached += 1
        slots = [slot for slot, row in enumerate(rows) if row.complete]
        if slots:
            logits = logits if len(slots) == len(rows) else logits[slots]
            self._extend([rows[slot] for slot in slots], logits.float())

    def _extend(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Pick the next token of each row from `logits` [n, V] float32; rows without numbers fail."""
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
                row.take(picked[i], values.get(i))
            else:
                row.fail(
                    ModelError(
                        f"expected finite logits, found {float(peaks[i])} after {len(row.context)} tokens. "
                        "Load the model with dtype=float32 or bfloat16"
                    )
                )

    def _retire(self) -> None:
        """Drop rows that are done; the last row takes the place of one that leaves."""
        for slot in reversed(range(len(self._live))):
            if self._live[slot].done:
                last = self._live.pop()
                if slot < len(self._live):
                    self._cache.move(len(self._live), slot, last.cached)
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
        self._prefixes = PrefixStore(capacity=self._cache.capacity // 4)
        again = [row for row in dict.fromkeys(rows) if not row.done]
        self._waiting.extendleft(reversed(share(again)))
        self.counters.restarts += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory: %d rows start again, now with %d slots", len(again), self.slots)
