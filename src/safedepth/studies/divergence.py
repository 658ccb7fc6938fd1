"""Per-token KL between two models along given answers (claim C3), as a table.

Both models read the prompt and the harmful answer once; the logits of answer tokens
alone are formed, tile by tile, and never kept.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from safedepth.chat import ChatFormat, Encoded
from safedepth.errors import DataError
from safedepth.measure.kl import token_kl
from safedepth.models import LoadedModel, head_of, hidden_states
from safedepth.nouns import Progress, Prompt, TokenSeries

__all__ = ["Answer", "answer_batches", "answer_states", "kl_table", "places_of", "series_of"]

BATCH_TOKENS = 8192
BATCH_PROMPTS = 8
"""Prompts a batch at most: it keeps a GPU busy, and leaves enough batches to share among many."""


class Answer(NamedTuple):
    """A prompt with its harmful answer as token ids, of which the first ones may be all there are."""

    prompt: Prompt
    encoded: Encoded


def answer_batches(
    chat: ChatFormat, prompts: Sequence[Prompt], *, tokens: int | None = None
) -> list[list[Answer]]:
    """Harmful answers in consecutive batches: at most `BATCH_PROMPTS`, and `BATCH_TOKENS` padded tokens.

    Prompts without an answer are left out; `tokens` keeps the first of every answer's tokens. The
    cut depends on the prompts alone. Raises DataError where no prompt has a harmful answer.
    """
    todo = [
        Answer(prompt, _cut(chat.encode(prompt.messages, prompt.harmful), tokens))
        for prompt in prompts
        if prompt.harmful is not None
    ]
    if not todo:
        raise DataError(
            "The KL is measured along harmful answers; expected at least one prompt with a harmful answer."
        )
    return _batches(todo)


def answer_states(model: LoadedModel, batch: Sequence[Answer]) -> torch.Tensor:
    """Hidden states [N, d] before each of the batch's N answer tokens, on the model's device."""
    ids, mask, answer = _padded([encoded for _, encoded in batch])
    device = model.model.device
    with torch.inference_mode():
        hidden = hidden_states(model.model, ids.to(device), mask.to(device))
        return hidden[:, :-1][answer[:, 1:].to(device)]


def places_of(chat: ChatFormat, batch: Sequence[Answer]) -> pd.DataFrame:
    """One row for each of the batch's answer tokens: `prompt_id`, `position` (from 1), `token`."""
    lengths = [len(encoded.ids) - encoded.prompt_tokens for _, encoded in batch]
    tokens = [
        chat.tokenizer.convert_ids_to_tokens(list(encoded.ids[encoded.response])) for _, encoded in batch
    ]
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([prompt.id for prompt, _ in batch], lengths),
            "position": np.concatenate([np.arange(1, length + 1) for length in lengths]),
            "token": [token for row in tokens for token in row],
        }
    )


def kl_table(
    p: LoadedModel,
    q: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    tokens: int | None = None,
    what: str = "KL along harmful answers",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """KL(p || q) in nats at every token of every prompt's harmful answer, or at its first `tokens`.

    One row a token: `prompt_id`, `position` (from 1), `token` (as the vocabulary writes
    it), `kl`. Raises DataError where no prompt has a harmful answer.
    """
    batches = answer_batches(p.chat, prompts, tokens=tokens)
    heads = head_of(p.model), head_of(q.model)
    frames: list[pd.DataFrame] = []
    done, total = 0, sum(map(len, batches))
    for batch in batches:
        hidden_p, hidden_q = (answer_states(model, batch) for model in (p, q))
        kl = token_kl(hidden_p, heads[0], hidden_q.to(hidden_p.device), heads[1]).cpu().numpy()
        frames.append(places_of(p.chat, batch).assign(kl=kl.astype(np.float64)))
        done += len(batch)
        if progress is not None:
            progress(what, done, total)
    return pd.concat(frames, ignore_index=True)


def _cut(encoded: Encoded, tokens: int | None) -> Encoded:
    """The sequence up to the last of the first `tokens` of its answer."""
    if tokens is None:
        return encoded
    return replace(encoded, ids=encoded.ids[: encoded.prompt_tokens + tokens])


def _batches(todo: list[Answer]) -> list[list[Answer]]:
    batches: list[list[Answer]] = [[]]
    for item in todo:
        longest = max(len(encoded.ids) for _, encoded in [*batches[-1], item])
        full = len(batches[-1]) == BATCH_PROMPTS or longest * (len(batches[-1]) + 1) > BATCH_TOKENS
        if batches[-1] and full:
            batches.append([])
        batches[-1].append(item)
    return batches


def _padded(batch: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids [B, T], attention mask [B, T] and where the answer's tokens are [B, T]; padded on the right."""
    longest = max(len(encoded.ids) for encoded in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    answer = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded.ids)] = torch.tensor(encoded.ids)
        mask[row, : len(encoded.ids)] = 1
        answer[row, encoded.response] = True
    return ids, mask, answer


def series_of(table: pd.DataFrame, *, tokens: int | None = None) -> TokenSeries:
    """The table as a series, one row a prompt; `tokens` keeps the first positions alone."""
    wide = table.pivot(index="prompt_id", columns="position", values="kl").to_numpy(dtype=np.float64)
    wide = wide if tokens is None else wide[:, :tokens]
    mask = ~np.isnan(wide)
    return TokenSeries(values=np.where(mask, wide, 0.0), mask=mask)
