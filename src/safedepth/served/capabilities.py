"""What a server was found to do, ability by ability, each with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from safedepth.errors import ModelError

__all__ = ["Ability", "Answer", "Capabilities", "require_same_model"]


class Answer(StrEnum):
    """What the evidence says. UNSURE counts as no wherever a number depends on it."""

    YES = "yes"
    NO = "no"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Ability:
    """One thing a server may do: the answer, and one sentence on what was sent and what came back."""

    answer: Answer
    evidence: str

    def __bool__(self) -> bool:
        """Whether it was shown: UNSURE is not."""
        return self.answer is Answer.YES


@dataclass(frozen=True)
class Capabilities:
    """What one server does with one model.

    `model` is the name the requests carried, `served_as` all ids that `/v1/models` lists (empty where
    it lists none). `continues`: a last assistant message is continued exactly; `white_space`: also where
    it ends in white space; `token_ids`: completions take token ids and go on after exactly these;
    `echo`: log-probs of the prompt's tokens, and true ones. `context` is in tokens, None where the
    server does not say. `canaries` are the greedy answers to the probe's requests and `fingerprint`
    the SHA-256 of them: which model this is, as far as its answers tell; empty where the server,
    asked twice, did not give the same ones.
    """

    url: str
    model: str
    served_as: tuple[str, ...]
    continues: Ability
    white_space: Ability
    token_ids: Ability
    echo: Ability
    seed: Ability
    logit_bias: Ability
    top_k: Ability
    stop: Ability
    context: int | None
    fingerprint: str
    canaries: tuple[str, ...]

    @property
    def forcing(self) -> Literal["tokens", "text"] | None:
        """How a prefill can be forced: as token ids, as an assistant's text, or not at all."""
        if self.token_ids:
            return "tokens"
        return "text" if self.continues else None

    @property
    def abilities(self) -> dict[str, Ability]:
        """Every ability by its name, in the order tables list them."""
        return {name: getattr(self, name) for name in _NAMES}

    @property
    def entry(self) -> dict[str, Any]:
        """What `summary.json` holds of it."""
        return {
            "url": self.url,
            "model": self.model,
            "served_as": list(self.served_as),
            "forcing": self.forcing,
            "context": self.context,
            "fingerprint": self.fingerprint,
            "abilities": [
                {"name": name, "answer": ability.answer.value, "evidence": ability.evidence}
                for name, ability in self.abilities.items()
            ],
        }


_NAMES = ("continues", "white_space", "token_ids", "echo", "seed", "logit_bias", "top_k", "stop")


def require_same_model(first: Capabilities, other: Capabilities) -> None:
    """Raise ModelError, with the canary they differ in, unless both gave the same greedy answers.

    A server without fingerprint, which does not repeat its own, cannot be told apart from any.
    """
    if first.fingerprint == other.fingerprint or not (first.fingerprint and other.fingerprint):
        return
    pairs = enumerate(zip(first.canaries, other.canaries, strict=False), start=1)
    number, (one, two) = next(((number, pair) for number, pair in pairs if pair[0] != pair[1]), (0, ("", "")))
    raise ModelError(
        f"expected one model behind {first.url} and {other.url}, found two: canary {number} is answered "
        f"{one!r} by the first and {two!r} by the second. Serve the same checkpoint, in the same dtype, "
        "under both, or audit them apart"
    )
