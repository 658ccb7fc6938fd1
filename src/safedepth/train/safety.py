"""Safety examples as training rows and as tokens: what the SafeInstr and PACT baselines go by.

Requests with refusals, from the user's file; nothing is made up here.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset, concatenate_datasets  # type: ignore[import-untyped]
from torch import Tensor

from safedepth.chat import ChatFormat
from safedepth.data import read_anchors
from safedepth.errors import DataError
from safedepth.train.examples import IGNORED, anchor_example, opened_anchor

__all__ = ["mixed_with_safety", "safety_rows", "safety_tokens"]

FIRST = 5
"""Positions of a refusal at which safety tokens are looked for."""

MOST_ROWS = 64
"""Rows that safety tokens are looked for in."""


def mixed_with_safety(rows: Any, tokenizer: Any, args: Any) -> Any:
    """The rows and, a `safety_share` of their number, safety examples (SafeInstr, arXiv 2309.07875)."""
    safety = safety_rows(tokenizer, args.safety_data)
    count = max(1, round(args.safety_share * len(rows)))
    chosen = [safety[i % len(safety)] for i in range(count)]
    added = Dataset.from_list(chosen, features=rows.features)
    return concatenate_datasets([rows, added])


def safety_rows(tokenizer: Any, path: str) -> list[dict[str, Any]]:
    """Requests with refusals as rows of input_ids and labels. Raises DataError where there are none."""
    chat = ChatFormat.of(tokenizer)
    examples = [anchor_example(chat, opened_anchor(chat, row)) for row in read_anchors(path)]
    if not examples:
        raise DataError(f"expected requests with refusals in {path}, found none")
    return [{"input_ids": list(example.ids), "labels": list(example.labels)} for example in examples]


@torch.no_grad()
def safety_tokens(model: Any, tokenizer: Any, args: Any) -> Tensor:
    """Ids [S] of the tokens that the model thinks likeliest where refusals of the safety data begin.

    PACT takes the 50 likeliest; so does `args.safety_tokens` by default. The model's own
    probabilities decide, so no list of words is needed.
    """
    rows = safety_rows(tokenizer, args.safety_data)
    device = next(model.parameters()).device
    total: Tensor | None = None
    for row in rows[:MOST_ROWS]:
        begin = next(i for i, label in enumerate(row["labels"]) if label != IGNORED)
        read = row["input_ids"][:-1][: begin + FIRST - 1]  # each predicts one of the first
        ids = torch.tensor([read], device=device)
        said = model(input_ids=ids, use_cache=False).logits[0, begin - 1 :].float().softmax(-1).sum(0)
        total = said if total is None else total + said
    assert total is not None
    return total.topk(min(args.safety_tokens, len(total))).indices.sort().values
