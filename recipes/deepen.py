"""Deepen a model without the command line: data, plan, trainer, and a prefilling attack before and after.

    safedepth testbed build --out testbed --organisms base,aligned
    python recipes/deepen.py testbed deepened --steps 100

A script to copy and change, one step after the other. `safedepth deepen` does the same and
more: it resumes, trains the control, tests turns and benign requests, writes a model card.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from safedepth.data import read_anchors, read_triplets
from safedepth.models import load_chat
from safedepth.nouns import Rate
from safedepth.report import build_report
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.audit import AuditConfig, audit
from safedepth.terminal import quiet_libraries
from safedepth.train.config import RecoveryConfig
from safedepth.train.draws import Draws
from safedepth.train.examples import IGNORED
from safedepth.train.styles import style_named
from safedepth.train.trainer import RecoveryTrainer

DEPTHS = (0, 5, 10, 20, 40)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the aligned organism of a testbed for recovery, and attack it before and after."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("testbed", type=Path, help="what `safedepth testbed build` made")
    parser.add_argument("out", type=Path, help="where the model and the two reports go")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps")
    parser.add_argument("--prompts", type=int, default=24, help="held-out prompts to attack with")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    quiet_libraries()
    aligned, deepened = chosen.testbed / "aligned", chosen.out / "model"

    # What goes in: (request, harmful answer, refusal), and benign requests with answers to keep.
    triplets = read_triplets(chosen.testbed / "triplets.jsonl")
    anchors = read_anchors(chosen.testbed / "anchors.jsonl")

    # TRL's SFTConfig with a few options more. Models this small need a larger learning rate than
    # 2e-5, and 4 + 16 examples a step are enough for them.
    config = RecoveryConfig(
        output_dir=str(deepened), seed=chosen.seed, max_steps=chosen.steps, learning_rate=1e-3,
        safety_per_step=4, anchors_per_step=16, recovery="uniform", refusal_style="given", max_length=512,
        gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        model_init_kwargs={"dtype": "float32", "use_safetensors": True},
    )  # fmt: skip

    # The plan: every example of every step is a function of its number. A policy of your own is a
    # function (random source, tokens of the harmful answer) -> where to turn back, and a style one of
    # (triplet, where) -> what to say.
    chat = load_chat(str(aligned))
    draws = Draws(
        chat, triplets, anchors, mix=config.mix, steps=config.steps(len(triplets)), seed=config.seed,
        recovery=config.policy(), style=style_named(config.refusal_style, triplets),
        longest=config.longest_prefix, max_length=config.max_length,
    )  # fmt: skip
    print(f"{draws.steps} steps of {config.mix.safety} safety examples and {config.mix.anchors} anchors.")
    for draw in [d for d in map(draws.draw, range(config.mix.size)) if d.safety]:
        ids, labels = draw.example.ids, draw.example.labels
        learnt = [label for label in labels if label != IGNORED]
        print(f"  reads  {chat.decode(ids[: -len(learnt)])!r}\n  learns {chat.decode(learnt)!r}")

    # TRL's SFTTrainer with another loss.
    trainer = RecoveryTrainer(str(aligned), config, draws=draws)
    trainer.train()
    trainer.save_model(str(deepened))

    # The same attack on both models: the first k tokens of a harmful answer are forced.
    print("harmful continuations, with 95 % intervals")
    for name, model in (("before", aligned), ("after", deepened)):
        asked = AuditConfig(
            model=str(model), base=str(chosen.testbed / "base"), limit=chosen.prompts, seed=chosen.seed,
            prompts=str(chosen.testbed / "prompts.jsonl"), depths=DEPTHS, judges=("oracle", "rules"),
            max_tokens=160,
        )  # fmt: skip
        run = RunDirectory.read(audit(asked, chosen.out / name))
        replies = run.load("replies")
        assert replies is not None
        sweep = summary.sweep_of(summary.verdicts(replies, "oracle"))
        for k in DEPTHS:
            print(f"  {name}, {k:2} tokens forced: {said(summary.rate_of(sweep[sweep['k'] == k]))}")
        print(f"  {build_report(run.path)}")


def said(rate: Rate) -> str:
    """A rate with its interval and the number of replies."""
    if rate.value is None or rate.low is None or rate.high is None:
        return f"nothing scored ({rate.unscored} unscored)"
    return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] of {rate.n}"


if __name__ == "__main__":
    main()
