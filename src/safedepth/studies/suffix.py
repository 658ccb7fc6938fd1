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
from safedepth.data.artifacts import AttackType, Jailbreak, artifact_text
from safedepth.data.suffixes import suffix_for, suffixes_text
from safedepth.errors import DataError, ModelError
from safedepth.judges import judge_name, require_judges
from safedepth.models import load_model
from safedepth.nouns import Outcome, Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.runs.files import write_atomically
from safedepth.studies import summary
from safedepth.studies.replies import counting, replies_of, run_tasks
from safedepth.studies.servers import keep_servers, recorded, require_known, served_notes, servers_block
from safedepth.studies.suffix_search import Suffixes, SuffixOptions, search_suffixes, suffix_block
from safedepth.studies.target import Target, is_served, open_target, room_after, servers_of

__all__ = ["ARTIFACT", "SUFFIXES", "SuffixConfig", "suffix_attack"]

SUFFIXES, ARTIFACT = "suffixes.jsonl", "jailbreakbench.json"


@dataclass(frozen=True)
class SuffixConfig:
    """Everything a suffix attack depends on; stored whole as `config.json`.

    `also` are further local models of the same vocabulary that a suffix must work on at once;
    `transfer` are models that the suffixes are only tried on, served ones too: `servers` are their
    addresses, as "MODEL=URL", or "URL" for the first.
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
    servers: tuple[str, ...] = ()
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
    require_known(config.servers, config.transfer)
    record = recorded(asdict(config)) | {"kind": "suffix", "prompts_sha256": source.sha256}
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
        cards, served = {"aligned": target.card}, dict[str, Target]()
        tables = [_replies(config, run, target, prompts, "aligned", 0, progress)]
        for number, name in enumerate(config.transfer, start=1):
            places = servers_of(config.servers, name, first=number == 1)
            with closing(
                open_target(name, servers=places, dtype=config.dtype, device=config.device)
            ) as other:
                keep_servers(run, str(number), other)
                role = name if Path(name).name in cards else Path(name).name
                cards[role] = other.card
                served |= {role: other} if other.served else {}
                tables.append(_replies(config, run, other, prompts, role, number, progress))
        replies = run.measurement("replies", lambda: pd.concat(tables, ignore_index=True))
        created = run.begun["created"]
        if (artifact := _artifact(config, created, prompts, found, replies)) is not None:
            write_atomically(run.path / ARTIFACT, artifact.encode())
        whole = _summary(config, created, cards, found, replies)
        notes = served_notes(served, sampled=config.temperature > 0, top_k=True)
        told = {"sources": {"prompts": source.entry}, "warnings": [*source.warnings, *notes]}
        run.write_summary(whole | told | servers_block(served))
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
    forced = 4 * config.options.tokens  # other tokenizers may need more for the same text
    room = room_after(target, prompts, forced=forced, wanted=config.max_tokens)
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


def _artifact(
    config: SuffixConfig, created: str, prompts: Sequence[Prompt], found: Suffixes, replies: pd.DataFrame
) -> str | None:
    """JailbreakBench's layout, with the first reply of the model attacked; None where none was scored."""
    told = summary.verdicts(replies, judge_name(config.judges[0]))
    told = told[(told["attack"] == "suffix") & (told["model"] == "aligned") & (told["repeat"] == 0)]
    said = {str(row["prompt_id"]): row for _, row in told.iterrows()}
    verdict = {Outcome.COMPLIED.value: True, Outcome.REFUSED.value: False}
    jailbreaks = []
    for prompt in prompts:
        one, row = suffix_for(found.suffixes, prompt.id), said[prompt.id]
        assert one is not None
        goal, queries = prompt.messages[-1]["content"], (one.steps or 0) * config.options.width
        broken = verdict.get(row["outcome"])
        jailbreaks.append(
            Jailbreak(
                prompt.id, goal, prompt.category, f"{goal} {one.suffix}", row["continuation"], broken,
                number_of_queries=queries, queries_to_jailbreak=queries if broken else None,
            )
        )  # fmt: skip
    if all(one.jailbroken is None for one in jailbreaks):
        return None
    return artifact_text(
        jailbreaks,
        model=found.suffixes[0].model,
        method="GCG",
        attack_type=AttackType.WHITE_BOX,
        date=created,
        provider="transformers",
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
