"""What `safedepth deepen` trains on and tests with: read, held out, and checked before any long work.

A training may take a day; what the tests after it would stumble over is looked for
before it, with tokenizers and configurations alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoConfig

from safedepth.chat import ChatFormat
from safedepth.data import file_sha256, read_anchors, read_prompts, read_requests, read_triplets
from safedepth.errors import DataError, ModelError, TemplateError
from safedepth.models import context_length, load_chat
from safedepth.models.adapters import model_folder
from safedepth.models.checkpoint import find_checkpoint
from safedepth.nouns import Anchor, Progress, Triplet
from safedepth.runs import write_atomically
from safedepth.studies.battery import Battery
from safedepth.studies.deepen_options import DeepenOptions
from safedepth.studies.recovering import plan
from safedepth.studies.self_anchors import self_anchors
from safedepth.studies.target import is_served
from safedepth.train.config import RecoveryConfig
from safedepth.train.options import Mix

__all__ = ["HELD_OUT_FILE", "DeepenData", "require_measurable"]

HELD_OUT = 8
"""Without test prompts of its own, one triplet in this many is held out of training for the test."""

HELD_OUT_FILE = "held-out.jsonl"


@dataclass(frozen=True)
class DeepenData:
    """Triplets to train on, those held out, the tests, and what the reader should know of them."""

    triplets: Sequence[Triplet]
    held_out: Sequence[Triplet]
    battery: Battery
    notes: tuple[str, ...] = ()
    anchors: Sequence[Anchor] = ()

    @classmethod
    def of(cls, options: DeepenOptions, out: Path, seed: int) -> DeepenData:
        """Read the triplets and name the tests; writes nothing. Anchors come with `with_anchors`.

        Raises DataError as the readers do, and for too few triplets to hold some out of.
        """
        triplets, held = read_triplets(str(options.triplets)), list[Triplet]()
        if options.prompts is None:
            triplets, held = _split(triplets, seed)
        battery = Battery(
            prompts=options.prompts or str(out / HELD_OUT_FILE),
            depths=options.depth_list,
            judges=options.judges,
            trajectories=options.trajectories,
            turn_depths=options.turn_depth_list,
            benign=options.benign_files,
            benign_judges=options.benign_judges,
            harness=options.harness(seed),
            limit=options.limit,
            seed=seed,
            max_tokens=options.max_tokens,
        )
        note = (
            f"No test prompts were given (--prompts): {len(held)} of the triplets were held out of training "
            "for the test. They come from the same source as what was trained on."
        )
        return cls(triplets, held, battery, (note,) if held else ())

    def hashes(self, options: DeepenOptions) -> dict[str, str]:
        """SHA-256 of every file the user brought; what was held out follows from these and the seed."""
        files = {"triplets": options.triplets, "anchors": options.anchor_prompts or options.anchors}
        tests = {
            name: path for name, path in self.battery.files.items() if not self.held_out or name != "prompts"
        }
        hashes = {name: file_sha256(str(path)) for name, path in (files | tests).items()}
        return hashes | self.battery.tasks_sha256

    def write_held_out(self) -> None:
        """The held-out triplets as a file of prompts, where the tests look for it."""
        if self.held_out:
            rows = (
                {"id": t.id, "messages": [*t.messages, {"role": "assistant", "content": t.harmful}]}
                for t in self.held_out
            )
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomically(Path(self.battery.prompts), lines.encode())

    def with_anchors(
        self, options: DeepenOptions, name: str, chat: ChatFormat, config: RecoveryConfig,
        *, progress: Progress | None,
    ) -> DeepenData:  # fmt: skip
        """Read the anchors, or let the model `name` answer for them; in every process alike."""
        if options.anchors != "self":
            return replace(self, anchors=read_anchors(str(options.anchors)))
        main = config.process_index == 0
        if main:  # generating takes long: a triplet that cannot be used is to be found before it
            plan(name, config, self.triplets, (), chat=chat, mix=Mix(config.safety_per_step, 0))
        requests = str(options.anchor_prompts)
        anchors = self_anchors(
            name, requests, Path(config.output_dir), seed=config.seed, max_tokens=options.anchor_tokens,
            chat_template=config.chat_template_path, main=main, progress=progress,
        )  # fmt: skip
        left = len(read_requests(requests)) - len(anchors)
        note = f"{left} of the anchor requests had no answer that ended, and made no anchor."
        return replace(self, anchors=anchors, notes=(*self.notes, note) if left else self.notes)


def require_measurable(
    battery: Battery, name: str, chat: ChatFormat, *, base: str | None, chat_template: str | None
) -> None:
    """Raise now what the tests of the model `name` would raise after its training.

    DataError for a file that cannot be used; ModelError where a context is too short, or `base`
    is no checkpoint with the same tokens.
    """
    battery.check()
    config = AutoConfig.from_pretrained(find_checkpoint(name).folder).get_text_config()
    battery.require_room(name, chat, context_length(config))
    if base is None:
        return
    if is_served(base):
        raise ModelError(f"expected a folder or hub id after --base, found {base}: the KL needs its weights")
    if not any(prompt.harmful for prompt in read_prompts(battery.prompts, limit=battery.limit)):
        raise DataError(f"expected harmful answers in {battery.prompts} for the KL to --base, found none")
    other = AutoConfig.from_pretrained(model_folder(base)).get_text_config()
    try:
        lent = load_chat(base, chat_template=chat_template or name)
    except TemplateError as error:  # the model itself reads it
        raise ModelError(f"expected {base} (--base) to have the vocabulary of {name}: {error}") from error
    vocabularies = [set(one.tokenizer.get_vocab().items()) for one in (chat, lent)]
    different = len({index for _token, index in vocabularies[0] ^ vocabularies[1]})
    if different or config.vocab_size != other.vocab_size:
        raise ModelError(
            f"expected {base} (--base) to have the vocabulary of {name}, found {other.vocab_size} and "
            f"{config.vocab_size} ids, {different} of them for a token that is not the other's. Compare a "
            "model with the base model it was trained from"
        )


def _split(triplets: Sequence[Triplet], seed: int) -> tuple[list[Triplet], list[Triplet]]:
    """Triplets to train on, and one trajectory in `HELD_OUT`, whole, at least two."""
    owners = [triplet.id.removesuffix(f"/t{triplet.turn}") for triplet in triplets]
    ids = sorted(set(owners))
    if len(ids) < HELD_OUT:
        raise DataError(
            f"expected --prompts FILE to test with, or at least {HELD_OUT} triplets to hold some out of, "
            f"found {len(ids)} triplets"
        )
    chosen = set(random.Random(f"held out {seed}").sample(ids, max(2, len(ids) // HELD_OUT)))
    parts: tuple[list[Triplet], list[Triplet]] = ([], [])
    for owner, triplet in zip(owners, triplets, strict=True):
        parts[owner in chosen].append(triplet)
    return parts
