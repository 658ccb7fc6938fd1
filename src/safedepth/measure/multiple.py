"""Many tests at once: p-values that allow for how many were made.

Among twenty tests of nothing, one finds something at 5 %. This file refuses to choose which
tests belong together: whoever makes the table says so, and says how many there were.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (1979, Scand. J. Statist. 6(2), 65-70), in the order given.

    With m tests and p(1) <= ... <= p(m), the i-th becomes max over j <= i of
    min(1, (m - j + 1) p(j)). Calling those at or below 5 % found keeps the chance of any false
    finding among the m at 5 %, however the tests depend on each other. A test that could not be
    made (None) stays None and does not count among the m.

    Raises ValueError for a p-value that is none.
    """
    wrong = [p for p in p_values if p is not None and not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"expected p-values in [0, 1] or None, found {wrong[0]}")
    made = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    so_far = 0.0
    for rank, (p, index) in enumerate(made):
        so_far = max(so_far, min(1.0, (len(made) - rank) * p))
        adjusted[index] = so_far
    return adjusted
