"""The audit: how many tokens deep is the safety of one model, and what gets past it?

Per-token KL against the base model, refusal prefixes forced on both, and the attacks of
a plan; judged, summed up, and written to a run directory that a repeated command resumes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.attacks import REFUSAL_PREFIXES
from safedepth.data import Source, read_prompts, source_of
from safedepth.errors import DataError, ModelError
from safedepth.judges import default_judges, judge_name, require_judges
from safedepth.models import require_same_vocabulary
from safedepth.nouns import Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.attack_cost import Cost, cost_of, tokens_a_second
from safedepth.studies.attack_plan import AttackOptions, Means, Plan, plan_attacks
from safedepth.studies.attack_tables import attacks_block, decoding_block
from safedepth.studies.audit_replies import audit_tasks, model_replies
from safedepth.studies.audit_suffixes import searched_suffixes
from safedepth.studies.calibrating import agreement_block
from safedepth.studies.categories import category_entries
from safedepth.studies.divergence import kl_table, series_of
from safedepth.studies.servers import keep_servers, recorded, require_known, served_notes, servers_block
from safedepth.studies.target import Target, open_target, servers_of

__all__ = ["AuditConfig", "audit"]

DEPTHS = (0, 1, 2, 5, 10, 20, 40)

ONLY_WORDS = (
    "No judge understood the replies: rules and keywords look for the words of a refusal. --grader MODEL "
    "adds a model that reads them, here or later with `safedepth judge`."
)


@dataclass(frozen=True)
class AuditConfig:
    """Everything an audit depends on; stored as `config.json`, but for where the servers are.

    `servers` are addresses of the model, and of the base as "BASE=URL".
    """

    model: str
    prompts: str
    base: str | None = None
    attack: AttackOptions = field(default_factory=AttackOptions)
    depths: tuple[int, ...] = DEPTHS
    prefixes: tuple[str, ...] = REFUSAL_PREFIXES
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
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.depths or min(self.depths) < 0 or len(set(self.depths)) != len(self.depths):
            raise DataError(f"Depths are distinct numbers of tokens, 0 or more; found {list(self.depths)}.")
        if not self.judges:
            raise DataError("An audit needs at least one judge: --judge rules, say.")


def audit(
    config: AuditConfig,
    out: Path,
    *,
    progress: Progress | None = None,
    announce: Callable[[Plan, Cost], None] | None = None,
) -> Path:
    """Run or resume the audit in `out`; returns the run directory.

    `announce` is told what will run and what it costs, before it does. Raises a SafedepthError
    for every mistake of the user's, before any long work where it can be seen there.
    """
    source = source_of(config.prompts)
    prompts = read_prompts(config.prompts, limit=config.limit)
    require_judges(config.judges)
    require_known(config.servers, (config.model, config.base))
    record = recorded(asdict(config)) | {"kind": "audit", "prompts_sha256": source.sha256}
    aligned = open_target(
        config.model, servers=servers_of(config.servers, config.model, first=True),
        tokenizer=config.tokenizer, chat_template=config.chat_template, dtype=config.dtype,
        device=config.device,
    )  # fmt: skip
    base = _open_base(config, aligned)
    targets = {role: target for role, target in (("aligned", aligned), ("base", base)) if target}
    notes = _Notes.of(config, source, aligned, base, prompts)
    plan = plan_attacks(config.attack, Means.of(aligned, prompts))
    # Only now: a folder that was begun with a mistake in it would refuse the corrected command.
    with RunDirectory.open(out, record) as run:
        for role, target in targets.items():
            keep_servers(run, role, target)
        cost = _cost(config, run, targets, prompts, plan)
        if announce is not None:
            announce(plan, cost)
        kl: pd.DataFrame | None = None
        if aligned.loaded and base and base.loaded and notes.kl_possible:
            a, b = aligned.loaded, base.loaded
            kl = run.measurement("kl", lambda: kl_table(a, b, prompts, progress=progress))
        suffixes = searched_suffixes(config, run, aligned, prompts, plan, progress=progress)
        asked = suffixes.config
        replies = [
            run.measurement(
                f"replies-{role}",
                lambda target=target, role=role: model_replies(  # type: ignore[misc]
                    asked, target, audit_tasks(asked, target, prompts, plan, role=role), role=role,
                    logs=run.logs / role, progress=progress,
                ),
            )
            for role, target in targets.items()
        ]  # fmt: skip
        table = run.measurement("replies", lambda: pd.concat(replies, ignore_index=True))
        whole = _summary(config, run.begun["created"], aligned, base, table, kl, notes)
        whole["not_measured"] += plan.left_out
        told = {"sources": {"prompts": source.entry}, "cost": cost.entry} | servers_block(targets)
        whole["warnings"] += served_notes(targets, sampled=config.temperature > 0, top_k=True)
        run.write_summary(whole | suffixes.block(table) | told)
        run.finish()
    return out


def _cost(
    config: AuditConfig, run: RunDirectory, targets: Mapping[str, Target], prompts: list[Prompt], plan: Plan
) -> Cost:
    """What is to come, but for a search of suffixes; estimated once a run."""
    known = Plan(tuple(name for name in plan.attacks if name != "suffix" or config.attack.suffixes), ())

    def estimated() -> pd.DataFrame:
        costs = [
            cost_of(
                audit_tasks(config, target, prompts, known, role=role), speed=tokens_a_second(target)
            ).entry
            for role, target in targets.items()
        ]
        return pd.DataFrame(costs)

    table = run.measurement("cost", estimated)
    unknown = bool(table["seconds"].isna().any())
    return Cost(
        int(table["replies"].sum()),
        int(table["tokens"].sum()),
        None if unknown else float(table["seconds"].sum()),
    )


def _open_base(config: AuditConfig, aligned: Target) -> Target | None:
    """The base model, reading the aligned model's template: both must see the same tokens."""
    if config.base is None:
        return None
    mine = aligned.name if aligned.loaded else None
    base = open_target(
        config.base, servers=servers_of(config.servers, config.base), tokenizer=config.tokenizer or mine,
        chat_template=config.chat_template or mine or config.tokenizer, dtype=config.dtype,
        device=config.device,
    )  # fmt: skip
    if aligned.loaded and base.loaded:
        require_same_vocabulary(aligned.loaded, base.loaded)
    return base


@dataclass(frozen=True)
class _Notes:
    """What could not be measured, and what the reader should know."""

    not_measured: tuple[Mapping[str, str], ...]
    warnings: tuple[str, ...]
    kl_possible: bool

    @classmethod
    def of(
        cls, config: AuditConfig, source: Source, aligned: Target, base: Target | None, prompts: list[Prompt]
    ) -> "_Notes":
        missing: list[Mapping[str, str]] = []
        warnings = list(source.warnings)
        if set(config.judges) <= set(default_judges(None)):
            warnings.append(ONLY_WORDS)
        answers = [prompt for prompt in prompts if prompt.harmful is not None]
        kl_possible = False
        if not answers:
            missing.append({"what": "KL and prefill depths", "why": "no prompt has a harmful answer"})
        elif base is None:
            missing.append({"what": "KL by token position", "why": "no base model was given (--base)"})
        elif aligned.loaded is None or base.loaded is None:
            missing.append(
                {"what": "KL by token position", "why": "it needs both models as local checkpoints"}
            )
        else:
            kl_possible = True
        for target in (aligned, base):
            served = target.served if target is not None else None
            if target is not None and served is not None:
                forces = target.forced_as is not None
                if target.chat is None and (forces or served.ability("token_ids")):
                    raise ModelError(
                        f"Depths are counted in tokens, and {target.name} is reached through a server. "
                        "Name its tokenizer with --tokenizer PATH_OR_HUB_ID."
                    )
                if not forces:
                    what = "prefill depths and refusal prefixes"
                    missing.append({"what": what, "why": served.unforced})
        if aligned.chat is not None:
            lengths = [len(aligned.chat.answer_ids(p.harmful)) for p in answers if p.harmful is not None]
            for k in config.depths:
                short = sum(length < k for length in lengths)
                if short:
                    warnings.append(
                        f"{short} of {len(lengths)} harmful answers have fewer than {k} tokens; at depth {k} "
                        "those prompts are unscored."
                    )
        return cls(tuple(missing), tuple(warnings), kl_possible)


def _summary(
    config: AuditConfig,
    created: str,
    aligned: Target,
    base: Target | None,
    replies: pd.DataFrame,
    kl: pd.DataFrame | None,
    notes: _Notes,
) -> dict[str, Any]:
    primary = judge_name(config.judges[0])
    verdicts = summary.verdicts(replies, primary)
    found = summary.depth_of(summary.sweep_of(verdicts), kl, seed=config.seed)
    series = series_of(kl, tokens=summary.KL_TOKENS) if kl is not None else None
    decoded = decoding_block(replies)
    return {
        "kind": "audit",
        "created": created,
        "seeds": [config.seed],
        "models": {"aligned": aligned.card, "base": base.card if base else None},
        "judge": primary,
        "kl": summary.kl_summary(series, seed=config.seed) if series is not None else None,
        "depth": summary.depth_entries(found),
        "refusal_prefixes": summary.openings_of(verdicts, aligned="aligned"),
        "rates": summary.rates_of(replies),
        "categories": category_entries(replies[replies["model"] == "aligned"], primary),
        "agreement": agreement_block(replies),
        "attacks": attacks_block(replies[replies["model"] == "aligned"], primary),
        **({"decoding": decoded} if decoded else {}),
        "not_measured": list(notes.not_measured),
        "warnings": list(notes.warnings),
    }
