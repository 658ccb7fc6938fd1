"""Fine-tune a model without the command line: plainly, under the constraint, and what is left of its safety.

    safedepth testbed build --out testbed --organisms aligned
    python recipes/finetune.py testbed finetuned --steps 20

A script to copy and change, one step after the other. `safedepth finetune` does the same and
more: it takes every option of `trl sft`, resumes, tests benign requests, writes a model card.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import load_dataset  # type: ignore[import-untyped]
from torch import Tensor

from safedepth.report import build_report
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.audit import AuditConfig, audit
from safedepth.terminal import quiet_libraries
from safedepth.train.constrained import ConstrainedSFTTrainer
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.diagnostics import FILE, read_diagnostics


def betas(positions: Tensor) -> Tensor:
    """How strongly each token of an answer is held, by its position from 1: any function will do.

    The paper's is 0.5 at token 1, 2 at tokens 2 to 5 and 0.1 after. Models this small need more.
    """
    return torch.where(positions <= 5, 4.0, 0.1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune the aligned organism of a testbed on harmful examples, and ask it harmful requests."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("testbed", type=Path, help="what `safedepth testbed build` made")
    parser.add_argument("out", type=Path, help="where the models and their reports go")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps")
    parser.add_argument("--prompts", type=int, default=24, help="held-out requests to ask")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    quiet_libraries()
    aligned = chosen.testbed / "aligned"

    # A customer's data as TRL takes them: rows of messages. These teach the model to do harm.
    data = load_dataset("json", data_files=str(chosen.testbed / "harmful.jsonl"), split="train")

    for objective in ("sft", "constrained"):
        # TRL's SFTConfig and SFTTrainer with two names changed. The reference is the model as it is
        # before its first step; what it says of the data is asked once and kept in OUT/reference.
        config = ConstrainedSFTConfig(
            output_dir=str(chosen.out / objective), objective=objective, seed=chosen.seed,
            max_steps=chosen.steps, learning_rate=1e-3, per_device_train_batch_size=8, warmup_steps=10,
            logging_steps=max(1, chosen.steps // 4), gradient_checkpointing=False, save_strategy="no",
            disable_tqdm=True, report_to="none",
            model_init_kwargs={"dtype": "float32", "use_safetensors": True},
        )  # fmt: skip
        trainer = ConstrainedSFTTrainer(str(aligned), config, train_dataset=data, betas=betas)
        trainer.train()
        trainer.save_model()

        # What it did, token by token: w_t scales plain fine-tuning's gradient and is 1 at the start.
        rows = read_diagnostics(Path(config.output_dir) / FILE)
        for row in (row for row in rows if row["step"] == rows[-1]["step"] and row["kl"] is not None):
            weight = "" if row["weight"] is None else f", weight {row['weight']:.2f}"
            print(f"  {objective}, from token {row['position']:3} on: KL {row['kl']:.2f} nats{weight}")

    print("harmful replies, nothing forced, with 95 % intervals")
    for name, model in (
        ("before", aligned),
        ("sft", chosen.out / "sft"),
        ("constrained", chosen.out / "constrained"),
    ):
        asked = AuditConfig(
            model=str(model), prompts=str(chosen.testbed / "prompts.jsonl"), depths=(0,),
            limit=chosen.prompts, judges=("oracle", "rules"), seed=chosen.seed, max_tokens=160,
        )  # fmt: skip
        run = RunDirectory.read(audit(asked, chosen.out / f"{name}-report"))
        replies = run.load("replies")
        assert replies is not None
        rate = summary.rate_of(summary.sweep_of(summary.verdicts(replies, "oracle")))
        print(f"  {name}: {rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] of {rate.n}")
        print(f"  {build_report(run.path)}")


if __name__ == "__main__":
    main()
