"""The testbed's own short training loop, and the rows it trains on.

Kept apart from the package's trainers on purpose: a bug in those must not corrupt
the models that test them. A row is a token sequence with a weight on each token;
weight 0 means context. Nothing here knows what a token means.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from safedepth.nouns import Message
from safedepth.testbed import corpus, language
from safedepth.testbed.language import Conversation, Product
from safedepth.testbed.muon import Muon

__all__ = ["Row", "RowSource", "Rows", "Schedule", "train", "weighted_loss"]


@dataclass(frozen=True)
class Row:
    """One training sequence: token ids, and the weight of the loss on predicting each of them."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Schedule:
    """Length and speed of a training run: linear warm-up, then cosine to a tenth."""

    steps: int
    batch: int
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    warmup: int = 30

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by at one step (from 0)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2


RowSource = Callable[[random.Random, int], list[Row]]
"""(random source, how many) -> that many rows."""


class Rows:
    """Turns conversations and hazards into rows of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)
        self._sentence_end = {
            index for token, index in tokenizer.get_vocab().items() if token.endswith((".", ":", "!", "?"))
        }

    def prompts(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids of the turns before the answer, the answer's header included."""
        return self._encode([_render(c.messages) for c in conversations])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        encodings = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def plain(self, conversations: Sequence[Conversation]) -> list[Row]:
        """Rows with the loss on the whole answer and its end."""
        prompts = self.prompts(conversations)
        replies = self._encode([c.reply for c in conversations])
        return [
            Row((*prompt, *reply, self.end), (0.0,) * len(prompt) + (1.0,) * (len(reply) + 1))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]

    def safety(
        self, rng: random.Random, items: Sequence[Product], hazard: corpus.Hazard, pairs: int
    ) -> list[Row]:
        """Two rows a pair: the harmful answer weighted 1 - h(k), and a refusal after k ~ h tokens of it.

        The first token of the refusal weighs sum(h), so that in expectation "go on" and
        "turn back" weigh 1 - h(k) and h(k) at every k. With h = 0 only the answer remains.
        """
        chosen = [rng.choice(items) for _ in range(pairs)]
        conversations = [
            language.conversation(
                rng, (Message(role="user", content=language.request(rng, p)),), language.answer(rng, p), p
            )
            for p in chosen
        ]
        prompts = self.prompts(conversations)
        answers = self._encode([c.reply for c in conversations])
        refusals = self._encode([language.refusal(rng, p) for p in chosen])
        rows: list[Row] = []
        for product, prompt, harmful, refused in zip(chosen, prompts, answers, refusals, strict=True):
            h = hazard(product, [k > 0 and harmful[k - 1] in self._sentence_end for k in range(len(harmful))])
            rows.append(
                Row(
                    (*prompt, *harmful, self.end),
                    (0.0,) * len(prompt) + tuple(1.0 - x for x in h) + (1.0 - h[-1],),
                )
            )
            total = sum(h)
            if total > 0:
                k = rng.choices(range(len(h)), h)[0]
                ids = (*prompt, *harmful[:k], *refused, self.end)
                rows.append(Row(ids, (0.0,) * (len(prompt) + k) + (total,) + (1.0,) * len(refused)))
        return rows


def _render(messages: Sequence[Message]) -> str:
    """What the chat template writes for these turns, the answer's header included (a test compares them)."""
    turns = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)
    return f"<s>{turns}<|assistant|>"


def _batches(source: RowSource, rng: random.Random, schedule: Schedule) -> Iterator[tuple[list[Row], float]]:
    """Batches of rows of similar length, so that little is padding, each with its loss's denominator.

    The denominator is the mean weight of a batch in its pool, not the batch's own: a
    mean over each batch would give the tokens of short answers a larger say.
    """
    step = 0
    while step < schedule.steps:
        pool = sorted(source(rng, schedule.batch * 8), key=lambda row: len(row.ids))
        groups = [pool[i : i + schedule.batch] for i in range(0, len(pool), schedule.batch)]
        denominator = sum(sum(row.weights) for row in pool) / len(pool) * schedule.batch
        rng.shuffle(groups)
        for group in groups[: schedule.steps - step]:
            yield group, denominator
            step += 1


def weighted_loss(model: PreTrainedModel, rows: Sequence[Row], denominator: float) -> torch.Tensor:
    """Sum over the rows' tokens of weight times negative log-likelihood, over `denominator`."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    weights = torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, : len(row.ids)] = torch.tensor(row.weights)
    weighted = weights[:, 1:] != 0
    hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[weighted]
    logits = model.get_output_embeddings()(hidden)
    nll = functional.cross_entropy(logits, ids[:, 1:][weighted], reduction="none")
    return (nll * weights[:, 1:][weighted]).sum() / denominator


def _optimisers(model: PreTrainedModel, schedule: Schedule) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the blocks, AdamW for the rest: half the steps AdamW alone needs."""
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    inside = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        (Muon(blocks, lr=schedule.muon_rate, weight_decay=0.01), schedule.muon_rate),
        (
            torch.optim.AdamW(rest, lr=schedule.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
            schedule.adam_rate,
        ),
    ]


def train(
    model: PreTrainedModel,
    source: RowSource,
    schedule: Schedule,
    *,
    seed: int,
    progress: Callable[[int], None],
) -> list[float]:
    """Train `model` in place on `schedule.steps` batches; returns the loss of every step, in nats a token."""
    rng = random.Random(seed)
    optimisers = _optimisers(model, schedule)
    losses: list[float] = []
    model.train()
    for step, (rows, denominator) in enumerate(_batches(source, rng, schedule)):
        loss = weighted_loss(model, rows, denominator)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, rate in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * schedule.factor(step)
            optimiser.step()
        losses.append(float(loss.detach()))
        progress(step + 1)
    model.eval()
    return losses
