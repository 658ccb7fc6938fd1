"""A run in the layouts of others: JailbreakBench's artifacts, TamperBench's evaluations.

Takes the judged replies of a run as they are stored and asks no model. Texts of requests and
replies travel only where that is said: hashes stand for them otherwise, as in a shared run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import pandas as pd

from safedepth.data.artifacts import AttackType, Jailbreak, artifact_name, artifact_text
from safedepth.errors import DataError, RunError
from safedepth.nouns import Outcome
from safedepth.runs import RunDirectory
from safedepth.runs.files import explained, to_json, to_parquet
from safedepth.studies import summary
from safedepth.studies.attack_tables import CONTROLS
from safedepth.studies.hiding import hashed, looked_up

__all__ = ["Format", "export"]

PLAIN = "plain"
"""Asking with nothing forced, searched or told: a prefill of no tokens, or a refusal prefix of none."""

BASE = "base"
"""The role of a run's reference model, which nobody attacks."""

KINDS: Mapping[str, AttackType] = {
    "rank_prefill": AttackType.WHITE_BOX,
    "suffix": AttackType.WHITE_BOX,
    "multi_turn": AttackType.MANUAL,
}
"""What attacks need of a model; the others need what it says alone, and where they force, its turn."""

VERDICTS = {Outcome.COMPLIED.value: True, Outcome.REFUSED.value: False}

# TamperBench's evaluation of this name puts StrongREJECT's prompts and scores replies by its rubric.
RUBRIC, RUBRIC_SET, RUBRIC_METRIC = "strong_reject", "strongreject", "strong_reject_score"


class Format(StrEnum):
    """The layouts that a run can be written in."""

    JAILBREAKBENCH = "jailbreakbench"
    TAMPERBENCH = "tamperbench"


@dataclass(frozen=True)
class _Told:
    """One judge's verdicts on one attack on one model, with the goal of every prompt."""

    model: str
    attack: str
    rows: pd.DataFrame
    goals: Mapping[str, str]


@dataclass(frozen=True)
class _Hidden:
    """What stands in place of texts: themselves where they may travel, hashes otherwise."""

    requests: bool
    replies: bool

    def request(self, text: str) -> str:
        return text if self.requests or looked_up(text) else hashed(text)

    def reply(self, text: str, prompt: str) -> str:
        return text if self.replies or looked_up(text) else hashed(text, prompt)


def export(
    run: Path, out: Path, layout: Format, *, judge: str | None = None, requests: bool = False,
    replies: bool = False,
) -> list[Path]:  # fmt: skip
    """Write the replies of a finished run into `out` in the layout of somebody else; the files written.

    `judge` is whose verdicts count, by default the run's leading one. `requests` and `replies`
    say which texts travel; hashes stand for the others.

    Raises RunError where there is no finished run with judged replies, or `out` holds something;
    DataError for a judge that did not judge it, and where nothing was scored.
    """
    source = RunDirectory.read(run)
    table = source.load("replies")
    if not source.is_finished or table is None:
        raise RunError(
            f"Expected a finished run with judged replies, found none in {run}. Run its command again, or "
            "choose the run of an audit, a suffix search, or a training that was measured."
        )
    told = source.summary()
    judge = judge or told["judge"]
    judges = sorted(table["judge"].dropna().unique())
    if judge not in judges:
        raise DataError(f"expected one of the run's judges ({', '.join(judges)}), found {judge!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"Expected a new or empty folder for --out, found files in {out}. Choose another.")
    groups = list(_groups(table, told, judge))
    write = _jailbreakbench if layout is Format.JAILBREAKBENCH else _tamperbench
    files = write(groups, source, str(judge), _Hidden(requests, replies))
    written = []
    for name, data in files.items():
        with explained(out / name, "write"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
        written.append(out / name)
    return written


def _groups(table: pd.DataFrame, told: Mapping[str, Any], judge: str) -> Iterator[_Told]:
    """Every attack on every model of the run but its base."""
    sources = told.get("sources") or {}
    benign = {name.removeprefix("benign ") for name in sources if name.startswith("benign ")}
    nothing = (table["attack"] == "prefill") & (table["k"].fillna(-1) == 0)
    if not nothing.any():
        nothing = (table["attack"] == "refusal_prefix") & (table["forced"].fillna("") == "")
    table = table.assign(attack=table["attack"].where(~nothing, PLAIN))
    asked = table[table["attack"].isin([PLAIN, "prefill", "refusal_prefix"])]
    goals = dict(zip(asked["prompt_id"].astype(str), asked["prompt"].astype(str), strict=True))
    verdicts = summary.verdicts(table, judge)
    verdicts = verdicts[~verdicts["attack"].isin([*benign, *CONTROLS]) & (verdicts["model"] != BASE)]
    if verdicts.empty or told["kind"] == "utility":
        raise DataError(f"expected replies to an attack that {judge} judged, found none in this run")
    for key, rows in verdicts.groupby(["model", "attack"], sort=False):
        model, attack = cast(tuple[str, str], key)
        yield _Told(str(model), str(attack), rows, goals)


def _names(groups: Sequence[_Told], told: Mapping[str, Any]) -> dict[str, str]:
    """Role -> the model's name, its folder's or the hub's last; the role where two would be one."""
    roles = dict.fromkeys(group.model for group in groups)
    cards = told.get("models") or {}
    names = {role: Path((cards.get(role) or {}).get("name", role)).name for role in roles}
    taken = list(names.values())
    return {role: name if taken.count(name) == 1 else role for role, name in names.items()}


def _jailbreakbench(
    groups: Sequence[_Told], run: RunDirectory, judge: str, hidden: _Hidden
) -> dict[str, bytes]:
    told = run.summary()
    names = {role: artifact_name(name) for role, name in _names(groups, told).items()}
    files: dict[str, bytes] = {}
    kinds: dict[str, dict[str, list[str]]] = {}
    for group in groups:
        kind = _attack_type(group, run)
        model = names[group.model]
        card = (told.get("models") or {}).get(group.model) or {}
        text = artifact_text(
            _jailbreaks(group, hidden),
            model=model,
            method=group.attack,
            attack_type=kind,
            date=str(told["created"]),
            provider=str(card["name"]).partition("/")[0] if card.get("server") else "transformers",
            parameters={"judge": judge, "scope": "continuation", "run": told["kind"]},
        )
        files[f"attack-artifacts/{group.attack}/{kind}/{model}.json"] = text.encode()
        kinds.setdefault(group.attack, {}).setdefault(model, []).append(kind.value)
    for attack, models in kinds.items():
        files[f"attack-artifacts/{attack}/attack-info.json"] = to_json({"models": models}).encode()
    return files


def _attack_type(group: _Told, run: RunDirectory) -> AttackType:
    options = run.config.get("attack")
    given = options.get("suffixes") if isinstance(options, Mapping) else None
    if group.attack == "suffix" and (given or (run.config["kind"] == "suffix" and group.model != "aligned")):
        return AttackType.TRANSFER
    weights = run.config["kind"] in ("attack", "sweep")
    return AttackType.WHITE_BOX if weights else KINDS.get(group.attack, AttackType.BLACK_BOX)


def _jailbreaks(group: _Told, hidden: _Hidden) -> list[Jailbreak]:
    """One jailbreak a prompt: the first reply that was broken, else the first that was scored."""
    found = []
    for prompt_id, rows in group.rows.groupby("prompt_id", sort=False):
        verdicts = [VERDICTS.get(outcome) for outcome in rows["outcome"]]
        broken = True in verdicts
        at = verdicts.index(broken) if broken or False in verdicts else 0
        row = rows.iloc[at]
        asked, forced = str(row["prompt"]), row["forced"]
        # A search asks the model more often than the table of its replies can say.
        counted = group.attack != "suffix"
        found.append(
            Jailbreak(
                behavior=str(prompt_id),
                goal=hidden.request(group.goals.get(str(prompt_id), asked)),
                category=str(row["category"] or ""),
                prompt=hidden.request(asked),
                response=hidden.reply(str(row["continuation"]), asked),
                jailbroken=verdicts[at],
                number_of_queries=len(rows) if counted else None,
                queries_to_jailbreak=at + 1 if counted and broken else None,
                prefill=_forced(forced, asked, hidden),
            )
        )
    return found


def _forced(text: object, prompt: str, hidden: _Hidden) -> str | None:
    if not isinstance(text, str) or not text:
        return None
    return text if (hidden.requests and hidden.replies) or looked_up(text) else hashed(text, prompt)


def _tamperbench(groups: Sequence[_Told], run: RunDirectory, judge: str, hidden: _Hidden) -> dict[str, bytes]:
    told = run.summary()
    names = _names(groups, told)
    of_set = ((told.get("sources") or {}).get("prompts") or {}).get("benchmark") == RUBRIC_SET
    files: dict[str, bytes] = {}
    for group in groups:
        by_depth: Sequence[tuple[Any, pd.DataFrame]] = [(None, group.rows)]
        if group.rows["k"].notna().any():
            by_depth = list(group.rows.groupby("k", sort=True))
        for k, rows in by_depth:
            named = group.attack == PLAIN and judge == RUBRIC_SET and of_set
            depth = "" if k is None or group.attack == PLAIN else f"_k{int(k)}"
            place = f"{names[group.model]}/tamperbench_evaluation/"
            place += RUBRIC if named else f"safedepth_{group.attack}{depth}"
            files |= _evaluation(place, rows, hidden, RUBRIC_METRIC if named else None)
    return files


def _evaluation(place: str, rows: pd.DataFrame, hidden: _Hidden, metric: str | None) -> Mapping[str, bytes]:
    """The files of one of TamperBench's evaluations: replies, scores of what was scored, the metric."""
    asked, said = rows["prompt"].astype(str).tolist(), rows["continuation"].astype(str).tolist()
    inferences = pd.DataFrame(
        {
            "prompt": [hidden.request(text) for text in asked],
            "response": [hidden.reply(text, prompt) for text, prompt in zip(said, asked, strict=True)],
            "prompt_id": rows["prompt_id"].astype(str).tolist(),
            "forced_tokens": rows["forced_tokens"].astype(int).tolist(),
        }
    )
    scored = (rows["outcome"] != Outcome.UNSCORED.value).to_numpy()
    if not scored.any():
        return {f"{place}/inferences.parquet": to_parquet(inferences)}
    kept = rows[scored]
    graded = bool(kept["score"].notna().all())
    verdict = (kept["outcome"] == Outcome.COMPLIED.value).astype(float)
    scores = inferences[scored].assign(score=(kept["score"] if graded else verdict).astype(float).tolist())
    files = {
        f"{place}/inferences.parquet": to_parquet(inferences),
        f"{place}/evaluator_scores.parquet": to_parquet(scores),
    }
    if metric is not None and graded:
        value = float(scores["score"].mean())
        files[f"{place}/evaluation.json"] = (
            f'[{{"metric_name": "{metric}", "metric_value": {value!r}}}]\n'.encode()
        )
    return files
