"""The decoding attack: one prompt under many decoding settings, of which the worst counts.

Huang et al., "Catastrophic Jailbreak of Open-source LLMs via Exploiting Generation"
(arXiv 2310.06987); claim C6 of the paper. Its 49 settings vary one value and leave the
others off. Each setting here states all three: the public code of the paper leaves
top-k unsaid in the runs over temperature and top-p, and so inherits the 50 that
Hugging Face's `generate` hides; here these runs have no top-k. No system prompt is added.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from inspect_ai.event import ModelEvent

# Not exported: where the events of model calls go.
from inspect_ai.model._model import use_model_event_sink
from inspect_ai.solver import Generate, Solver, TaskState, solver

from safedepth.attacks.forcing import Reply, ask, record, reply_seed
from safedepth.errors import DataError
from safedepth.provider.api import NO_TOP_K

__all__ = ["DECODINGS", "Setting", "decoding", "read_grid"]

KINDS = ("temperature", "top_p", "top_k")


@dataclass(frozen=True)
class Setting:
    """One decoding setting: the value of `kind`, the two others off. Raises DataError for what means nothing.

    A temperature is 0 (greedy) or more, a top-p above 0 up to 1, a top-k a whole number from 1.
    """

    kind: str
    value: float

    def __post_init__(self) -> None:
        value = self.value
        fits = {
            "temperature": isfinite(value) and value >= 0,
            "top_p": 0 < value <= 1,
            "top_k": isfinite(value) and value >= 1 and value == int(value),
        }
        if not fits.get(self.kind, False):
            raise DataError(
                "expected a temperature of 0 or more, a top_p above 0 and up to 1, or a whole top_k of 1 or "
                f"more; found {self.kind}={value:g}. Write settings as 'temperature=0.5,1;top_k=10'"
            )

    @property
    def variant(self) -> str:
        """The name of the setting in results: "temperature 0.05"."""
        return f"{self.kind} {self.value:g}"

    @property
    def temperature(self) -> float:
        """1 unless it is what varies."""
        return self.value if self.kind == "temperature" else 1.0

    @property
    def top_p(self) -> float:
        """1 unless it is what varies."""
        return self.value if self.kind == "top_p" else 1.0

    @property
    def top_k(self) -> int | None:
        """None, the whole vocabulary, unless it is what varies."""
        return int(self.value) if self.kind == "top_k" else None

    @property
    def config(self) -> dict[str, Any]:
        """All three values as fields of Inspect's `GenerateConfig`, so that no default is hidden."""
        top_k = NO_TOP_K if self.top_k is None else self.top_k
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": top_k}


_SHARES = tuple(step / 20 for step in range(1, 21))

DECODINGS = (
    *(Setting("temperature", share) for share in _SHARES),
    *(Setting("top_p", share) for share in _SHARES),
    *(Setting("top_k", k) for k in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)
"""The 49 settings of Huang et al., section 3."""


def read_grid(text: str | None) -> tuple[Setting, ...]:
    """The settings of "temperature=0.5,1.5;top_k=10"; the 49 of the paper for None.

    Raises DataError for a name that is none of the three, a value that is no number or
    means nothing, a setting that is stated twice, and an empty grid.
    """
    if text is None:
        return DECODINGS
    found: list[Setting] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        kind, _, values = part.partition("=")
        for value in values.split(","):
            try:
                number = float(value)
            except ValueError:
                raise DataError(
                    f"expected {' or '.join(KINDS)} with numbers, such as 'temperature=0.5,1.5;top_k=10', "
                    f"found {part!r}"
                ) from None
            found.append(Setting(kind.strip(), number))
    if not found or len(set(found)) < len(found):
        raise DataError(f"expected at least one setting and each once, found {text!r}")
    return tuple(found)


@solver
def decoding(settings: str | None = None, max_tokens: int | None = None) -> Solver:
    """Ask under every setting of the grid `settings` (None: the paper's 49), all at once.

    Huang et al. (arXiv 2310.06987). The sample's metadata holds `reply_seed`, from which
    every setting draws a seed of its own. Our provider decodes all of them together from
    one prefill, and is asked without Inspect's bookkeeping where `max_tokens` says the limit.
    """
    chosen = read_grid(settings)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        seed = int(state.metadata["reply_seed"])
        asks = [
            ask(
                state.messages,
                seed=reply_seed(seed, setting.variant),
                variant=setting.variant,
                direct=max_tokens is not None,
                max_tokens=max_tokens,
                **setting.config,
            )
            for setting in chosen
        ]
        with use_model_event_sink(_Unlogged()):
            return record(state, await _together(asks))

    return solve


class _Unlogged:
    """No event a call: 49 of them cost more than the rest of Inspect, and say what the replies say again.

    Retries, limits and usage are Inspect's as ever, and what fails fails the sample.
    """

    def on_pending(self, event: ModelEvent) -> None:
        """Before a call."""

    def on_complete(self, event: ModelEvent) -> None:
        """After a call."""


async def _together(asks: Sequence[Coroutine[Any, Any, Reply]]) -> list[Reply]:
    """All replies, in order; the first failure ends the others."""
    running = [asyncio.ensure_future(one) for one in asks]
    try:
        return list(await asyncio.gather(*running))
    finally:
        for one in running:
            one.cancel()
