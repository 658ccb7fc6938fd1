"""The suffix attack as a study: search, keep the suffixes, ask with them, on this model and on others.

The search stops where its judge is satisfied; what is reported is asked anew, with the attack
`suffix` as an Inspect task, beside the same requests without a suffix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth import tasks
from safedepth.data import read_prompts, resolved, source_of
from safedepth.data.suffixes import artifact_text, suffix_for, suffixes_text
from safedepth.errors import DataError, ModelError
from safedepth.judges import judge_name, require_judges
from safedepth.models import load_model
from safedepth.nouns import Outcome, Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.runs.files import write_atomically
from safedepth.studies import summary
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.suffix_search import Suffixes, SuffixOptions, search_suffixes, suffix_block
from safedepth.studies.target import Target, is_served, open_target, room_after

__all__ = ["ARTIFACT", "SUFFIXES", "SuffixConfig", "suffix_attack"]

SUFFIXES, ARTIFACT = "suffixes.jsonl", "jailbreakbench.json"


@dataclass(frozen=True)
class SuffixConfig:
    """Everything a suffix attack depends on; stored whole as `config.json`.

    `also` are further local models of the same vocabulary that a suffix must work on at once;
    `transfer` are models that the suffixes are only tried on, served ones too.
    """

    model: str
    prompts: str
    options: SuffixOptions = field(default_factory=SuffixOptions)
    also: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    judges: tuple[str, ...] = ("rules",)
    limit: int | None = None
    repeats: int = 1
    seed: int = 0
    temperature: float = 0.9
    top_p: float = 0.6
    top_k: int = 50
    max_tokens: int | None = None
    chat_template: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.judges:
            raise DataError("A search needs a judge that says when to stop: --judge rules, say.")


def suffix_attack(config: SuffixConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume the attack in `out`; returns the run directory.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can
    be seen there; a model behind a server is one.
    """
    if is_served(config.model):
        raise ModelError(
            f"expected a local checkpoint to search suffixes on, found {config.model}, which is reached "
            "through a server: gradients need the weights. Search on an open model and name this one with "
            "--transfer"
        )
    source = source_of(config.prompts)
    prompts = read_prompts(config.prompts, limit=config.limit)
    require_judges(config.judges)
    record = asdict(config) | {"kind": "suffix", "prompts_sha256": source.sha256}
    with RunDirectory.open(out, record) as run:
        target = open_target(
            config.model, chat_template=config.chat_template, dtype=config.dtype, device=config.device
        )
        others = [load_model(name, dtype=config.dtype, device=config.device) for name in config.also]
        found = search_suffixes(
            target, prompts, config.options, judge=config.judges[0], seed=config.seed, others=others,
            folder=run.path / "search", progress=progress,
        )  # fmt: skip
        write_atomically(run.path / SUFFIXES, suffixes_text(found.suffixes).encode())
        run.measurement("losses", lambda: found.losses)
        cards = {"aligned": target.card}
        tables = [_replies(config, run, target, prompts, "aligned", 0, progress)]
        for number, name in enumerate(config.transfer, start=1):
            with closing(open_target(name, dtype=config.dtype, device=config.device)) as other:
                role = name if Path(name).name in cards else Path(name).name
                cards[role] = other.card
                tables.append(_replies(config, run, other, prompts, role, number, progress))
        replies = run.measurement("replies", lambda: pd.concat(tables, ignore_index=True))
        write_atomically(run.path / ARTIFACT, _artifact(config, prompts, found, replies).encode())
        whole = _summary(config, run.begun["created"], cards, found, replies)
        run.write_summary(whole | {"sources": {"prompts": source.entry}, "warnings": list(source.warnings)})
        run.finish()
    return out


def _replies(
    config: SuffixConfig,
    run: RunDirectory,
    target: Target,
    prompts: Sequence[Prompt],
    role: str,
    number: int,
    progress: Progress | None,
) -> pd.DataFrame:
    """Replies of one model with the suffixes, and without; `number` tells the models of a run apart."""
    room = config.max_tokens or 512
    if target.loaded is not None:
        forced = 4 * config.options.tokens  # other tokenizers may need more for the same text
        room = room_after(target.loaded, prompts, forced=forced, wanted=config.max_tokens)
    common: dict[str, Any] = {
        "prompts": resolved(config.prompts), "judge": list(config.judges), "limit": config.limit,
        "repeats": config.repeats, "seed": config.seed, "temperature": config.temperature,
        "top_p": config.top_p, "top_k": config.top_k, "max_tokens": room,
    }  # fmt: skip
    todo = [
        tasks.suffix(suffixes=str((run.path / SUFFIXES).resolve()), **common),
        tasks.refusal_prefix(prefix=[""], **common),
    ]
    return run.measurement(
        f"replies-{number}",
        lambda: replies_of(
            run_tasks(
                todo,
                target.model,
                run.logs / str(number),
                sample_done=counting(progress, f"replies of {role}", todo),
            ),
            role,
        ),
    )


def _artifact(config: SuffixConfig, prompts: Sequence[Prompt], found: Suffixes, replies: pd.DataFrame) -> str:
    """JailbreakBench's layout, with the first reply of the model attacked to every prompt."""
    told = summary.verdicts(replies, judge_name(config.judges[0]))
    told = told[(told["attack"] == "suffix") & (told["model"] == "aligned") & (told["repeat"] == 0)]
    said = {str(row["prompt_id"]): row for _, row in told.iterrows()}
    verdict = {Outcome.COMPLIED.value: True, Outcome.REFUSED.value: False}
    rows: list[Mapping[str, Any]] = []
    for prompt in prompts:
        one, row = suffix_for(found.suffixes, prompt.id), said[prompt.id]
        assert one is not None
        rows.append(
            {"id": prompt.id, "goal": prompt.messages[-1]["content"], "suffix": one.suffix,
             "category": prompt.category, "response": row["continuation"],
             "jailbroken": verdict.get(row["outcome"]), "queries": (one.steps or 0) * config.options.width}
        )  # fmt: skip
    return artifact_text(
        rows,
        model=found.suffixes[0].model,
        method="GCG",
        parameters=asdict(config.options) | {"seed": config.seed},
    )


def _summary(
    config: SuffixConfig,
    created: str,
    cards: Mapping[str, Any],
    found: Suffixes,
    replies: pd.DataFrame,
) -> dict[str, Any]:
    primary = judge_name(config.judges[0])
    return {
        "kind": "suffix",
        "created": created,
        "seeds": [config.seed],
        "models": dict(cards),
        "judge": primary,
        "depth": {},
        "rates": summary.rates_of(replies),
        "suffix": suffix_block(found, replies, config.options, model="aligned", judge=primary),
        "not_measured": [],
    }
