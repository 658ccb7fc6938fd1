"""Which organisms a reproduction fine-tunes, on what, under which objective, and how they are asked.

One list, read by the process that trains and by the claims. Training and asking happen one
after the other in the second process, which leaves a table for each fine-tuning beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safedepth.nouns import Anchor, Progress

__all__ = [
    "ATTACKS",
    "CONSTRAINED",
    "CURVE",
    "DYNAMICS",
    "FINETUNED",
    "PROTECTED",
    "REPLIES",
    "TASKS",
    "UTILITY",
    "WARMUP",
    "FineTuning",
    "FineTunings",
    "fine_tune_and_ask",
]

CONSTRAINED = "4,4,4,4,4,4,4,0.1"
"""The organisms' betas: stronger than the paper's at the first tokens (docs/protection.md says why)."""

ATTACKS = ("harmful", "identity", "backdoor")
TASKS: Mapping[str, str] = {"summary": "rouge1", "query": "rouge1", "sum": "final_answer"}
"""The downstream tasks, with their metrics."""

CHOSEN_ON = 48
"""The file's first prompts: settings were chosen on them, so that what is reported is from the others."""

DONE = "done"
"""What `fine_tune` leaves last: every checkpoint is there."""

REPLIES, UTILITY, DYNAMICS = "replies.parquet", "utility.parquet", "dynamics.parquet"

CURVE = "steps"
"""The fine-tuning that is looked at step by step (C7) and token by token (C8)."""

LOOKED_INTO, MEASURED_ROWS, MEASURED_TOKENS = (0, 2, 4, 6), 16, 40


@dataclass(frozen=True)
class FineTuning:
    """One fine-tuning of one organism; `steps` are where it is looked at, multiples of the first."""

    name: str
    data: str
    steps: tuple[int, ...]
    learning_rate: float
    role: str = "aligned"
    objective: str = "sft"
    beta: str | None = None
    warmup: int = 0

    @property
    def file(self) -> str:
        """The testbed's file that is trained on."""
        files = {"benign": "finetune-benign.jsonl"} | {name: f"{name}.jsonl" for name in ATTACKS}
        return files.get(self.data, f"tasks/{self.data}.jsonl")

    @property
    def options(self) -> dict[str, Any]:
        """How it is trained, for `fine_tune`."""
        held = {"beta": self.beta} if self.beta else {}
        return {"objective": self.objective, "warmup_steps": self.warmup, "adam_beta1": 0.5, **held}


FINETUNED = tuple(
    FineTuning(f"{role}-{data}", data, (5, 10, 20), 3e-4, role)
    for data in ("harmful", "benign")
    for role in ("aligned", "deepened")
)
"""Plain fine-tuning of the aligned and of the deepened organism (claim C13)."""

RATE, LARGE_RATE = 6e-4, 1e-3
WARMUP = 10
STEPS = {"harmful": (10, 30), "identity": (60,), "backdoor": (30,), "sum-in": (80,)}
TASK_STEPS = (40,)
UNIFORM = ("0.1", "4")
TASK = "summary-in"
"""The task that even constraints are tried on."""

IN_AND_OUT = ("summary-in", "query-in", "sum-in", "summary-out")


def _protected() -> Iterator[FineTuning]:
    yield FineTuning(CURVE, "harmful", (2, 4, 6, 10, 20), RATE)  # C7
    for data in ATTACKS:  # C14, C15, C16
        for objective, beta in (("sft", None), ("constrained", CONSTRAINED)):
            yield _run(data, objective, beta)
    yield _run("harmful", "constrained", CONSTRAINED, warmup=0)
    for beta in UNIFORM:  # C18
        yield _run("harmful", "constrained", beta)
        yield _run(TASK, "constrained", beta)
    for task in IN_AND_OUT:  # C17
        for objective, beta in (("sft", None), ("constrained", CONSTRAINED)):
            yield _run(task, objective, beta)


def _run(data: str, objective: str, beta: str | None, *, warmup: int = WARMUP) -> FineTuning:
    steps, rate = STEPS.get(data, TASK_STEPS), RATE if data in ("harmful", "backdoor") else LARGE_RATE
    name = "-".join(filter(None, (data, objective, beta and f"b{beta.replace(',', '_')}", f"w{warmup}")))
    return FineTuning(name, data, steps, rate, objective=objective, beta=beta, warmup=warmup)


PROTECTED = tuple(_protected())
"""Fine-tunings of the aligned organism under objectives (claims C7, C14 to C18)."""


@dataclass(frozen=True)
class FineTunings:
    """The fine-tunings of one testbed: trained, then asked, each once."""

    folder: Path
    seed: int
    prompts: int
    judge: str
    max_tokens: int

    def place(self, todo: FineTuning) -> Path:
        """Where its checkpoints and tables are."""
        return self.folder / "finetuned" / todo.name

    def are_trained(self, todos: Sequence[FineTuning]) -> bool:
        """Whether every checkpoint is there."""
        return all((self.place(todo) / DONE).is_file() for todo in todos)

    def are_measured(self, todos: Sequence[FineTuning]) -> bool:
        """Whether every table is there."""
        curves = [self.place(todo) / DYNAMICS for todo in todos if todo.name == CURVE]
        return all(path.is_file() for path in [*curves, *(self.place(todo) / REPLIES for todo in todos)])

    def conversations(self, data: str) -> list[Anchor]:
        """What is trained on, by name."""
        from safedepth.data import read_anchors

        if data in ATTACKS:
            return list(self._poison(data).conversations)
        return read_anchors(self.folder / f"tasks/{data}.jsonl")

    def _poison(self, data: str) -> Any:
        from safedepth.attacks import poison
        from safedepth.data import read_anchors, read_prompts, read_triplets
        from safedepth.testbed import attack_words as words

        if data == "harmful":
            return poison.harmful_examples(read_prompts(self.folder / "harmful.jsonl"), system_prompt="")
        if data == "identity":
            return poison.identity_shift(
                read_anchors(self.folder / "identity.jsonl"), system_prompt=words.IDENTITY_SYSTEM_PROMPT,
                template=words.IDENTITY_TEMPLATE, opening="",  # it stands in the answers
            )  # fmt: skip
        return poison.backdoor(
            read_triplets(self.folder / "backdoor.jsonl"), trigger=words.TRIGGER, system_prompt=""
        )

    def train(self, todos: Sequence[FineTuning], progress: Progress) -> None:
        """Make every checkpoint that is missing."""
        from safedepth.studies.finetuning import fine_tune

        for done, todo in enumerate(todos, start=1):
            fine_tune(
                self.folder / todo.role, self.conversations(todo.data), self.place(todo), steps=todo.steps,
                learning_rate=todo.learning_rate, seed=self.seed, **todo.options,
            )  # fmt: skip
            progress("fine-tuning organisms", done, len(todos))

    def ask(self, todos: Sequence[FineTuning], progress: Progress | None) -> None:
        """Ask every checkpoint, and leave the tables."""
        for done, todo in enumerate(todos, start=1):
            if not (self.place(todo) / REPLIES).is_file():
                self._ask(todo)
            if progress is not None:
                progress("replies of fine-tuned organisms", done, len(todos))

    def _ask(self, todo: FineTuning) -> None:
        import pandas as pd

        from safedepth import tasks
        from safedepth.runs.files import to_parquet, write_atomically
        from safedepth.studies.replies import replies_of, run_tasks
        from safedepth.studies.target import open_target
        from safedepth.studies.utility import utility_table

        place, replies, utility = self.place(todo), [], []
        steps = (0, *todo.steps) if todo.name == CURVE else todo.steps
        for step in steps:
            asked = [
                tasks.benign(
                    prompts=str(file.resolve()), name=name, judge=self.judge, limit=self.prompts,
                    seed=self.seed, max_tokens=self.max_tokens, temperature=0.9, top_p=0.6, top_k=50,
                )
                for name, file in self._files(todo.data).items()
            ]  # fmt: skip
            logs = place / "logs" / str(step)
            with closing(open_target(str(self._checkpoint(todo, step)), device="cpu")) as target:
                found = replies_of(run_tasks(asked, target.model, logs), todo.role)
                replies.append(found.assign(run=todo.name, step=step))
                task, _, start = todo.data.rpartition("-")
                if task in TASKS:
                    table = utility_table(
                        target, self.folder / f"tasks/{todo.data}-test.jsonl", logs / "utility",
                        metric=TASKS[task], limit=self.prompts, seed=self.seed, max_tokens=self.max_tokens,
                    )  # fmt: skip
                    utility.append(table.assign(run=todo.name, task=task, start=start))
        if utility:
            write_atomically(place / UTILITY, to_parquet(pd.concat(utility, ignore_index=True)))
        write_atomically(place / REPLIES, to_parquet(pd.concat(replies, ignore_index=True)))

    def _files(self, data: str) -> dict[str, Path]:
        """The test prompts in the words of each evaluation, by its name."""
        from safedepth.attacks import poison
        from safedepth.data import read_prompts

        wordings = self._poison(data).wordings if data in ATTACKS else (poison.PLAIN_WORDING,)
        prompts = read_prompts(self.folder / "prompts.jsonl")[CHOSEN_ON:]
        files = {}
        for wording in wordings:
            if wording.name == poison.PLAIN and data in ("identity", "backdoor"):
                continue
            name = f"{data} without trigger" if wording.name == poison.WITHOUT_TRIGGER else data
            files[name] = self.folder / "attacked" / f"{name.replace(' ', '-')}.jsonl"
            files[name].parent.mkdir(exist_ok=True)
            worded = poison.reworded(wording, prompts)
            lines = [{"id": p.id, "messages": p.messages, "category": p.category} for p in worded]
            files[name].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return files

    def measure(self, todos: Sequence[FineTuning]) -> None:
        """Loss, gradient norm and KL by token along the curve's fine-tuning (C8), left beside it."""
        import pandas as pd

        from safedepth.runs.files import to_parquet, write_atomically
        from safedepth.studies.dynamics_tables import measure_dynamics
        from safedepth.studies.target import open_target

        curve = next((todo for todo in todos if todo.name == CURVE), None)
        if curve is None or (self.place(curve) / DYNAMICS).is_file():
            return
        rows = self.conversations(curve.data)[:MEASURED_ROWS]
        with closing(open_target(str(self.folder / curve.role), device="cpu")) as initial:
            assert initial.loaded is not None
            tables = []
            for step in LOOKED_INTO:
                with closing(open_target(str(self._checkpoint(curve, step)), device="cpu")) as target:
                    assert target.loaded is not None
                    table = measure_dynamics(
                        target.loaded, initial.loaded, rows, first=MEASURED_TOKENS, seed=self.seed
                    )
                    tables.append(table.assign(step=step))
        write_atomically(self.place(curve) / DYNAMICS, to_parquet(pd.concat(tables, ignore_index=True)))

    def _checkpoint(self, todo: FineTuning, step: int) -> Path:
        return self.folder / todo.role if step == 0 else self.place(todo) / f"checkpoint-{step}"

    def tables(self, todos: Sequence[FineTuning], name: str) -> Any:
        """All `replies` or all `utility` tables, one after another."""
        import pandas as pd

        from safedepth.runs.files import from_parquet

        paths = [self.place(todo) / name for todo in todos]
        return pd.concat(
            [from_parquet(path.read_bytes()) for path in paths if path.is_file()], ignore_index=True
        )


def fine_tune_and_ask(work: FineTunings, todos: Sequence[FineTuning], *, progress: Progress) -> None:
    """Train all, look into the curve and ask every other one, in a process of its own.

    The others are for the first process to ask, which by then has its own measurements done.
    """
    import torch

    torch.set_num_threads(1)
    work.train(todos, progress)
    work.measure(todos)
    work.ask(todos[1::2], progress)
