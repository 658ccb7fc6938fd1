"""Per-token KL between two models along given answers (claim C3), as a table.

Both models read the prompt and the harmful answer once; the logits of answer tokens
alone are formed, tile by tile, and never kept.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from safedepth.chat import Encoded
from safedepth.errors import DataError
from safedepth.measure.kl import token_kl
from safedepth.models import LoadedModel, head_of, hidden_states
from safedepth.nouns import Progress, Prompt, TokenSeries

__all__ = ["kl_table", "series_of"]

BATCH_TOKENS = 8192


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
    todo = [
        (prompt, _cut(p.chat.encode(prompt.messages, prompt.harmful), tokens))
        for prompt in prompts
        if prompt.harmful is not None
    ]
    if not todo:
        raise DataError(
            "The KL is measured along harmful answers; expected at least one prompt with a harmful answer."
        )
    heads = head_of(p.model), head_of(q.model)
    frames: list[pd.DataFrame] = []
    done = 0
    for batch in _batches(todo):
        ids, mask, answer = _padded([encoded for _, encoded in batch])
        with torch.inference_mode():
            hidden = [
                hidden_states(m.model, ids.to(m.model.device), mask.to(m.model.device))[:, :-1][
                    answer[:, 1:].to(m.model.device)
                ]
                for m in (p, q)
            ]
            kl = token_kl(hidden[0], heads[0], hidden[1].to(hidden[0].device), heads[1]).cpu().numpy()
        frames.append(_rows(p, batch, kl))
        done += len(batch)
        if progress is not None:
            progress(what, done, len(todo))
    return pd.concat(frames, ignore_index=True)


def _cut(encoded: Encoded, tokens: int | None) -> Encoded:
    """The sequence up to the last of the first `tokens` of its answer."""
    if tokens is None:
        return encoded
    return replace(encoded, ids=encoded.ids[: encoded.prompt_tokens + tokens])


def _batches(todo: list[tuple[Prompt, Encoded]]) -> list[list[tuple[Prompt, Encoded]]]:
    """Consecutive prompts whose padded batch holds at most `BATCH_TOKENS` tokens (or one prompt)."""
    batches: list[list[tuple[Prompt, Encoded]]] = [[]]
    for item in todo:
        longest = max(len(encoded.ids) for _, encoded in [*batches[-1], item])
        if batches[-1] and longest * (len(batches[-1]) + 1) > BATCH_TOKENS:
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


def _rows(p: LoadedModel, batch: list[tuple[Prompt, Encoded]], kl: NDArray[np.float32]) -> pd.DataFrame:
    lengths = [len(encoded.ids) - encoded.prompt_tokens for _, encoded in batch]
    tokens = [
        p.chat.tokenizer.convert_ids_to_tokens(list(encoded.ids[encoded.response])) for _, encoded in batch
    ]
    return pd.DataFrame(
        {
            "prompt_id": np.repeat([prompt.id for prompt, _ in batch], lengths),
            "position": np.concatenate([np.arange(1, length + 1) for length in lengths]),
            "token": [token for row in tokens for token in row],
            "kl": kl.astype(np.float64),
        }
    )


def series_of(table: pd.DataFrame, *, tokens: int | None = None) -> TokenSeries:
    """The table as a series, one row a prompt; `tokens` keeps the first positions alone."""
    wide = table.pivot(index="prompt_id", columns="position", values="kl").to_numpy(dtype=np.float64)
    wide = wide if tokens is None else wide[:, :tokens]
    mask = ~np.isnan(wide)
    return TokenSeries(values=np.where(mask, wide, 0.0), mask=mask)
