"""The suffix attack within an audit: searched on the audited model, unless suffixes were given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from safedepth.data.suffixes import suffixes_text
from safedepth.judges import judge_name
from safedepth.nouns import Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.runs.files import write_atomically
from safedepth.studies.attack_plan import Plan
from safedepth.studies.suffix_search import Suffixes, SuffixOptions, search_suffixes, suffix_block
from safedepth.studies.target import Target

if TYPE_CHECKING:
    import pandas as pd

    from safedepth.studies.audit import AuditConfig

__all__ = ["SuffixesOfAudit", "searched_suffixes"]

FOUND = "suffixes.jsonl"


class SuffixesOfAudit:
    """The audit's configuration with its suffixes in place, and what the search tells the report."""

    def __init__(self, config: AuditConfig, found: Suffixes | None, options: SuffixOptions) -> None:
        self.config = config
        self._found = found
        self._options = options

    def block(self, replies: pd.DataFrame) -> dict[str, Any]:
        """The part of `summary.json` on the search; empty where none was made."""
        if self._found is None:
            return {}
        judge = judge_name(self.config.judges[0])
        return {"suffix": suffix_block(self._found, replies, self._options, model="aligned", judge=judge)}


def searched_suffixes(
    config: AuditConfig,
    run: RunDirectory,
    target: Target,
    prompts: list[Prompt],
    plan: Plan,
    *,
    progress: Progress | None,
) -> SuffixesOfAudit:
    """Search suffixes if the plan has the attack and none were given; resumes what the run holds."""
    options = SuffixOptions(steps=config.attack.suffix_steps, width=config.attack.suffix_width)
    if "suffix" not in plan.attacks or config.attack.suffixes:
        return SuffixesOfAudit(config, None, options)
    found = search_suffixes(
        target, [prompt for prompt in prompts if prompt.harmful is not None], options,
        judge=config.judges[0], seed=config.seed, folder=run.path / "search", progress=progress,
    )  # fmt: skip
    write_atomically(run.path / FOUND, suffixes_text(found.suffixes).encode())
    given = replace(config.attack, suffixes=str(run.path / FOUND))
    return SuffixesOfAudit(replace(config, attack=given), found, options)
