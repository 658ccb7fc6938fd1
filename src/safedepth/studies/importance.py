"""Where safety lives in a model's answers, measured, and the betas that follow from it.

Three ways: how far the model is from its base model along harmful answers, how hard their
tokens pull at its weights, and a schedule learnt with held-out refusals. What is found is
kept as a file that `--beta` reads again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safedepth.data import file_sha256, read_anchors, read_prompts
from safedepth.errors import DataError
from safedepth.measure.gradients import GradientMeter
from safedepth.models import LoadedModel, head_of, load_model, require_same_vocabulary
from safedepth.nouns import Anchor, Progress, Prompt
from safedepth.runs.files import read_json, to_json, write_atomically
from safedepth.studies.divergence import kl_table
from safedepth.studies.training import free_memory
from safedepth.train.bilevel import Bilevel, learn_betas
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.examples import anchor_example, opened_anchor
from safedepth.train.importance import HIGH, LOW, importance_betas, listed_groups, means_by_group
from safedepth.train.positions import GROUPS

__all__ = [
    "FILE",
    "Importance",
    "gradient_importance",
    "kl_importance",
    "learnt_importance",
    "settle_importance",
]

FILE = "importance.json"

MEASURED = 64
"""Prompts that a divergence or gradients are measured on: means over positions need no more."""


@dataclass(frozen=True)
class Importance:
    """One beta for each group of response positions (`GROUPS`), and what it follows from.

    `means` are the measured importances, in nats (kl) or norms (gradient); `safety` the safety loss
    of every round, where betas were learnt.
    """

    how: str
    betas: tuple[float, ...]
    means: tuple[float, ...] | None = None
    safety: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """As the file has it: `betas` by position, as `--beta FILE` reads it, and a row for each group."""
        means = self.means or (None,) * len(self.betas)
        rows = [
            {"position": first, "last": last, "importance": mean, "beta": beta}
            for (first, last), mean, beta in zip(GROUPS, means, self.betas, strict=True)
        ]
        found = {"importance": self.how, "betas": listed_groups(self.betas), "groups": rows}
        return found if self.safety is None else found | {"safety_loss": list(self.safety)}


def kl_importance(
    model: LoadedModel,
    base: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    low: float = LOW,
    high: float = HIGH,
    progress: Progress | None = None,
) -> Importance:
    """Importance is KL(model || base) at each token of the prompts' harmful answers (figure 1).

    Give requests that the model refuses. Raises ModelError for models with different vocabularies,
    DataError without harmful answers, and where the models do not differ.
    """
    require_same_vocabulary(model, base)
    table = kl_table(model, base, prompts, progress=progress)
    means = means_by_group(torch.tensor(table["kl"].to_numpy()), torch.tensor(table["position"].to_numpy()))
    return Importance("kl", tuple(importance_betas(means, low=low, high=high)), tuple(means))


def gradient_importance(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    low: float = LOW,
    high: float = HIGH,
    progress: Progress | None = None,
) -> Importance:
    """Importance is the norm of the gradient of the loss of each token of the harmful answers (figure 3).

    Raises DataError without harmful answers.
    """
    answered = _answered(prompts)
    meter = GradientMeter(model.model, head_of(model.model))
    norms, positions = [], []
    for done, prompt in enumerate(answered, start=1):
        encoded = model.chat.encode(prompt.messages, prompt.harmful)
        if len(encoded.ids) > encoded.prompt_tokens:
            found = torch.tensor(meter.norms(torch.tensor(encoded.ids), encoded.prompt_tokens).whole)
            norms.append(found)
            positions.append(torch.arange(1, len(found) + 1))
        if progress is not None:
            progress("gradients along harmful answers", done, len(answered))
    means = means_by_group(torch.cat(norms), torch.cat(positions))
    return Importance("gradient", tuple(importance_betas(means, low=low, high=high)), tuple(means))


def learnt_importance(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    refusals: Sequence[Anchor],
    how: Bilevel | None = None,
    *,
    progress: Progress | None = None,
) -> Importance:
    """Betas under which training on the prompts' harmful answers leaves the held-out `refusals` likeliest.

    All the model's parameters are trained meanwhile, and put back; load it in float32. Raises
    DataError without either, and where a request is in both.
    """
    answered = [Anchor(p.id, p.messages, p.harmful) for p in _answered(prompts) if p.harmful is not None]
    both = [refusal.id for refusal in refusals if refusal.messages in [a.messages for a in answered]]
    if both:
        raise DataError(
            f"expected refusals of other requests than those with harmful answers, found that of refusal "
            f"{both[0]!r} in both (--safety_data, --importance_data): what decides betas must be held out"
        )
    wanted = [parameter.requires_grad for parameter in model.model.parameters()]
    rows, safety = ([_row(model, conversation) for conversation in some] for some in (answered, refusals))
    try:
        model.model.requires_grad_(True)
        learnt = learn_betas(model.model, rows, safety, how, progress=progress)
    finally:
        for parameter, before in zip(model.model.parameters(), wanted, strict=True):
            parameter.requires_grad_(before)
    return Importance("learned", learnt.betas, safety=learnt.safety)


def settle_importance(config: ConstrainedSFTConfig, model: str, *, progress: Progress | None = None) -> None:
    """Find the betas that `config.importance` asks for, of the model (folder or hub id), for `config.beta`.

    They are kept in the output folder, and found there by a resumed run and by other processes once
    the main one is done. Nothing happens where no importance is asked for. Raises DataError and
    ModelError as what it calls.
    """
    if config.importance is None:
        return
    path = Path(config.output_dir) / FILE
    asked = _asked(config, model)
    with config.main_process_first(desc="importance"):
        if not path.is_file() or read_json(path).get("asked") != asked:
            found = _found(config, model, progress)
            free_memory()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, to_json(found.to_json() | {"asked": asked}).encode())
    config.beta = str(path)


def _asked(config: Any, model: str) -> dict[str, Any]:
    """All that decides the betas: what is in the file is as good as new while this is the same."""
    names = ["importance", "importance_low", "importance_high", "chat_template_path"]
    files = ["importance_data"]
    if config.importance == "kl":
        names.append("base")
    if config.importance == "learned":
        names += ["learning_rate", "seed"]
        files.append("safety_data")
    given = {name: getattr(config, name) for name in names}
    return given | {"model": model} | {name: file_sha256(getattr(config, name)) for name in files}


def _found(config: Any, name: str, progress: Progress | None) -> Importance:
    """The importance that the options of a checked configuration describe."""
    bounds = {"low": config.importance_low, "high": config.importance_high}
    template = config.chat_template_path
    prompts = read_prompts(config.importance_data)
    some = _answered(prompts)[:MEASURED]
    if config.importance == "kl":
        loaded = load_model(name, chat_template=template)
        base = load_model(config.base, chat_template=template or name)
        return kl_importance(loaded, base, some, progress=progress, **bounds)
    loaded = load_model(name, chat_template=template, dtype="float32")
    if config.importance == "gradient":
        return gradient_importance(loaded, some, progress=progress, **bounds)
    how = Bilevel(learning_rate=config.learning_rate, seed=config.seed, **bounds)
    refusals = read_anchors(config.safety_data)
    return learnt_importance(loaded, prompts, refusals, how, progress=progress)


def _answered(prompts: Sequence[Prompt]) -> list[Prompt]:
    found = [prompt for prompt in prompts if prompt.harmful is not None]
    if not found:
        raise DataError(
            "expected requests with harmful answers to find out where safety lives, found none "
            "(--importance_data)"
        )
    return found


def _row(model: LoadedModel, conversation: Anchor) -> dict[str, list[int]]:
    example = anchor_example(model.chat, opened_anchor(model.chat, conversation))
    return {"input_ids": list(example.ids), "labels": list(example.labels)}
