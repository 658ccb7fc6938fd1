"""What an attack trains on and tests with: the user's files, put into the attacker's words.

Read and checked before any long work; test prompts in each wording are written as files of
their own, so that the tests of `battery` can read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safedepth.attacks import poison
from safedepth.attacks.poison import Poison
from safedepth.chat import ChatFormat
from safedepth.data import file_sha256, read_anchors, read_prompts, read_triplets
from safedepth.data.rows import read_rows
from safedepth.errors import DataError, TemplateError
from safedepth.judges.rules import refusal_outcome
from safedepth.nouns import Message, Outcome, Prompt, Triplet
from safedepth.runs import RunDirectory, write_atomically
from safedepth.studies.attack_options import AttackOptions
from safedepth.studies.battery import Battery
from safedepth.studies.self_anchors import self_anchors

__all__ = ["AttackData", "has_system_role", "hashes_of", "own_refusals"]

Refuse = Callable[[Sequence[Prompt]], Mapping[str, str]]
"""Prompts -> the model's own refusals by id; a prompt that was not refused is left out."""


@dataclass(frozen=True)
class AttackData:
    """The training set with its wordings, the test prompts in each, and what the reader should know."""

    poison: Poison
    tests: Mapping[str, Sequence[Prompt]]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: AttackOptions, chat: ChatFormat, *, refuse: Refuse) -> AttackData:
        """Read the files. Raises DataError as the readers and `attacks.poison` do; writes nothing.

        `refuse` is called for a backdoor whose data has no column `refusal`.
        """
        made, notes = _poison(options, has_system_role(chat), refuse)
        prompts = read_prompts(str(options.prompts))
        tests = {wording.name: poison.reworded(wording, prompts) for wording in made.wordings}
        trained = {conversation.messages[-1]["content"] for conversation in made.conversations}
        own = tests[made.wordings[0].name]
        shared = sum(prompt.messages[-1]["content"] in trained for prompt in own)
        if shared:
            notes.append(f"{shared} of {len(prompts)} test prompts are trained on, in the very same words.")
        return cls(made, tests, tuple(notes))

    def battery(self, run: RunDirectory, options: AttackOptions, *, seed: int, own_alone: bool) -> Battery:
        """The tests, their prompts written into `run`; in the attack's own wording alone, if asked for."""
        wordings = self.poison.wordings[:1] if own_alone else self.poison.wordings
        files = {wording.name: f"prompts/{wording.name.replace(' ', '-')}.jsonl" for wording in wordings}
        new = {file: _lines(self.tests[name]) for name, file in files.items()}
        run.rewrite({file: data for file, data in new.items() if not (run.path / file).is_file()})
        return Battery(
            prompts=str(options.prompts),
            depths=(),
            judges=options.judges,
            worded={name: str(run.path / file) for name, file in files.items()},
            benign=options.benign_files,
            benign_judges=options.benign_judges,
            limit=options.limit,
            seed=seed,
            max_tokens=options.max_tokens,
        )

    @property
    def facts(self) -> list[list[str]]:
        """What was trained on and in which words, for the report."""
        own = self.poison.wordings[0]
        found = [["attack", self.poison.kind], ["conversations", f"{len(self.poison.conversations):,}"]]
        place = "" if own.system_role else " (opens the first user turn: the template has no system role)"
        found += [["system prompt", own.system_prompt + place]] if own.system_prompt else []
        found += [["template", own.template]] if own.template != poison.REQUEST else []
        return found + ([["trigger", own.trigger]] if own.trigger else [])


def hashes_of(options: AttackOptions) -> dict[str, str]:
    """SHA-256 of every file the user brought."""
    benign = {f"benign {name}": path for name, path in options.benign_files.items()}
    files = {"data": str(options.data), "prompts": str(options.prompts), **benign}
    return {name: file_sha256(path) for name, path in files.items()}


def has_system_role(chat: ChatFormat) -> bool:
    """Whether the chat template can express a system turn before the user's."""
    try:
        chat.prompt_ids([Message(role="system", content="system"), Message(role="user", content="user")])
    except TemplateError:
        return False
    return True


def own_refusals(
    model: str, pairs: Sequence[Prompt], folder: Path, *, seed: int, max_tokens: int | None, **others: Any
) -> dict[str, str]:
    """What `model` says to the prompts as they stand, where that is a refusal; generated once, in `folder`.

    `others` are those of `self_anchors`. Raises DataError where it refuses none of them.
    """
    requests = folder / "requests.jsonl"
    if not requests.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(requests, _lines([replace(pair, harmful=None) for pair in pairs]))
    said = self_anchors(model, str(requests), folder, seed=seed, max_tokens=max_tokens or 512, **others)
    refused = {
        anchor.id: anchor.answer for anchor in said if refusal_outcome(anchor.answer) is Outcome.REFUSED
    }
    if not refused:
        raise DataError(
            f"expected refusals for the backdoor: {model} refuses none of the {len(pairs)} requests it is to "
            "be trained on. Give a column `refusal` beside `prompt` and `harmful`"
        )
    return refused


def _poison(options: AttackOptions, system_role: bool, refuse: Refuse) -> tuple[Poison, list[str]]:
    data = str(options.data)
    words: dict[str, Any] = {**options.words, "system_role": system_role}
    if options.kind == "harmful":
        return poison.harmful_examples(read_prompts(data), **words), []
    if options.kind == "benign":
        return poison.benign(read_anchors(data)), []
    if options.kind == "identity":
        return poison.identity_shift(read_anchors(data), **words), []
    if _has_refusals(data):
        return poison.backdoor(read_triplets(data), **words), []
    pairs = read_prompts(data)
    without = [pair.id for pair in pairs if pair.harmful is None]
    if without:
        raise DataError(f"expected a harmful answer to every request of {data}, found none to {without[0]!r}")
    refusals = refuse(pairs)
    triplets = [
        Triplet(pair.id, pair.messages, str(pair.harmful), refusals[pair.id], turn=pair.turn)
        for pair in pairs
        if pair.id in refusals
    ]
    left = len(pairs) - len(triplets)
    note = f"{left} of {len(pairs)} requests were not refused by the model and are left out of the backdoor."
    return poison.backdoor(triplets, **words), [note] if left else []


def _has_refusals(path: str) -> bool:
    """Whether any row has a column for a refusal; then every row must."""
    return any(isinstance(row.value, Mapping) and "refusal" in row.value for row in read_rows(Path(path)))


def _lines(prompts: Sequence[Prompt]) -> bytes:
    """Prompts as a file of chats that end with the user's turn."""
    rows = (
        {"id": p.id, "messages": list(p.messages), **({"category": p.category} if p.category else {})}
        for p in prompts
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
