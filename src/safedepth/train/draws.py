"""What each training step sees: a plan in which every example is a function of its number.

Draw i belongs to step i // (S + A); its place in the step says whether it is a safety
example or an anchor, and the seed decides which one, where it turns back and what it
says. So nothing has to be remembered to resume, to count or to look at step 117, and
every split over batches and processes trains on the same examples.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from safedepth.chat import ChatFormat
from safedepth.errors import DataError
from safedepth.nouns import Anchor, Triplet
from safedepth.train.examples import (
    Example,
    Opened,
    anchor_example,
    opened_anchor,
    opened_triplet,
    safety_example,
)
from safedepth.train.options import Mix
from safedepth.train.recovery import AdaptiveRecovery, RecoveryPolicy, points_of
from safedepth.train.styles import RefusalStyle

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped]

__all__ = ["Draw", "Draws"]


@dataclass(frozen=True)
class Draw:
    """One example of one step; `row` indexes the triplets or the anchors."""

    step: int
    safety: bool
    row: int
    points: tuple[int, ...]
    example: Example


class Draws:
    """All examples of a training run of `steps` optimiser steps, each made when it is asked for.

    Raises DataError or TemplateError, naming the row, for data that cannot be used with this
    tokenizer and template; ahead of any training.
    """

    def __init__(
        self,
        chat: ChatFormat,
        triplets: Sequence[Triplet],
        anchors: Sequence[Anchor],
        *,
        mix: Mix,
        steps: int,
        seed: int,
        recovery: RecoveryPolicy | AdaptiveRecovery,
        style: RefusalStyle,
        longest: int = 100,
        max_length: int | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        if not triplets or (mix.anchors and not anchors):
            raise DataError(
                f"expected triplets and anchors to train on, found {len(triplets)} and {len(anchors)}. "
                "Anchors keep the model useful: give a file, or --anchors self --anchor_prompts FILE"
            )
        self.chat, self.mix, self.steps, self.seed = chat, mix, steps, seed
        self.triplets, self.anchors = tuple(triplets), tuple(anchors)
        self.recovery, self.style, self.max_length = recovery, style, max_length
        total = len(triplets) + len(anchors)
        self._harmful: list[Opened] = []
        self._benign: list[Opened] = []
        for triplet in triplets:
            opened = opened_triplet(chat, triplet)
            self._harmful.append(opened)
            progress(len(self._harmful), total)
        for anchor in anchors:
            self._benign.append(opened_anchor(chat, anchor))
            progress(len(self._harmful) + len(self._benign), total)
        if max_length is not None:
            self._require_room(max_length, longest)

    def __len__(self) -> int:
        return self.steps * self.mix.size

    @property
    def opened_triplets(self) -> Sequence[Opened]:
        """Prompts and harmful answers of the triplets as token ids."""
        return self._harmful

    @property
    def cut_anchors(self) -> int:
        """How many anchors are cut at `max_length`."""
        end = len(self.chat.turn_end_ids)
        limit = self.max_length
        if limit is None:
            return 0
        return sum(len(opened.prompt) + len(opened.answer) + end > limit for opened in self._benign)

    def draw(self, number: int) -> Draw:
        """Example `number` of the run; the same number gives the same example."""
        step, place = divmod(number, self.mix.size)
        safety, index = self.mix.kind(place)
        per_step = self.mix.safety if safety else self.mix.anchors
        row = self._row(safety, step * per_step + index)
        if not safety:
            example = anchor_example(self.chat, self._benign[row], max_length=self.max_length)
            return Draw(step, False, row, (), example)
        triplet, opened = self.triplets[row], self._harmful[row]
        rng = random.Random(f"{self.seed} recovery {number}")
        policy = self.recovery.at(step) if isinstance(self.recovery, AdaptiveRecovery) else self.recovery
        points = points_of(policy, rng, len(opened.answer))
        refusals = [self.style(triplet, k) for k in points]
        example = safety_example(self.chat, opened, points, refusals)
        if self.max_length is not None and len(example.ids) > self.max_length:
            raise DataError(
                f"expected triplet {triplet.id!r} to fit into {self.max_length} tokens, found an example of "
                f"{len(example.ids)}: the recovery policy went {points[-1]} tokens deep, beyond `longest`"
            )
        return Draw(step, True, row, points, example)

    def dataset(self) -> Dataset:
        """The run as a `datasets.Dataset` of its numbers, each turned into an example when it is read.

        Columns: input_ids, labels, safety. Read it in order.
        """
        from datasets import Dataset

        return Dataset.from_dict({"draw": range(len(self))}).with_transform(self._rows)

    def _rows(self, numbers: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        drawn = [self.draw(number) for number in numbers["draw"]]
        return {
            "input_ids": [list(draw.example.ids) for draw in drawn],
            "labels": [list(draw.example.labels) for draw in drawn],
            "safety": [draw.safety for draw in drawn],
        }

    def _row(self, safety: bool, nth: int) -> int:
        """The row that comes `nth` of its kind: one order of all rows after another, each of its own."""
        count = len(self._harmful if safety else self._benign)
        return _order(f"{self.seed} {'safety' if safety else 'anchors'} {nth // count}", count)[nth % count]

    def _require_room(self, tokens: int, longest: int) -> None:
        """Raise DataError unless every triplet, its refusal whole, and every anchor's prompt fit `tokens`."""
        cure = "Raise --max_length if the model's context permits it, or shorten the row"
        for triplet, opened in zip(self.triplets, self._harmful, strict=True):
            # The deepest point at which each text is said.
            texts = {self.style(triplet, k): k for k in range(min(longest, len(opened.answer)) + 1)}
            said = max(
                k + len(self.chat.continuation_ids(opened.answer[:k], text)) for text, k in texts.items()
            )
            needed = len(opened.prompt) + said + len(self.chat.turn_end_ids)
            if needed > tokens:  # a refusal that is cut off would be learnt without its end
                raise DataError(
                    f"expected triplet {triplet.id!r} to fit into {tokens} tokens, found that prompt, "
                    f"harmful prefix and refusal take up to {needed}. {cure}, or lower --longest_prefix"
                )
        for anchor, opened in zip(self.anchors, self._benign, strict=True):
            if len(opened.prompt) >= tokens:
                raise DataError(
                    f"expected anchor {anchor.id!r} to leave room for its answer within {tokens} tokens, "
                    f"found a prompt of {len(opened.prompt)}. {cure}"
                )


@lru_cache(maxsize=8)
def _order(name: str, count: int) -> tuple[int, ...]:
    rows = list(range(count))
    random.Random(name).shuffle(rows)
    return tuple(rows)
