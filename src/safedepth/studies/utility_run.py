"""The utility of one model: lm-eval's tasks, benign requests, XSTest, AlpacaEval.

What is measured is not measured again: every task and all replies are tables of the run. A model
behind a server is asked requests; lm-eval needs the model itself.

    OUT/measurements/    documents of lm-eval's tasks, judged replies, AlpacaEval's preferences
    OUT/alpaca/          the instructions, the model's outputs in AlpacaEval's format, annotations
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safedepth.data import Source, source_of
from safedepth.errors import DataError
from safedepth.judges import require_judges
from safedepth.judges.utility import metric_for
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.studies.deepen_options import named_files
from safedepth.studies.harness_rates import folder_sha256, harness_entries, harness_notes, harness_table
from safedepth.studies.servers import keep_servers, recorded, require_known, served_notes, servers_block
from safedepth.studies.target import Target, open_target, servers_of
from safedepth.studies.utility_requests import (
    SAFE,
    UNSAFE,
    Requests,
    answer_entries,
    request_entries,
    type_entries,
)
from safedepth.studies.utility_wins import Wins
from safedepth.utility import Harness, HarnessOptions

__all__ = ["UtilityConfig", "utility"]

MODEL = "model"
PLAIN = "lm-eval's tasks were asked as bare text, without the model's chat format (--plain)."


@dataclass(frozen=True)
class UtilityConfig:
    """Everything a look at utility depends on; stored whole as `config.json`.

    `benign` are sources of benign requests, SOURCE or NAME=SOURCE. With `metric`, their replies are
    also compared with the answers beside them. `limit` is for requests; lm-eval's is in `harness`.
    """

    model: str
    harness: HarnessOptions | None = None
    benign: tuple[str, ...] = ()
    xstest: str | None = None
    judges: tuple[str, ...] = ("rules",)
    metric: str | None = None
    alpaca: str | None = None
    annotators: str | None = None
    limit: int | None = None
    seed: int = 0
    max_tokens: int | None = None
    servers: tuple[str, ...] = ()
    chat_template: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if not (self.harness or self.benign or self.xstest or self.alpaca):
            raise DataError(
                "expected something to measure, found nothing: --tasks mmlu,gsm8k (lm-eval), --benign FILE, "
                "--xstest FILE or --alpaca FILE"
            )
        if (self.alpaca is None) != (self.annotators is None):
            raise DataError("expected --alpaca FILE and --annotators CONFIG together, found one of them")
        if self.metric is not None:
            metric_for("", self.metric)
            if not self.benign:
                raise DataError("expected --benign FILE with --metric: requests with their right answers")

    @property
    def sets(self) -> dict[str, str]:
        """Name -> source of the benign requests; errors as `named_files`."""
        return named_files(self.benign, taken=("prefill", SAFE, UNSAFE))

    @property
    def requests(self) -> Requests:
        """What is asked and judged."""
        xstest = self.xstest
        if xstest is not None and not xstest.startswith("xstest"):
            xstest = f"xstest:{xstest}"
        return Requests(
            self.sets, xstest, tuple(dict.fromkeys(("rules", *self.judges))), self.metric, self.limit,
            self.seed, self.max_tokens,
        )  # fmt: skip


def utility(config: UtilityConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume in `out`; returns the run directory.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can be
    seen there: unknown tasks, data out of reach, code without consent, files that cannot be used.
    """
    requests = config.requests
    require_judges(requests.judges)
    requests.check()
    sources = {name: source_of(spec) for name, spec in requests.sources.items()}
    sources |= {"AlpacaEval": source_of(config.alpaca)} if config.alpaca else {}
    wins = Wins.of(config.alpaca, config.annotators, limit=config.limit, max_tokens=config.max_tokens)
    harness = None if config.harness is None else Harness.of(config.harness)
    require_known(config.servers, (config.model,))
    with closing(
        open_target(
            config.model,
            servers=servers_of(config.servers, config.model, first=True),
            chat_template=config.chat_template,
            dtype=config.dtype,
            device=config.device,
        )
    ) as target:
        requests.require_room(target)
        # Only now: a folder that was begun with a mistake in it would refuse the corrected command.
        with RunDirectory.open(out, recorded(asdict(config)) | _record(config, sources)) as run:
            keep_servers(run, MODEL, target)
            parts = [
                _lm_eval(config, run, target, harness, progress),
                _asked(run, target, requests, progress),
                _won(run, target, wins, config, progress),
            ]
            served = servers_block({MODEL: target})
            run.write_summary(_summary(run, config, target, sources, parts) | served)
            run.finish()
    return out


def _record(config: UtilityConfig, sources: Mapping[str, Source]) -> dict[str, Any]:
    """The kind, and the hashes of all files: what a resumed run must agree with."""
    hashes = {name: source.sha256 for name, source in sources.items()}
    folder = config.harness.include_path if config.harness else None
    hashes |= {"tasks": folder_sha256(folder)} if folder else {}
    return {"kind": "utility", "sha256": hashes}


def _lm_eval(
    config: UtilityConfig, run: RunDirectory, target: Target, harness: Harness | None,
    progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """lm-eval's numbers, or why there are none."""
    if harness is None:
        return {"not_measured": [_missing("lm-eval's tasks", "none were named (--tasks)")]}
    if target.loaded is None:
        why = f"{target.name} is reached through a server, and lm-eval asks the model itself"
        return {"not_measured": [_missing(f"lm-eval: {task}", why) for task in harness.options.tasks]}
    table = harness_table(run, MODEL, target.loaded, harness, progress=progress)
    entries = harness_entries(table, model=MODEL, seed=config.seed)
    notes = harness_notes(table)
    if not harness.options.chat_template:
        notes.insert(0, PLAIN)
    return {
        "harness": [entry | {"chat_template": harness.options.chat_template} for entry in entries],
        "warnings": notes,
    }


def _asked(
    run: RunDirectory, target: Target, requests: Requests, progress: Progress | None
) -> dict[str, Any]:
    """What judges say of the replies to benign requests and to XSTest's prompts."""
    missing = []
    if requests.xstest is None:
        missing.append(_missing("over-refusal on XSTest", "the file was not given (--xstest)"))
    if not (requests.benign or requests.xstest):
        return {"not_measured": missing}
    table = run.measurement("replies", lambda: requests.replies(run, target, MODEL, progress=progress))
    return {
        "requests": [
            *request_entries(requests, table, model=MODEL),
            *answer_entries(requests, table, model=MODEL, seed=requests.seed),
        ],
        "by_type": type_entries(requests, table, model=MODEL),
        "not_measured": missing,
    }


def _won(
    run: RunDirectory, target: Target, wins: Wins | None, config: UtilityConfig, progress: Progress | None
) -> dict[str, Any]:
    """AlpacaEval's win rate, or that it was not asked for."""
    if wins is None:
        return {"not_measured": [_missing("AlpacaEval", "no instructions were given (--alpaca)")]}
    table = wins.table(run, target, seed=config.seed, progress=progress)
    entry, notes = wins.entry(table, seed=config.seed)
    return {"alpaca": entry, "not_measured": notes}


def _missing(what: str, why: str) -> dict[str, str]:
    return {"what": what, "why": why}


def _summary(
    run: RunDirectory, config: UtilityConfig, target: Target, sources: Mapping[str, Source],
    parts: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    told = [note for source in sources.values() for note in source.warnings]

    def all_of(key: str) -> list[Any]:
        return [entry for part in parts for entry in part.get(key, ())]

    return {
        "kind": "utility",
        "created": run.begun["created"],
        "seeds": [config.seed],
        "models": {MODEL: target.card},
        "judge": "rules",
        "harness": all_of("harness"),
        "requests": all_of("requests"),
        "by_type": all_of("by_type"),
        "alpaca": next((part["alpaca"] for part in parts if "alpaca" in part), None),
        "sources": {name: source.entry for name, source in sources.items()},
        "not_measured": all_of("not_measured"),
        "warnings": [
            *dict.fromkeys(told),
            *all_of("warnings"),
            *served_notes({MODEL: target}, sampled=False, top_k=False),
        ],
    }
