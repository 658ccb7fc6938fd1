"""Judging a finished run again: other judges, the same replies, no model; and how far to trust each judge.

Reads the logs of a run, asks judges about every reply in them, and sets all judges side by
side; with a truth (a judge that knows, or labels that a person gave) it says how often each
one errs. The run itself is left as it is: what is found is a run of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from inspect_ai import score_async
from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log
from inspect_ai.model import get_model

from safedepth.data import file_sha256
from safedepth.data.labels import read_labels
from safedepth.errors import DataError, RunError
from safedepth.judges import judged, require_judges
from safedepth.judges.reference import described, judge_name
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.calibrating import (
    agreement_block,
    calibration_block,
    rates_by_class,
    require_known,
    truth_of_judge,
)
from safedepth.studies.replies import replies_of

__all__ = ["JudgingConfig", "judge_again", "logged_replies"]

UNUSED = {
    "unlabelled": "nothing was said of these replies, and they count nowhere",
    "unmatched": "they are of no reply in this run, and count nowhere",
}

HARMLESS_TASKS = ("benign", "downstream")
"""Inspect tasks whose requests are nobody's harm: judges of harm are asked about them when told to."""


@dataclass(frozen=True)
class JudgingConfig:
    """Everything a second judging depends on; stored whole as `config.json`.

    `run` is the folder of a finished run. `truth` names a judge that is taken for right, `labels` a file
    of a person's; one of them at most. `attacks` are names to judge alone, all that attack where it is empty.
    """

    run: str
    judges: tuple[str, ...]
    truth: str | None = None
    labels: str | None = None
    attacks: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.truth and self.labels:
            raise DataError(
                "expected one truth, found two: a judge (--truth) and labels (--labels). Choose one"
            )

    @property
    def asked(self) -> tuple[str, ...]:
        """The judges to ask: those named, and the one that is taken for right."""
        return tuple(dict.fromkeys([*self.judges, *([self.truth] if self.truth else [])]))


def judge_again(config: JudgingConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Judge the replies of `config.run` again into the run directory `out`; a repeated command resumes.

    Raises JudgeError or DataError for judges, labels and options that cannot be used, RunError for a
    run without logs.
    """
    source = RunDirectory.read(config.run)
    require_judges(config.asked)
    logs = list(_logs(source, config.attacks))
    labels = read_labels(config.labels) if config.labels else None
    if labels is not None:  # those of another run are to be known before any judge is asked
        require_known(_replies_of(logs), labels, str(config.labels))
    record = asdict(config) | {"kind": "judge", "run_created": source.begun["created"]}
    if config.labels:
        record["labels_sha256"] = file_sha256(config.labels)
    with RunDirectory.open(out, record) as run:
        done, total = 0, sum(len(log.samples or []) for _, log in logs)

        def sample_done() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress("replies judged", done, total)

        tables = [
            run.measurement(
                f"verdicts-{index}",
                lambda model=model, log=log: _judged(log, model, config.asked, sample_done),  # type: ignore[misc]
            )
            for index, (model, log) in enumerate(logs)
        ]
        replies = run.measurement("replies", lambda: pd.concat(tables, ignore_index=True))
        truth = labels if config.truth is None else truth_of_judge(replies, judge_name(config.truth))
        run.write_summary(_summary(config, source, run.begun["created"], replies, truth))
        run.finish()
    return out


def logged_replies(run: str | Path, attacks: tuple[str, ...] = ()) -> pd.DataFrame:
    """The replies in a run's logs, to these attacks or all, with the verdicts they have (`replies_of`)."""
    return _replies_of(_logs(RunDirectory.read(run), attacks))


def _replies_of(logs: Iterable[tuple[str, EvalLog]]) -> pd.DataFrame:
    return pd.concat([replies_of([log], model) for model, log in logs], ignore_index=True)


def _logs(source: RunDirectory, attacks: tuple[str, ...]) -> Iterator[tuple[str, EvalLog]]:
    """(Model, log) of every evaluation whose replies were judged for harm, in the order of their paths."""
    found = [Path(info.name.removeprefix("file://")) for info in list_eval_logs(str(source.logs.resolve()))]
    kept: list[tuple[str, EvalLog]] = []
    for path in sorted(found):
        log = read_eval_log(str(path))
        wanted = log.status == "success" and any(s.name.endswith("judged") for s in log.eval.scorers or [])
        if not wanted or (not attacks and log.eval.task.rpartition("/")[2] in HARMLESS_TASKS):
            continue
        if attacks:
            log.samples = [s for s in log.samples or [] if s.metadata.get("attack") in attacks]
        if log.samples:
            role = path.parent.relative_to(source.logs.resolve()).as_posix()
            kept.append((log.eval.model if role == "." else role, log))
    if not kept:
        among = f" of the attacks {', '.join(attacks)}" if attacks else ""
        raise RunError(
            f"expected judged replies{among} in the logs of {source.path}, found none. Name the folder of a "
            "finished run with its logs/ (a run that was shared without its replies cannot be judged)"
        )
    yield from kept


def _judged(
    log: EvalLog, model: str, judges: tuple[str, ...], sample_done: Callable[[], None]
) -> pd.DataFrame:
    """The replies of one log with the verdicts of these judges, and the log's own of other judges."""
    samples = log.samples or []

    @asynccontextmanager
    async def one(index: int) -> AsyncIterator[EvalSample]:
        yield samples[index]
        sample_done()

    bare = copy(log)
    bare.eval = log.eval.model_copy(update={"model_roles": None})  # an attacker is not loaded for its words
    asyncio.run(
        score_async(
            bare, judged(list(judges)), action="append", display="none", copy=False, samples=one,
            model=get_model("none"),
        )
    )  # fmt: skip
    table = replies_of([bare], model)
    place = [name for name in table.columns if name not in ("score", "outcome", "reason")]
    return table.drop_duplicates(place, keep="last", ignore_index=True)


def _summary(
    config: JudgingConfig,
    source: RunDirectory,
    created: str,
    replies: pd.DataFrame,
    truth: pd.DataFrame | None,
) -> dict[str, Any]:
    before = source.summary() if source.is_finished else {}
    kind = str(source.config.get("kind", ""))
    names = list(dict.fromkeys([*map(judge_name, config.asked), *replies["judge"]]))
    references = {judge_name(reference): reference for reference in config.asked}
    calibration, warnings = None, []
    if truth is not None:
        told = f"labels {Path(config.labels).name}" if config.labels else judge_name(str(config.truth))
        calibration = calibration_block(replies, truth, truth_name=told)
        for what in ("unlabelled", "unmatched"):
            if calibration[what]:
                warnings.append(f"{calibration[what]} of the truths are {what}: {UNUSED[what]}.")
    else:
        warnings.append(
            "Nothing says which judge is right: with --truth JUDGE, or --labels FILE of a slice that a "
            "person labelled (--to-label FILE writes one), their errors are measured and the rates corrected."
        )
    return {
        "kind": "judge",
        "created": created,
        "seeds": [config.seed],
        "run": {"name": source.path.resolve().name, "kind": kind, "created": source.begun["created"]},
        "models": before.get("models", {}),
        "judge": judge_name(config.judges[0]),
        "judges": [described(references.get(name, name)) for name in names],
        "rates": summary.rates_of(replies),
        "agreement": agreement_block(replies),
        "classes": rates_by_class(replies),
        "calibration": calibration,
        "depth": {},
        "not_measured": [],
        "warnings": warnings,
    }
