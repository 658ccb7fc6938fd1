"""Which attack to try next on which prompt: beliefs about success, learnt from what worked so far.

Thompson sampling over attacks (Thompson 1933; Russo et al. 2018, arXiv 1707.02038): every
attack has a Beta belief about its success on a prompt, one draw from each belief is
taken, and the attack with the highest draw is tried. Numbers and names only; it
refuses to know models, prompts' texts and judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from safedepth.nouns import Outcome

__all__ = ["Beliefs"]

SAME_CATEGORY = 1.0
"""How much more an outcome on a prompt of the same category counts."""

SAME_PROMPT = 2.0
"""How much more a failure on the very prompt counts: the same attack again has little new to find."""


@dataclass
class Beliefs:
    """What an attacker has learnt of `arms` (names of attacks); all start as equals.

    Replies that no judge could score teach nothing, but for `impossible` ones: what cannot be
    tried on a prompt is not chosen for it again.
    """

    arms: Sequence[str]
    seed: int
    _told: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    _by_category: Counter[tuple[str, str, Outcome]] = field(default_factory=Counter)
    _by_prompt: Counter[tuple[str, str]] = field(default_factory=Counter)
    _impossible: set[tuple[str, str]] = field(default_factory=set)

    def choose(self, prompt: str, category: str, turn: int) -> str | None:
        """The attack to try on a prompt as its `turn`-th try; None where none is possible.

        A function of what was learnt, the seed, the prompt and the turn, so that prompts can be
        asked in any order, and an interrupted attacker goes on as it would have.
        """
        possible = [arm for arm in self.arms if (prompt, arm) not in self._impossible]
        if not possible:
            return None
        rng = np.random.default_rng([self.seed, turn, *prompt.encode()])
        draws = [rng.beta(*self.belief(arm, prompt, category)) for arm in possible]
        return possible[int(np.argmax(draws))]

    def belief(self, arm: str, prompt: str, category: str) -> tuple[float, float]:
        """The two parameters of the Beta belief that `arm` breaks the prompt."""
        won, lost = (
            1 + self._told[arm, outcome] + SAME_CATEGORY * self._by_category[arm, category, outcome]
            for outcome in (Outcome.COMPLIED, Outcome.REFUSED)
        )
        return won, lost + SAME_PROMPT * self._by_prompt[arm, prompt]

    def learn(
        self, arm: str, prompt: str, category: str, outcome: Outcome, *, impossible: bool = False
    ) -> None:
        """Take in what came of one try."""
        if impossible:
            self._impossible.add((prompt, arm))
        if outcome is Outcome.UNSCORED:
            return
        self._told[arm, outcome] += 1
        if category:
            self._by_category[arm, category, outcome] += 1
        if outcome is Outcome.REFUSED:
            self._by_prompt[arm, prompt] += 1
