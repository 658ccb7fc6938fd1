"""The work of `dynamics` once the checkpoints are there, cut into pieces that processes share.

A piece is a few conversations measured in one checkpoint, or the replies of one checkpoint.
A process takes neighbouring pieces, so that it opens few checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from safedepth.measure.gradients import GradientMeter
from safedepth.models import LoadedModel
from safedepth.nouns import Anchor, Progress
from safedepth.runs import Chunks
from safedepth.studies.dynamics_tables import meter_of
from safedepth.studies.processes import dealt
from safedepth.studies.target import Target, open_target

if TYPE_CHECKING:
    from safedepth.studies.dynamics import DynamicsConfig
    from safedepth.studies.shared_run import SharedRun, Tables

__all__ = ["Watcher", "whole_tables"]

ROWS = 8
"""Conversations a piece."""

CARDS = ("before", "after")


def whole_tables(config: DynamicsConfig, out: Path, rows: Sequence[Anchor]) -> Tables:
    """The measurements of a run with the chunks that each is put together from."""
    pieces = -(-len(rows[: config.limit]) // ROWS)
    tables = {f"dynamics-{step}": [Chunks(out, f"dynamics-{step}", pieces)] for step in config.steps}
    if config.battery is not None:
        tables["replies"] = [Chunks(out, f"replies-step-{step}", 1) for step in config.steps]
    return tables | {"models": [Chunks(out, f"card-{role}", 1) for role in CARDS]}


class _Piece(NamedTuple):
    """One piece of the chunks `name`, of the model after `step` steps."""

    step: int
    name: str
    number: int


class Watcher:
    """This process's share of the work, computed and stored piece by piece.

    `places` are the models by step, `measure` is `measure_dynamics`.
    """

    def __init__(
        self,
        config: DynamicsConfig,
        rows: Sequence[Anchor],
        places: Mapping[int, str],
        shared: SharedRun,
        tables: Tables,
        *,
        measure: Callable[..., pd.DataFrame],
        progress: Progress | None,
    ) -> None:
        self._config, self._processes, self._places = config, shared.processes, places
        self._out = shared.path
        self._rows, self._measure, self._progress = rows[: config.limit], measure, progress
        self._chunks = {chunks.name: chunks for parts in tables.values() for chunks in parts}
        self._device = self._processes.device(config.device)

    def work(self, missing: Collection[tuple[str, int]]) -> None:
        """Compute and store what is missing, as far as it falls to this process.

        Raises a SafedepthError as `open_target`, `measure_dynamics` and `Battery.judged` do.
        """
        wanted = [piece for piece in self._pieces() if (piece.name, piece.number) in missing]
        mine = dealt(wanted, self._processes)
        if not mine:
            return
        with closing(self._opened(0)) as before:
            for step in dict.fromkeys(piece.step for piece in mine):
                with ExitStack() as own:
                    after = before if step == 0 else own.enter_context(closing(self._opened(step)))
                    meter = cache(lambda after=after: meter_of(_loaded(after)))
                    for piece in (piece for piece in mine if piece.step == step):
                        table = self._computed(piece, after, before, meter)
                        self._chunks[piece.name].store(piece.number, table)

    def _pieces(self) -> Iterator[_Piece]:
        """All pieces of the run, those of one model together."""
        before, after = (f"card-{role}" for role in CARDS)
        yield _Piece(0, before, 0)
        for step in self._config.steps:
            measured = f"dynamics-{step}"
            yield from (_Piece(step, measured, index) for index in range(self._chunks[measured].count))
            if f"replies-step-{step}" in self._chunks:
                yield _Piece(step, f"replies-step-{step}", 0)
        yield _Piece(self._config.steps[-1], after, 0)

    def _computed(
        self, piece: _Piece, after: Target, before: Target, meter: Callable[[], GradientMeter]
    ) -> pd.DataFrame:
        config, role = self._config, f"step-{piece.step}"
        if piece.name.startswith("card-"):
            card = {"role": piece.name.removeprefix("card-"), "card": json.dumps(after.card, default=dict)}
            return pd.DataFrame([card])
        if piece.name.startswith("replies-"):
            assert config.battery is not None
            return config.battery.judged(role, after, self._out / "logs" / role, progress=self._progress)
        start = piece.number * ROWS
        return self._measure(
            _loaded(after), _loaded(before), self._rows[start : start + ROWS], first=config.first,
            directions=config.directions, seed=config.seed + start, meter=meter(),
            what=f"tokens after step {piece.step}", progress=self._told(start),
        )  # fmt: skip

    def _told(self, start: int) -> Progress | None:
        """The progress of a piece that begins with the conversation `start`, as that of all of them."""
        tell = self._progress
        if tell is None:
            return None
        return lambda what, done, _total: tell(what, start + done, len(self._rows))

    def _opened(self, step: int) -> Target:
        template = self._config.chat_template if step == 0 else None
        return open_target(
            self._places[step], chat_template=template, dtype=self._config.dtype, device=self._device
        )


def _loaded(target: Target) -> LoadedModel:
    assert target.loaded is not None
    return target.loaded
