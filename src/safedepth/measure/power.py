"""The smallest true difference that a sample of this size would have found.

"No difference was found" says little without it. The test is two-sided at 5 %, and found
means with probability 0.8 unless another is asked for. This file refuses to look at what was
found: the power at the difference one happened to see only repeats the p-value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

__all__ = ["ALPHA", "POWER", "detectable_difference", "detectable_paired"]

ALPHA = 0.05
"""How often a two-sided test may find a difference where there is none."""

POWER = 0.8
"""How surely a difference is to be found to count as one that would have been."""


def detectable_paired(n: int, discordant: float, *, power: float = POWER) -> float | None:
    """The smallest absolute difference of two shares over the same `n` prompts that is found.

    Found by McNemar's exact test, the one `paired_difference` reports; its power is summed over
    the number of prompts that change, which is binomial (exact unconditional power; Duffy 1984,
    Biometrics 40(4), 1005-1015). `discordant` is the share of prompts that change at all, in
    either direction, such as the share seen to change. Changes that cancel out hide a
    difference, so more of them need a larger one; and since a difference of d takes a share of d
    that changes, the share assumed is never below the difference itself. With nothing seen to
    change, the answer is that of changes all in one direction.

    None where not even a change of every prompt would be found: below 6 prompts. The outcomes are
    0 or 1; over means of several replies a prompt it is a guide only.
    """
    _check(n, "discordant", discordant, power)

    def missed(difference: float) -> float:
        return power - _mcnemar_power(n, max(discordant, difference), difference)

    return _first_found(missed, 1.0)


def detectable_difference(n: int, share: float, *, power: float = POWER) -> float | None:
    """The smallest absolute difference between two groups of `n` prompts each that is found.

    The groups have different prompts, and `share` is the share of the first. Found by the z-test
    of two shares without correction for continuity (Fleiss, Levin & Paik 2003, Statistical
    Methods for Rates and Proportions, 3rd ed., section 4.2): with d the difference, p the first
    share, q the second and m their mean,

        d sqrt(n) = z(alpha/2) sqrt(2 m (1 - m)) + z(power) sqrt(p (1 - p) + q (1 - q)).

    Differences away from the nearer end, 0 or 1, are meant: the harder ones to find, and those
    for which there is room. None where not even a move to the far end would be found.
    """
    _check(n, "share", share, power)
    first = min(share, 1 - share)
    z_alpha, z_power = float(stats.norm.isf(ALPHA / 2)), float(stats.norm.ppf(power))

    def missed(difference: float) -> float:
        second = first + difference
        mean = (first + second) / 2
        apart = z_alpha * (2 * mean * (1 - mean)) ** 0.5
        apart += z_power * (first * (1 - first) + max(0.0, second * (1 - second))) ** 0.5
        return float(apart - difference * n**0.5)

    return _first_found(missed, 1 - first)


def _mcnemar_power(n: int, discordant: float, difference: float) -> float:
    """How often the exact test finds that `difference` when a share of `discordant` prompts changes."""
    changed = np.arange(n + 1)
    # The largest count of the rarer direction at which the test still rejects; -1 where there is none.
    last = stats.binom.ppf(ALPHA / 2, changed, 0.5)
    last = np.where(stats.binom.cdf(last, changed, 0.5) <= ALPHA / 2, last, last - 1)
    last = np.where(changed == 0, -1, last)
    risen = min(1.0, (discordant + difference) / (2 * discordant)) if discordant else 0.5
    rejected = stats.binom.cdf(last, changed, risen) + stats.binom.sf(changed - last - 1, changed, risen)
    return float(stats.binom.pmf(changed, n, discordant) @ rejected)


def _first_found(missed: Callable[[float], float], most: float) -> float | None:
    """Where `missed`, which falls as the difference grows, reaches 0; None where it does not up to `most`."""
    if missed(most) > 0:
        return None
    return float(optimize.brentq(missed, 1e-9, most, xtol=1e-9)) if missed(1e-9) > 0 else 0.0


def _check(n: int, name: str, share: float, power: float) -> None:
    if n < 0:
        raise ValueError(f"expected a number of prompts, 0 or more, found {n}")
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share in [0, 1] for {name}, found {share}")
    if not ALPHA < power < 1:
        raise ValueError(f"expected a power between {ALPHA} and 1, found {power}")
