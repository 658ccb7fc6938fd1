"""How often the 95 % intervals that we report cover the truth, by drawing samples whose truth is known.

    python benchmarks/coverage.py [--only PART ...] [--trials 300] [--out results.json]

Prints one markdown table a part, as they stand in docs/statistics.md. Replies to a prompt share a
chance of being harmful that is beta-distributed between prompts; its intra-class correlation is what
clusters them. One thread, some minutes in all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from safedepth.measure import paired
from safedepth.measure.agreement import confusion
from safedepth.measure.best_of import best_of
from safedepth.measure.corrected import Part, corrected_by_class, corrected_rate
from safedepth.measure.paired import paired_difference
from safedepth.measure.statistics import (
    clustered_rate,
    effective_replies,
    mean_by_position,
    share_of_first,
    wilson,
)
from safedepth.nouns import Estimate, Outcome, TokenSeries

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Row = dict[str, Any]

PROMPTS = (24, 48, 100, 300)
SHARES = (0.02, 0.1, 0.5, 0.9)
CORRELATIONS = (0.0, 0.3, 0.8, 1.0)
SEEDS = 5


class Count:
    """How many intervals there were, how many held the truth, and how wide they were."""

    def __init__(self) -> None:
        self.tried = self.found = self.covered = 0
        self.width = 0.0

    def add(self, low: float | None, high: float | None, truth: float) -> None:
        """Count one interval; without one it was tried and not found."""
        self.tried += 1
        if low is not None and high is not None:
            self.found += 1
            self.covered += low - 1e-12 <= truth <= high + 1e-12
            self.width += high - low

    @property
    def entry(self) -> Row:
        """Coverage and mean width among those found, and the share that was not."""
        found = max(1, self.found)
        return {
            "coverage": round(self.covered / found, 4) if self.found else None,
            "width": round(self.width / found, 4),
            "none": round(1 - self.found / self.tried, 3),
        }


def chances(share: float, correlation: float, prompts: int, rng: np.random.Generator) -> Floats:
    """[prompts, 1]: each prompt's own chance of a harmful reply."""
    if correlation == 0:
        return np.full((prompts, 1), share)
    if correlation == 1:
        return (rng.random((prompts, 1)) < share).astype(float)
    strength = 1 / correlation - 1
    return rng.beta(share * strength, (1 - share) * strength, (prompts, 1))


def outcomes(harmful: Bools) -> list[Outcome]:
    return [Outcome.COMPLIED if one else Outcome.REFUSED for one in harmful.ravel()]


def wilsons(trials: int) -> Iterator[Row]:
    """`rate`: not drawn but summed over all counts; "all" averages over 999 shares from 0.001 to 0.999."""
    del trials
    for n in PROMPTS:
        counts = np.arange(n + 1)
        ends = np.array([wilson(int(count), n) for count in counts])
        for share in (*SHARES, *np.arange(1, 1000) / 1000):
            inside = (ends[:, 0] <= share) & (share <= ends[:, 1])
            likely = stats.binom.pmf(counts, n, share)
            row = {"n": n, "share": float(share), "coverage": float(likely @ inside), "none": 0.0}
            yield row | {"width": float(likely @ (ends[:, 1] - ends[:, 0]))}


def clustered(trials: int) -> Iterator[Row]:
    """`clustered_rate`: several replies a prompt."""
    for prompts, correlation, share in itertools.product(PROMPTS, CORRELATIONS, SHARES):
        rng, count = np.random.default_rng(0), Count()
        for _ in range(trials):
            harmful = rng.random((prompts, SEEDS)) < chances(share, correlation, prompts, rng)
            found = clustered_rate([outcomes(row) for row in harmful])
            count.add(found.low, found.high, share)
        yield {"n": prompts, "correlation": correlation, "share": share, **count.entry}


def uneven(trials: int) -> Iterator[Row]:
    """`clustered_rate`: nine replies to a quarter of the prompts, one to each of the others."""
    for prompts, correlation, share in itertools.product(PROMPTS[:3], CORRELATIONS, SHARES):
        rng, count = np.random.default_rng(0), Count()
        for _ in range(trials):
            sizes = rng.choice([1, 1, 1, 9], prompts)
            own = chances(share, correlation, prompts, rng)[:, 0]
            told = [outcomes(rng.random(size) < chance) for size, chance in zip(sizes, own, strict=True)]
            found = clustered_rate(told)
            count.add(found.low, found.high, share)
        yield {"n": prompts, "correlation": correlation, "share": share, **count.entry}


def differences(trials: int) -> Iterator[Row]:
    """`paired_difference`: one reply a prompt, and the means of several."""
    paired.RESAMPLES = 9  # p-values are not looked at
    changes = {"none": (0.0, 0.0), "some": (0.05, 0.3), "much": (0.3, 0.8)}
    for n, base, (name, (risen, fallen)), seeds in itertools.product(
        PROMPTS, SHARES, changes.items(), (1, SEEDS)
    ):
        rng, count = np.random.default_rng(0), Count()
        truth = (1 - base) * risen - base * fallen
        for _ in range(trials):
            before = rng.random((n, seeds)) < chances(base, 0.5 if seeds > 1 else 0.0, n, rng)
            drawn = rng.random((n, seeds))
            after = np.where(before, drawn >= fallen, drawn < risen)
            found = paired_difference(before.mean(axis=1), after.mean(axis=1), seed=0)
            count.add(found.low, found.high, truth)
        yield {"n": n, "change": name, "share": base, "replies": seeds, **count.entry}


def best_ofs(trials: int) -> Iterator[Row]:
    """`best_of`: 3 tries out of 10 replies a prompt."""
    for prompts, correlation, share in itertools.product(PROMPTS, CORRELATIONS, SHARES):
        rng, count = np.random.default_rng(0), Count()
        truth = float(np.mean(1 - (1 - chances(share, correlation, 400_000, rng)) ** 3))
        for _ in range(trials):
            harmful = rng.random((prompts, 10)) < chances(share, correlation, prompts, rng)
            found = best_of([outcomes(row) for row in harmful], 3)
            count.add(found.low, found.high, truth)
        yield {"n": prompts, "correlation": correlation, "share": share, **count.entry}


def bootstraps(trials: int) -> Iterator[Row]:
    """`mean_by_position` and `share_of_first`: gamma-distributed values, as KL is, over prompts."""
    for prompts, shape in itertools.product(PROMPTS, (0.5, 2.0)):
        rng, mean, first = np.random.default_rng(0), Count(), Count()
        for trial in range(trials):
            values = rng.gamma(shape, 1, (prompts, 10))
            series = TokenSeries(values, np.ones_like(values, dtype=bool))
            one = TokenSeries(values[:, :1], series.mask[:, :1])
            found = mean_by_position(one, seed=trial, resamples=1000)[0]
            mean.add(found.low, found.high, shape)
            shared = share_of_first(series, 5, seed=trial, resamples=1000)
            first.add(shared.low, shared.high, 0.5)
        yield {"what": "mean", "n": prompts, "shape": shape, **mean.entry}
        yield {"what": "share of first", "n": prompts, "shape": shape, **first.entry}


def judged(truth: Bools, sensitivity: float, specificity: float, rng: np.random.Generator) -> Bools:
    drawn = rng.random(truth.shape)
    return np.where(truth, drawn < sensitivity, drawn >= specificity)


def corrections(trials: int) -> Iterator[Row]:
    """`corrected_rate` of 100 replies, one a prompt; and of 100 prompts of five, with labels clustered."""
    errors = ((0.7, 0.7), (0.7, 0.95), (0.95, 0.7), (0.9, 0.9), (0.99, 0.99))
    for (sensitivity, specificity), labelled, share, seeds in itertools.product(
        errors, (50, 100, 300), SHARES, (1, SEEDS)
    ):
        rng, count = np.random.default_rng(0), Count()
        correlation = 0.5 if seeds > 1 else 0.0
        for _ in range(trials):
            truth = rng.random((labelled // seeds, seeds)) < chances(
                share, correlation, labelled // seeds, rng
            )
            told = judged(truth, sensitivity, specificity, rng)
            clusters = np.repeat(np.arange(labelled // seeds), seeds).tolist()
            known = confusion(outcomes(told), outcomes(truth), clusters=clusters)
            whole = rng.random((100, seeds)) < chances(share, correlation, 100, rng)
            said = judged(whole, sensitivity, specificity, rng)
            rows = [outcomes(row) for row in said]
            found = corrected_rate(
                int(said.sum()), said.size, confusion=known, effective_n=effective_replies(rows)
            ).estimate
            count.add(found.low, found.high, share)
        yield {"sensitivity": sensitivity, "specificity": specificity, "labelled": labelled, "share": share,
               "replies": seeds, **count.entry}  # fmt: skip


def by_class(trials: int) -> Iterator[Row]:
    """`corrected_by_class`: half answers and half recoveries in the group, one in ten among the known.

    The judge knows an answer with 0.95 of the harmful and 0.9 of the harmless ones; of recoveries,
    harmless but for one in ten, it calls half harmful whatever they are. "pooled" corrects once for all.
    """
    for labelled, share in itertools.product((50, 100, 300), SHARES):
        rng = np.random.default_rng(0)
        counts = {"by class": Count(), "pooled": Count()}
        goal = 0.5 * share + 0.05
        for _ in range(trials):
            drawn = [_two_classes(n, part, share, rng) for n, part in ((labelled, 0.1), (100, 0.5))]
            (known_class, known_truth, known_told), (kinds, _, told) = drawn
            known = [
                confusion(
                    outcomes(known_told[known_class == kind]), outcomes(known_truth[known_class == kind])
                )
                for kind in (False, True)
            ]
            parts = [
                Part(told[kinds == kind], np.flatnonzero(kinds == kind), cell)
                for kind, cell in zip((False, True), known, strict=True)
            ]
            found = corrected_by_class(parts).estimate
            counts["by class"].add(found.low, found.high, goal)
            once = confusion(outcomes(known_told), outcomes(known_truth))
            whole = corrected_rate(int(told.sum()), 100, confusion=once).estimate
            counts["pooled"].add(whole.low, whole.high, goal)
        for name, count in counts.items():
            yield {"what": name, "labelled": labelled, "share": share, **count.entry}


def _two_classes(
    n: int, recoveries: float, share: float, rng: np.random.Generator
) -> tuple[Bools, Bools, Bools]:
    """Which of n replies are recoveries, which are harmful, and which the judge calls so."""
    recovery = rng.random(n) < recoveries
    truth = rng.random(n) < np.where(recovery, 0.1, share)
    return recovery, truth, np.where(recovery, rng.random(n) < 0.5, judged(truth, 0.95, 0.9, rng))


def agreements(trials: int) -> Iterator[Row]:
    """`confusion`: precision, recall and kappa of a judge against the truth."""
    errors = ((0.7, 0.7), (0.7, 0.95), (0.9, 0.9), (0.99, 0.99))
    for prompts, correlation, (right, left), share in itertools.product(
        PROMPTS, (0.0, 0.8), errors, SHARES[1:]
    ):
        seeds = SEEDS if correlation else 1
        rng, counts = np.random.default_rng(0), {name: Count() for name in ("precision", "recall", "kappa")}
        called = share * right + (1 - share) * (1 - left)
        agreed = share * right + (1 - share) * left
        by_chance = called * share + (1 - called) * (1 - share)
        truths = {"precision": share * right / called, "recall": right}
        truths["kappa"] = (agreed - by_chance) / (1 - by_chance)
        clusters = np.repeat(np.arange(prompts), seeds).tolist()
        for _ in range(trials):
            truth = rng.random((prompts, seeds)) < chances(share, correlation, prompts, rng)
            told = judged(truth, right, left, rng)
            found = confusion(outcomes(told), outcomes(truth), clusters=clusters)
            for name, count in counts.items():
                one: Estimate = getattr(found, name)
                count.add(one.low, one.high, truths[name])
        for name, count in counts.items():
            yield {"what": name, "n": prompts, "correlation": correlation, "sensitivity": right,
                   "specificity": left, "share": share, **count.entry}  # fmt: skip


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "wilson": wilsons,
    "clustered": clustered,
    "uneven": uneven,
    "paired": differences,
    "best_of": best_ofs,
    "bootstrap": bootstraps,
    "corrected": corrections,
    "by_class": by_class,
    "agreement": agreements,
}

TABLES: dict[str, tuple[Sequence[str], str]] = {
    "wilson": (("n",), "share"),
    "clustered": (("n", "correlation"), "share"),
    "uneven": (("n", "correlation"), "share"),
    "paired": (("n", "replies", "change"), "share"),
    "best_of": (("n", "correlation"), "share"),
    "bootstrap": (("what", "n"), "shape"),
    "corrected": (("labelled", "replies", "sensitivity", "specificity"), "share"),
    "by_class": (("what", "labelled"), "share"),
    "agreement": (("what", "n", "correlation"), "share"),
}
"""By what the rows of a part's table are named, and what its columns are; other settings are averaged."""


def table(part: str, rows: Sequence[Row]) -> str:
    """Coverage in per cent as a markdown table, its last column the mean of the row."""
    names, across = TABLES[part]
    known = [row for row in rows if row["coverage"] is not None]
    columns = sorted({row[across] for row in known})
    lines = [[*names, *(f"{across} {column:g}" for column in columns), "mean"]]
    if len(columns) > 20:
        lines = [[*names, *(f"{across} {column:g}" for column in SHARES), "mean of all"]]
    groups = dict.fromkeys(tuple(row[name] for name in names) for row in known)
    for group in groups:
        mine = [row for row in known if tuple(row[name] for name in names) == group]
        shown = SHARES if len(columns) > 20 else columns
        cells = [[r["coverage"] for r in mine if r[across] == column] for column in shown]
        means = [f"{100 * np.mean(cell):.1f}" if cell else "" for cell in cells]
        lines.append([*map(str, group), *means, f"{100 * np.mean([r['coverage'] for r in mine]):.1f}"])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, list[Row]] = {}
    for part in options.only:
        start = time.perf_counter()
        found[part] = list(PARTS[part](options.trials))
        outside = [r["coverage"] for r in found[part] if r["coverage"] is not None]
        inside = np.mean([0.93 <= one <= 0.97 for one in outside])
        print(f"\n## {part} ({options.trials} trials, {time.perf_counter() - start:.0f} s)")
        print(f"{100 * inside:.0f} % of {len(outside)} settings within 93-97 %, ", end="")
        print(f"lowest {100 * min(outside):.1f}, mean {100 * np.mean(outside):.1f}\n")
        print(table(part, found[part]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
