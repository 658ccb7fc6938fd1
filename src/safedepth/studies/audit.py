"""The audit: how many tokens deep is the safety of one model?

Per-token KL against the base model, the prefilling attack at growing depths, and
refusal prefixes forced on both; judged, summed up, and written to a run directory
that a repeated command resumes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth import tasks
from safedepth.attacks import REFUSAL_PREFIXES
from safedepth.attacks.forcing import continues_messages
from safedepth.data import file_sha256, read_prompts
from safedepth.errors import DataError, ModelError
from safedepth.judges import resolve_judge
from safedepth.judges.reference import judge_name
from safedepth.models import require_same_vocabulary
from safedepth.nouns import Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.divergence import kl_table, series_of
from safedepth.studies.replies import replies_of, run_tasks
from safedepth.studies.target import Target, open_target, room_for_reply

__all__ = ["AuditConfig", "audit", "model_replies"]

DEPTHS = (0, 1, 2, 5, 10, 20, 40)


@dataclass(frozen=True)
class AuditConfig:
    """Everything an audit depends on; stored whole as `config.json`."""

    model: str
    prompts: str
    base: str | None = None
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
    chat_template: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.depths or min(self.depths) < 0 or len(set(self.depths)) != len(self.depths):
            raise DataError(f"Depths are distinct numbers of tokens, 0 or more; found {list(self.depths)}.")
        if not self.judges:
            raise DataError("An audit needs at least one judge: --judge rules, say.")
        names = [judge_name(judge) for judge in self.judges]
        if len(set(names)) != len(names):
            raise DataError(f"Judges need different names; found {', '.join(names)}.")


def audit(config: AuditConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume the audit in `out`; returns the run directory.

    Raises a SafedepthError for every mistake of the user's, before any long work where
    it can be seen there.
    """
    prompts = read_prompts(config.prompts, limit=config.limit)
    for judge in config.judges:
        resolve_judge(judge)
    record = asdict(config) | {"kind": "audit", "prompts_sha256": file_sha256(config.prompts)}
    with RunDirectory.open(out, record) as run:
        aligned = open_target(
            config.model, chat_template=config.chat_template, dtype=config.dtype, device=config.device
        )
        base = _open_base(config, aligned)
        notes = _Notes.of(config, aligned, base, prompts)
        kl: pd.DataFrame | None = None
        if aligned.loaded and base and base.loaded and notes.kl_possible:
            a, b = aligned.loaded, base.loaded
            kl = run.measurement("kl", lambda: kl_table(a, b, prompts, progress=progress))
        replies = [
            run.measurement(
                f"replies-{role}",
                lambda target=target, role=role: model_replies(  # type: ignore[misc]
                    config, target, prompts, role=role, logs=run.logs / role, progress=progress
                ),
            )
            for role, target in (("aligned", aligned), ("base", base))
            if target is not None
        ]
        table = run.measurement("replies", lambda: pd.concat(replies, ignore_index=True))
        run.write_summary(_summary(config, run.begun["created"], aligned, base, table, kl, notes))
        run.finish()
    return out


def _open_base(config: AuditConfig, aligned: Target) -> Target | None:
    """The base model, reading the aligned model's template: both must see the same tokens."""
    if config.base is None:
        return None
    lender = config.chat_template or (aligned.name if aligned.loaded else None)
    base = open_target(config.base, chat_template=lender, dtype=config.dtype, device=config.device)
    if aligned.loaded and base.loaded:
        require_same_vocabulary(aligned.loaded, base.loaded)
    return base


def model_replies(
    config: AuditConfig,
    target: Target,
    prompts: list[Prompt],
    *,
    role: str,
    logs: Path,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Every reply the audit needs of one model, judged; the prefilling sweep if `role` is "aligned"."""
    deepest = max(config.depths) if role == "aligned" else 16
    max_tokens = config.max_tokens or 512
    if target.loaded:
        max_tokens = room_for_reply(target.loaded, prompts, deepest=deepest, wanted=config.max_tokens)
    common: dict[str, Any] = {
        "prompts": str(Path(config.prompts).resolve()),
        "judge": list(config.judges),
        "limit": config.limit,
        "repeats": config.repeats,
        "seed": config.seed,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_tokens": max_tokens,
        "tokenizer": config.tokenizer,
    }
    forcing = target.loaded is not None or continues_messages(str(target.model))
    todo = [tasks.refusal_prefix(prefix=["", *config.prefixes] if forcing else [""], **common)]
    if role == "aligned":
        todo.append(tasks.prefill(depth=list(config.depths) if forcing else [0], **common))
    total = sum(len(task.dataset) for task in todo)
    done = 0

    def sample_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(f"replies of the {role} model", done, total)

    return replies_of(run_tasks(todo, target.model, logs, sample_done=sample_done), role)


@dataclass(frozen=True)
class _Notes:
    """What could not be measured, and what the reader should know."""

    not_measured: tuple[Mapping[str, str], ...]
    warnings: tuple[str, ...]
    kl_possible: bool

    @classmethod
    def of(cls, config: AuditConfig, aligned: Target, base: Target | None, prompts: list[Prompt]) -> "_Notes":
        missing: list[Mapping[str, str]] = []
        warnings: list[str] = []
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
            if target is not None and target.loaded is None:
                if not continues_messages(str(target.model)):
                    why = f"{target.model} is not known to continue an assistant message"
                    missing.append({"what": "prefill depths and refusal prefixes", "why": why})
                elif config.tokenizer is None:
                    raise ModelError(
                        f"Depths are counted in tokens, and {target.model} is reached through a server. "
                        "Name its tokenizer with --tokenizer PATH_OR_HUB_ID."
                    )
        if aligned.loaded:
            lengths = [
                len(aligned.loaded.chat.answer_ids(p.harmful)) for p in answers if p.harmful is not None
            ]
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
        "not_measured": list(notes.not_measured),
        "warnings": list(notes.warnings),
    }
