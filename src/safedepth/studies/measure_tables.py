"""The tables of `measure`: what each model says of the answers, and how far two of them are apart.

A model is read once: hidden states before the answers' tokens and the head that turns them
into logits are kept, in main memory, and the model is let go. All numbers follow from these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from safedepth.measure.kl import token_kl
from safedepth.measure.log_probs import likeliest, token_log_probs
from safedepth.measure.statistics import clustered_rate
from safedepth.models import LoadedModel, head_of, load_model, require_same_vocabulary
from safedepth.nouns import Head, ModelCard, Outcome, Progress, Rate
from safedepth.runs import Chunks
from safedepth.studies.divergence import Answer, answer_states, places_of
from safedepth.studies.processes import Processes, dealt
from safedepth.studies.training import free_memory

if TYPE_CHECKING:
    from safedepth.chat import ChatFormat
    from safedepth.studies.measure import MeasureConfig
    from safedepth.studies.shared_run import Tables

__all__ = ["EXACT", "ROLES", "Measurer", "cards_of", "changed_share", "floor_of", "whole_tables"]

ROLES = ("aligned", "base")
EXACT = "float32"


@dataclass(frozen=True)
class Reading:
    """What one model says of some batches: hidden states by the batch's number, all in main memory."""

    chat: ChatFormat
    card: ModelCard
    head: Head
    hidden: dict[int, Tensor]

    @property
    def record(self) -> LoadedModel:
        """What is known of the model that was let go, for those who look at no weights."""
        return LoadedModel(cast(Any, None), self.chat, self.card)

    def placed(self) -> Reading:
        """The same with the head where the model was, to compute with."""
        return replace(self, head=_moved(self.head, self.card.device))

    def on(self, index: int) -> tuple[Tensor, Head]:
        """A batch's hidden states [N, d] and the head, in one place."""
        return self.hidden[index].to(self.head.weight.device), self.head


def whole_tables(out: Path, batches: int, *, floor: bool) -> Tables:
    """The measurements of a run with the chunks that each is put together from."""
    several = {
        "answers": [Chunks(out, f"answers-{role}", batches) for role in ROLES],
        "kl": [Chunks(out, "kl", batches)],
    }
    floors = {floor_of(role): [Chunks(out, floor_of(role), batches)] for role in ROLES if floor}
    return several | floors | {"models": [Chunks(out, "models", len(ROLES))]}


class Measurer:
    """This process's share of a measurement, computed and stored piece by piece."""

    def __init__(
        self,
        config: MeasureConfig,
        processes: Processes,
        batches: Sequence[Sequence[Answer]],
        tables: Tables,
        progress: Progress | None,
    ) -> None:
        self._config, self._processes = config, processes
        self._batches, self._progress = batches, progress
        self._chunks = {chunks.name: chunks for parts in tables.values() for chunks in parts}
        self._device = processes.device(config.device)

    def work(self, missing: Collection[tuple[str, int]]) -> None:
        """Compute and store what is missing, as far as it falls to this process.

        Raises ModelError where a model does not load or fit, or the two have different vocabularies.
        """
        mine = dealt(sorted({index for name, index in missing if name != "models"}), self._processes)
        todo = {name: [index for index in mine if (name, index) in missing] for name in self._chunks}
        unnamed = {ROLES[index] for name, index in missing if name == "models" and self._processes.main}
        readings: dict[str, Reading] = {}
        for role in ROLES:
            wanted = sorted({*todo["kl"], *todo[f"answers-{role}"], *todo.get(floor_of(role), ())})
            if not wanted and role not in unnamed:
                continue
            readings[role] = own = self._read(role, wanted, self._config.dtype, f"the {role} model")
            self._store(
                f"answers-{role}", todo[f"answers-{role}"], partial(self._answer_rows, role, own.placed())
            )
            self._store_floor(role, own, todo.get(floor_of(role), ()))
            if role in unnamed:
                card = {"role": role, "card": json.dumps(asdict(own.card), default=dict)}
                self._chunks["models"].store(ROLES.index(role), pd.DataFrame([card]))
        if len(readings) == len(ROLES):
            p, q = (readings[role] for role in ROLES)
            require_same_vocabulary(p.record, q.record)
            self._store("kl", todo["kl"], partial(self._kl_rows, p.placed(), q.placed()))

    def _read(self, role: str, wanted: Sequence[int], dtype: str, what: str) -> Reading:
        config = self._config
        loaded = load_model(
            config.names[role],
            chat_template=config.chat_template if role == ROLES[0] else config.lender,
            dtype=dtype, device=self._device,
        )  # fmt: skip
        head = head_of(loaded.model)
        reading = Reading(loaded.chat, loaded.card, _moved(head, "cpu"), {})
        for done, index in enumerate(wanted, start=1):
            reading.hidden[index] = answer_states(loaded, self._batches[index]).cpu()
            if self._progress is not None:
                self._progress(what, done, len(wanted))
        del loaded, head
        free_memory()
        return reading

    def _store(self, name: str, wanted: Sequence[int], rows: Callable[[int], pd.DataFrame]) -> None:
        """Compute and store these pieces, one after the other."""
        chunks = self._chunks[name]
        for index in wanted:
            chunks.store(index, rows(index))
            if self._progress is not None:
                self._progress(name, chunks.stored(), chunks.count)

    def _answer_rows(self, role: str, own: Reading, index: int) -> pd.DataFrame:
        """What the model thinks of each token of the answers."""
        batch = self._batches[index]
        ids = [token for _, encoded in batch for token in encoded.ids[encoded.response]]
        hidden, head = own.on(index)
        said = token_log_probs(hidden, head, torch.tensor(ids, device=hidden.device))
        table = places_of(own.chat, batch).assign(log_prob=said.double().cpu().numpy())
        table.insert(0, "model", role)
        return table

    def _kl_rows(self, p: Reading, q: Reading, index: int) -> pd.DataFrame:
        """KL(p || q) at each token of the answers."""
        kl = token_kl(*p.on(index), *q.on(index)).cpu().numpy().astype(np.float64)
        return places_of(p.chat, self._batches[index]).assign(kl=kl)

    def _store_floor(self, role: str, own: Reading, wanted: Sequence[int]) -> None:
        """How far the model is from itself in float32; empty where that is what it was read in."""
        if not wanted:
            return
        exact = own
        if own.card.dtype != EXACT:
            exact = self._read(role, wanted, EXACT, f"the {role} model in {EXACT}")

        p, q = exact.placed(), own.placed()

        def rows(index: int) -> pd.DataFrame:
            changed = (likeliest(*p.on(index)) != likeliest(*q.on(index))).cpu().numpy()
            table = self._kl_rows(p, q, index).assign(argmax_changed=changed)
            return table[: 0 if exact is own else None]

        self._store(floor_of(role), wanted, rows)


def floor_of(role: str) -> str:
    """What the table is called that holds how far this model is from itself in float32."""
    return f"precision-{role}"


def _moved(head: Head, device: str) -> Head:
    bias = None if head.bias is None else head.bias.to(device)
    return head._replace(weight=head.weight.to(device), bias=bias)


def cards_of(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Provenance by role, out of the table `models`."""
    return {str(role): json.loads(card) for role, card in zip(table["role"], table["card"], strict=True)}


def changed_share(table: pd.DataFrame) -> Rate:
    """The share of tokens at which another one is the likeliest; those of one prompt are not independent."""
    by_prompt = [
        [Outcome.COMPLIED if changed else Outcome.REFUSED for changed in group]
        for _, group in table.groupby("prompt_id", sort=True)["argmax_changed"]
    ]
    return clustered_rate(by_prompt)
