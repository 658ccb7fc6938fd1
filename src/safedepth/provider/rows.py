"""One job under way: what it has generated, its random stream, and when it ends.

Knows token ids and the future that waits for them; no model and no tensors.
"""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from safedepth.provider.jobs import Completion, Job, StopReason, TokenLogprob
from safedepth.provider.sampling import random_keys

__all__ = ["Row"]


class Row:
    """The state of `job`; `room` is the number of tokens the model's context still has for it.

    `cached` counts the tokens whose keys and values are in the row's slot.
    """

    def __init__(self, job: Job, future: Future[Completion], *, room: int | None) -> None:
        self.job = job
        self.future = future
        self.generated: list[int] = []
        self.cached = 0
        self.prompt_logprobs: tuple[TokenLogprob, ...] | None = None
        self._logprobs: list[TokenLogprob] = []
        self._keys = random_keys(job)
        asked = job.sampling.max_tokens
        self.limit = asked if room is None else min(asked, room)
        self._at_limit: StopReason = "max_tokens" if self.limit == asked else "model_length"

    @property
    def context(self) -> tuple[int, ...]:
        """All tokens so far: what has to be prefilled to go on from here."""
        return (*self.job.ids, *self.generated)

    @property
    def next_input(self) -> int:
        """The token to run through the model next: the first one that is not cached."""
        ahead = self.cached - len(self.job.ids)
        return self.job.ids[self.cached] if ahead < 0 else self.generated[ahead]

    @property
    def complete(self) -> bool:
        """Whether all tokens so far are cached, so that the next one can be picked."""
        return self.cached == len(self.job.ids) + len(self.generated)

    @property
    def most(self) -> int:
        """Tokens the row can come to hold."""
        return len(self.job.ids) + self.limit

    @property
    def done(self) -> bool:
        """Finished, failed, or cancelled by whoever waits for it."""
        return self.future.done()

    @property
    def wants_prompt(self) -> bool:
        """Whether the log-probs of the prompt are asked for and not there yet."""
        return self.job.sampling.prompt_logprobs is not None and self.prompt_logprobs is None

    def key(self) -> int:
        """The random key that picks the next token."""
        return 0 if self.job.sampling.greedy else next(self._keys)

    def take(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Append the next token, or end on it. A stop rule of the job that raises fails the job."""
        if token in self.job.sampling.stop_ids:
            self.finish("stop")
            return
        self.generated.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        try:
            ended = self.job.ends is not None and self.job.ends(self.generated)
        except Exception as error:  # noqa: BLE001 - foreign code: its failure belongs to this job alone
            self.fail(error)
            return
        if ended:
            self.finish("stop")
        elif len(self.generated) >= self.limit:
            self.finish(self._at_limit)

    def finish(self, reason: StopReason | None = None) -> None:
        """Hand over the completion; without a reason, the one that applies at the limit."""
        wanted = self.job.sampling.logprobs is not None
        completion = Completion(
            ids=tuple(self.generated),
            stop_reason=reason or self._at_limit,
            logprobs=tuple(self._logprobs) if wanted else None,
            prompt_logprobs=self.prompt_logprobs,
        )
        with suppress(InvalidStateError):  # cancelled in this very moment
            self.future.set_result(completion)

    def fail(self, error: BaseException) -> None:
        """Hand over an error instead."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)
