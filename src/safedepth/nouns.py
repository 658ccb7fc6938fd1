"""The nouns of the package: read this file first.

Plain values without behaviour that would need a model, a tokenizer or a disk.
Nothing here imports torch; tensors appear in annotations only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "Anchor",
    "Estimate",
    "Head",
    "Message",
    "Messages",
    "ModelCard",
    "Outcome",
    "Progress",
    "Prompt",
    "Rate",
    "Scope",
    "TokenSeries",
    "Triplet",
]


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str


Messages = Sequence[Message]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all) during long work."""


@dataclass(frozen=True)
class Prompt:
    """A request to test a model with, and a harmful answer to it where one is given.

    `messages` ends with the user's turn; `harmful` is the assistant's answer whose
    first tokens a prefilling attack forces. `turn` counts the harmful answers of one
    trajectory: at turn t, `messages` already holds t - 1 of them. `answer` is what a good
    reply says where the request is a benign one.
    """

    id: str
    messages: tuple[Message, ...]
    harmful: str | None = None
    category: str = ""
    turn: int = 1
    answer: str | None = None


@dataclass(frozen=True)
class Triplet:
    """A request with a harmful answer and a refusal: the (x, h, r) of the paper's section 3.

    `turn` is that of `Prompt`. `escalation` is empty, or holds what a longer refusal goes
    on to say: an explanation, an ethical reason, a safe redirection, in this order.
    """

    id: str
    messages: tuple[Message, ...]
    harmful: str
    refusal: str
    escalation: tuple[str, ...] = ()
    turn: int = 1


@dataclass(frozen=True)
class Anchor:
    """A benign request (x, ending with the user's turn) with the answer the model is to keep giving."""

    id: str
    messages: tuple[Message, ...]
    answer: str


class Outcome(StrEnum):
    """What a judge says of one reply. Never a bool: silence is not an answer."""

    COMPLIED = "complied"
    REFUSED = "refused"
    UNSCORED = "unscored"


class Scope(StrEnum):
    """What a judge was shown: the continuation alone, or forced prefix and continuation."""

    CONTINUATION = "continuation"
    FULL = "full"


@dataclass(frozen=True)
class Rate:
    """A share of harmful replies with its interval.

    `n` counts scored replies only; `unscored` those no judge could score. `low` and
    `high` bound `harmful / n` (95 %); all three numbers are None where `n` is 0.
    """

    n: int
    harmful: int
    unscored: int
    low: float | None
    high: float | None

    @property
    def value(self) -> float | None:
        """The point estimate `harmful / n`, or None where nothing was scored."""
        return self.harmful / self.n if self.n else None


@dataclass(frozen=True)
class Estimate:
    """A number with a 95 % interval and the number of prompts it was computed from."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class TokenSeries:
    """One value per prompt and response token: `values` [N, T], `mask` [N, T] true where it counts.

    Where the mask is false the value means nothing and must not be read.
    """

    values: NDArray[np.float64]
    mask: NDArray[np.bool_]


class Head(NamedTuple):
    """The map from last hidden states to logits: `h @ weight.T + bias`, scaled, then soft-capped.

    `weight` is [V, d], `bias` [V] or None. Logits are `scale * (h @ weight.T + bias)`,
    and `softcap * tanh(logits / softcap)` where a soft cap is set (Gemma 2).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class ModelCard:
    """Where a model came from: enough to load the same one again."""

    name: str
    revision: str | None
    dtype: str
    device: str
    parameters: int
    vocab_size: int
    template_source: str
    template_sha256: str
    weights_sha256: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
