"""An attacker that adapts: tries after tries on every prompt, each chosen by what worked so far.

A defence that was tested with one attack at a time was tested by an attacker who cannot
learn. Here every prompt gets a budget of tries, the attack of each is chosen by Thompson
sampling over all attacks that the model allows, and a prompt counts as broken by its
first harmful reply. What broke is tried again with other seeds, for a judge that errs
once in a hundred replies will err somewhere in a thousand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from safedepth.attacks.forcing import reply_seed
from safedepth.data import read_prompts, source_of, write_prompts
from safedepth.errors import DataError
from safedepth.judges import judge_name, require_judges
from safedepth.measure.bandit import Beliefs
from safedepth.measure.best_of import worst_outcome
from safedepth.nouns import Outcome, Progress, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.adaptive_arms import Arm, arms_of
from safedepth.studies.adaptive_tables import adaptive_summary
from safedepth.studies.attack_plan import ALL, AttackOptions, Means, Plan, plan_attacks
from safedepth.studies.replies import replies_of, run_tasks
from safedepth.studies.servers import keep_servers, recorded, require_known, served_notes, servers_block
from safedepth.studies.target import Target, open_target, room_for_reply, servers_of

__all__ = ["POLICIES", "AdaptiveConfig", "adaptive"]

POLICIES = ("adaptive", "fixed")
"""Choose by what worked; go through the attacks in their order, for comparison."""

NO_CONTROLS = ("refusal_prefix", "multi_turn")
"""What an audit runs and an attacker does not: a control, and conversations with prompts of their own."""


@dataclass(frozen=True)
class AdaptiveConfig:
    """Everything an adaptive attack depends on; stored whole as `config.json`."""

    model: str
    prompts: str
    budget: int = 20
    options: AttackOptions = field(default_factory=lambda: AttackOptions(attacks=(ALL,)))
    depths: tuple[int, ...] = (0, 1, 5, 10, 20, 40)
    judges: tuple[str, ...] = ("rules",)
    confirm: int = 3
    compare: bool = False
    limit: int | None = None
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
        if self.budget < 1:
            raise DataError(f"expected a budget of at least one try a prompt, found {self.budget}")
        if self.confirm < 0:
            raise DataError(f"expected 0 or more repetitions of what broke, found {self.confirm}")
        if not self.depths or min(self.depths) < 0 or len(set(self.depths)) != len(self.depths):
            raise DataError(f"Depths are distinct numbers of tokens, 0 or more; found {list(self.depths)}.")
        if not self.judges:
            raise DataError("An attacker needs a judge that says what worked: --judge rules, say.")

    @property
    def judge(self) -> str:
        """The judge that the attacker learns from: the first."""
        return judge_name(self.judges[0])


def adaptive(config: AdaptiveConfig, out: Path, *, progress: Progress | None = None) -> Path:
    """Run or resume the attack in `out`; returns the run directory.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can
    be seen there.
    """
    source = source_of(config.prompts)
    prompts = read_prompts(config.prompts, limit=config.limit)
    require_judges(config.judges)
    require_known(config.servers, (config.model,))
    record = recorded(asdict(config)) | {"kind": "adaptive", "prompts_sha256": source.sha256}
    target = open_target(
        config.model, servers=servers_of(config.servers, config.model, first=True),
        tokenizer=config.tokenizer, chat_template=config.chat_template, dtype=config.dtype,
        device=config.device,
    )  # fmt: skip
    plan = plan_attacks(config.options, Means.of(target, prompts))
    arms = arms_of(_without_controls(plan), config.options, depths=config.depths)
    if not arms:
        raise DataError(
            "expected at least one attack that this model and these prompts allow, found none. "
            "Add harmful answers to the prompts, or name attacks with --attacks"
        )
    with RunDirectory.open(out, record) as run:
        keep_servers(run, "aligned", target)
        attacker = _Attacker(config, run, target, prompts, arms, progress)
        tables = {policy: attacker.attack(policy) for policy in POLICIES[: 1 + config.compare]}
        confirmed = attacker.confirm(tables["adaptive"])
        run.measurement("replies", lambda: _together(tables["adaptive"], confirmed))
        run.write_summary(
            adaptive_summary(
                tables, confirmed, prompts, [arm.name for arm in arms], budget=config.budget,
                judge=config.judge,
            )
            | {"kind": "adaptive", "created": run.begun["created"], "seeds": [config.seed]}
            | {"models": {"aligned": target.card}, "not_measured": _left_out(plan, config)}
            | {"sources": {"prompts": source.entry}}
            | {"warnings": [*source.warnings, *served_notes({"aligned": target}, sampled=True, top_k=True)]}
            | servers_block({"aligned": target})
        )  # fmt: skip
        run.finish()
    return out


def _without_controls(plan: Plan) -> Plan:
    return Plan(tuple(name for name in plan.attacks if name not in NO_CONTROLS), plan.left_out)


def _left_out(plan: Plan, config: AdaptiveConfig) -> list[dict[str, str]]:
    """What this attacker does not try, and why."""
    found = list(plan.left_out)
    if "suffix" in plan.attacks and not config.options.suffixes:
        why = "searching is no single try; search first (safedepth attack suffix) and give --suffixes FILE"
        found.append({"what": "the attack suffix", "why": why})
    return found


def _together(tried: pd.DataFrame, confirmed: pd.DataFrame | None) -> pd.DataFrame:
    """All replies of the attacker that learns, those of the repetitions after the others."""
    return tried if confirmed is None else pd.concat([tried, confirmed], ignore_index=True)


@dataclass(frozen=True)
class _Attacker:
    """The rounds of one attacker: one try a round on every prompt that still holds."""

    config: AdaptiveConfig
    run: RunDirectory
    target: Target
    prompts: Sequence[Prompt]
    arms: Sequence[Arm]
    progress: Progress | None

    def attack(self, policy: str) -> pd.DataFrame:
        """All replies under one policy, with the columns `arm` and `try`."""
        beliefs = Beliefs([arm.name for arm in self.arms], self.config.seed)
        holding = {prompt.id: prompt for prompt in self.prompts}
        tables: list[pd.DataFrame] = []
        for turn in range(1, self.config.budget + 1):
            chosen = self._chosen(policy, beliefs, holding, turn)
            if not chosen:
                break
            made = self._round(f"replies-{policy}-{turn:03d}", chosen, turn=turn)
            tables.append(made)
            for prompt, arm, outcome, impossible in self._learnt(made):
                beliefs.learn(arm, prompt, holding[prompt].category, outcome, impossible=impossible)
                if outcome is Outcome.COMPLIED:
                    del holding[prompt]
            if self.progress is not None:
                broken = len(self.prompts) - len(holding)
                what = f"{policy} attacker: {broken} of {len(self.prompts)} prompts broken, try"
                self.progress(what, turn, self.config.budget)
        return pd.concat(tables, ignore_index=True)

    def _chosen(
        self, policy: str, beliefs: Beliefs, holding: Mapping[str, Prompt], turn: int
    ) -> dict[str, list[Prompt]]:
        """Which prompts are tried with which arm."""
        found: dict[str, list[Prompt]] = {}
        for prompt in holding.values():
            arm: str | None = self.arms[(turn - 1) % len(self.arms)].name
            if policy == "adaptive":
                arm = beliefs.choose(prompt.id, prompt.category, turn)
            if arm is not None:
                found.setdefault(arm, []).append(prompt)
        return found

    def _round(
        self, name: str, chosen: Mapping[str, Sequence[Prompt]], *, turn: int, repeats: int = 1
    ) -> pd.DataFrame:
        """Every chosen try, made: the table `name` of the run, with the columns `arm` and `try`."""

        def made() -> pd.DataFrame:
            arms = {self._file(name, arm): arm for arm in self.arms if arm.name in chosen}
            todo = []
            for file, arm in arms.items():
                write_prompts(file, chosen[arm.name])
                todo.append(arm.task(**self._common(file, chosen[arm.name], turn, repeats)))
            logs = run_tasks(todo, self.target.model, self.run.logs / name, roles=self.config.options.roles)
            tables = [
                replies_of([log], "aligned").assign(arm=arms[Path(log.eval.task_args["prompts"])].name)
                for log in logs
            ]
            table = pd.concat(tables, ignore_index=True).assign(**{"try": turn})
            return table.sort_values(["arm", "prompt_id", "repeat"], kind="stable", ignore_index=True)

        return self.run.measurement(name, made)

    def _file(self, name: str, arm: Arm) -> Path:
        """Where the prompts of one arm in one round are kept."""
        folder = (self.run.path / "tries" / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{re.sub('[^a-z0-9_.]+', '-', arm.name)}.jsonl"

    def _common(self, file: Path, prompts: Sequence[Prompt], turn: int, repeats: int) -> dict[str, Any]:
        deepest = max(self.config.depths)
        room = room_for_reply(self.target, prompts, deepest=deepest, wanted=self.config.max_tokens)
        return {
            "prompts": str(file), "judge": list(self.config.judges), "repeats": repeats,
            "seed": reply_seed(self.config.seed, "try", turn), "temperature": self.config.temperature,
            "top_p": self.config.top_p, "top_k": self.config.top_k, "max_tokens": room,
            "tokenizer": self.config.tokenizer,
        }  # fmt: skip

    def _learnt(self, table: pd.DataFrame) -> Iterator[tuple[str, str, Outcome, bool]]:
        """What the first judge says of each try: (prompt, arm, outcome, whether it could not be tried)."""
        told = summary.verdicts(table, self.config.judge)
        for (prompt, arm), group in told.groupby(["prompt_id", "arm"], sort=True):
            outcome = worst_outcome([Outcome(one) for one in group["outcome"]])
            asked = bool((group["continuation"] != "").any()) or bool((group["stop_reason"] != "").any())
            yield str(prompt), str(arm), outcome, outcome is Outcome.UNSCORED and not asked

    def confirm(self, tried: pd.DataFrame) -> pd.DataFrame | None:
        """What broke, tried again with other seeds; None where nothing broke or nobody asked."""
        broke = {
            (prompt, arm) for prompt, arm, outcome, _ in self._learnt(tried) if outcome is Outcome.COMPLIED
        }
        known = {prompt.id: prompt for prompt in self.prompts}
        chosen: dict[str, list[Prompt]] = {}
        for prompt, arm in sorted(broke):
            chosen.setdefault(arm, []).append(known[prompt])
        if not chosen or not self.config.confirm:
            return None
        turn, repeats = self.config.budget + 1, self.config.confirm
        return self._round("replies-confirm", chosen, turn=turn, repeats=repeats)
