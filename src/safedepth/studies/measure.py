"""Measure: how far a model is from its base, token by token along harmful answers, and nothing else.

No generation, no judge: per-token KL, log-probabilities of the answers under both models, depth
by KL, and how much of it rounding could be. One model at a time is in memory; any number of
processes share the work, and a repeated command resumes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.data import Source, read_prompts, source_of
from safedepth.errors import DataError
from safedepth.measure import depth, statistics
from safedepth.models import load_chat
from safedepth.models.adapters import model_folder
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.divergence import answer_batches, series_of
from safedepth.studies.measure_tables import (
    EXACT,
    ROLES,
    Measurer,
    cards_of,
    changed_share,
    floor_of,
    whole_tables,
)
from safedepth.studies.processes import Processes
from safedepth.studies.shared_run import shared_run

__all__ = ["MeasureConfig", "measure"]


@dataclass(frozen=True)
class MeasureConfig:
    """Everything a measurement depends on; stored whole as `config.json`.

    `tokens` keeps the first of every answer's tokens. `precision_floor` measures each model against
    itself in float32 as well.
    """

    model: str
    base: str
    prompts: str
    limit: int | None = None
    tokens: int | None = None
    precision_floor: bool = False
    seed: int = 0
    chat_template: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    @property
    def names(self) -> dict[str, str]:
        """Path or hub id by role."""
        return dict(zip(ROLES, (self.model, self.base), strict=True))

    @property
    def lender(self) -> str:
        """Whose chat template the base model reads: both must see the same tokens."""
        return self.chat_template or self.model


def measure(config: MeasureConfig, out: Path, *, progress: Progress | None = None) -> Path | None:
    """Run or resume in `out`; returns the run directory, or None in a process that is not the main one.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can be
    seen there.
    """
    with Processes.joined(device=config.device) as processes:
        source, batches = processes.agreed(lambda: _checked(config, processes))
        record = asdict(config) | {"kind": "measure", "prompts_sha256": source.sha256}
        with shared_run(processes, out, record) as shared:
            tables = whole_tables(shared.path, len(batches), floor=config.precision_floor)
            Measurer(config, processes, batches, tables, progress).work(shared.missing(tables))
            merged = shared.merged(tables)
            if shared.directory is None:
                return None
            whole = _summary(config, shared.directory, source, merged)
            shared.directory.write_summary(whole | {"processes": processes.count})
            shared.directory.finish()
            return out


def _checked(config: MeasureConfig, processes: Processes) -> tuple[Source, list[Any]]:
    """The source and batches of answers. Raises DataError, ModelError, TemplateError for what cannot work."""
    processes.device(config.device)
    if config.tokens is not None and config.tokens < 1:
        raise DataError(f"expected --tokens of at least 1, found {config.tokens}")
    for name in config.names.values():
        if not Path(name).expanduser().exists():
            _refuse_served(name)
        model_folder(name)  # a folder that holds no model is not to be told that it has no tokenizer
    source = source_of(config.prompts)
    prompts = read_prompts(config.prompts, limit=config.limit)
    chat = load_chat(config.model, chat_template=config.chat_template)
    load_chat(config.base, chat_template=config.lender)
    return source, answer_batches(chat, prompts, tokens=config.tokens)


def _refuse_served(name: str) -> None:
    from safedepth.studies.target import is_served  # Inspect takes seconds to import, and is not needed here

    if is_served(name):
        raise DataError(
            f"expected a folder or hub id, found {name}, which is reached through a server: "
            "the KL needs whole distributions, and servers tell a few of the likeliest tokens"
        )


def _summary(
    config: MeasureConfig, run: RunDirectory, source: Source, tables: dict[str, pd.DataFrame]
) -> dict[str, Any]:
    cards, kl, seed = cards_of(tables["models"]), tables["kl"], config.seed
    floors = {role: tables[floor_of(role)] for role in ROLES if config.precision_floor}
    return {
        "kind": "measure",
        "created": run.begun["created"],
        "seeds": [seed],
        "models": cards,
        "judge": None,
        "kl": _kl_entry(kl, seed),
        "depth": summary.depth_entries(depth.kl_depth(series_of(kl), seed=seed)),
        "rates": [],
        "answers": _answers(tables["answers"], seed),
        "precision": [
            {
                "model": role,
                "dtype": cards[role]["dtype"],
                "kl": _kl_entry(table, seed),
                "argmax_changed": summary.entry_of(changed_share(table)),
            }
            for role, table in floors.items()
            if len(table)
        ]
        or None,
        "sources": {"prompts": source.entry},
        "not_measured": [
            {"what": f"precision of the {role} model", "why": f"it was measured in {EXACT} itself"}
            for role, table in floors.items()
            if table.empty
        ],
        "warnings": list(source.warnings),
    }


def _kl_entry(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    return summary.kl_summary(series_of(table, tokens=summary.KL_TOKENS), seed=seed)


def _answers(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Mean log-probability of the answers' tokens by model and position, with intervals over prompts."""
    entries = []
    for role in ROLES:
        own = table[table["model"] == role].rename(columns={"log_prob": "kl"})
        means = statistics.mean_by_position(series_of(own, tokens=summary.KL_TOKENS), seed=seed)
        entries += [
            {"model": role, "position": position, **asdict(mean)}
            for position, mean in enumerate(means, start=1)
        ]
    return entries
