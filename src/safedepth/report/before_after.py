"""What recovery training changed, in sentences and key figures: before, after, and the control.

Compares rates of one judge and one scope only. That something “did not fall” is said
where the interval of the paired difference allows it, and the interval stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report.words import (
    SCOPES,
    UNCHANGED,
    Summary,
    Tile,
    capital,
    change,
    count,
    depth_estimate,
    difference,
    kl_share,
    main_depth,
    named,
    plain_name,
    share,
    share_estimate,
    sweep,
)

__all__ = ["headline", "pair_of", "tiles"]

CONTROL = "control"
HARMFUL = "harmful replies"
WORSE = {"right answers": "fall", "over-refusal": "rise"}
"""What each measure of utility does where it gets worse."""


def pair_of(summary: Summary) -> tuple[str, str] | None:
    """The names of the model before and after, where the run has both."""
    models = (summary.get("deepening") or {}).get("models") or ()
    return ("aligned", "deepened") if {"aligned", "deepened"} <= set(models) else None


def headline(summary: Summary, *, brief: bool = False) -> list[str]:
    """Findings, the most important first; `brief` leaves what recovery did to harm and what it cost."""
    pair = pair_of(summary)
    if pair is None:
        if brief:
            return []
        return ["This run does not hold both a model before and one after; the sections say what it holds."]
    sentences = [_forced(summary, pair), " ".join(_cost(row) for row in _costs(summary, pair))]
    if not brief:
        sentences[1:1] = [_turns(summary, pair), _depths(summary, pair), _kl(summary, pair)]
        sentences.append(_finetuned(summary, pair))
    found = [sentence for sentence in sentences if sentence]
    found[:1] = [sentence.replace(" before", " before recovery training", 1) for sentence in found[:1]]
    return found if found or brief else ["No number of this run compares the model before and after."]


def tiles(summary: Summary, *, brief: bool = False) -> list[Tile]:
    """Key figures as `before → after`, with the interval of the paired difference where there is one."""
    pair = pair_of(summary)
    if pair is None:
        return []
    found = []
    worst = _weakest(_pairs(summary, pair, attack="prefill", by=("k",)))
    if worst:
        (k,), before, after = worst
        tests = [row for row in _paired(summary, pair, measure=HARMFUL) if _is_prefill(row, k)]
        found.append(
            Tile(
                f"Harmful replies, {_forced_tokens(k)}, before → after",
                f"{share(before['value'])} → {share(after['value'])}",
                _by_interval(tests),
            )
        )
    if brief:
        return found
    found += [
        Tile(
            f"{capital(row['measure'])}, {named(row['what'])}, before → after",
            f"{share(row['before'])} → {share(row['after'])}",
            _by_interval([row]),
        )
        for row in _worst_costs(summary, pair)
    ]
    depth = _depth_pair(summary, pair)
    if depth:
        name, before, after = depth
        value, bracket, interval = depth_estimate(after).partition(" [")
        ends = f"95 % interval [{interval}; before: " if bracket else "before: "
        found.append(Tile(f"{capital(plain_name(name))}, after", value, ends + depth_estimate(before)))
    return found


def _forced(summary: Summary, pair: tuple[str, str]) -> str:
    """Prefilling where the model before was weakest, the worst depth after, and the control beside it."""
    pairs = _pairs(summary, pair, attack="prefill", by=("k",))
    worst = _weakest(pairs)
    if worst is None:
        return ""
    (k,), before, after = worst
    by = f"(judge {before['judge']}, {SCOPES[before['scope']]})"
    sentence = (
        f"With {_the_first(k)} forced, {share_estimate(before)} of the replies were harmful before and "
        f"{share_estimate(after)} after {by}"
    )
    control = [r for r in sweep(summary, models=[CONTROL]) if r["k"] == k and r["judge"] == before["judge"]]
    if control and control[0]["scope"] == before["scope"]:
        sentence += f"; of the control, which was trained with nothing forced, {share_estimate(control[0])}"
    highest = max(pairs, key=lambda entry: float(entry[2]["value"]))
    if highest[2]["value"] > after["value"]:
        sentence += f". After, the most is {share_estimate(highest[2])}, with {_forced_tokens(highest[0][0])}"
    return sentence + "."


def _turns(summary: Summary, pair: tuple[str, str]) -> str:
    pairs = _pairs(summary, pair, attack="multi_turn", by=("turn", "k"))
    worst = _weakest([entry for entry in pairs if entry[0][0] > 1])  # at turn 1 nothing came before
    if worst is None:
        return ""
    (turn, k), before, after = worst
    forced = f" and with {_forced_tokens(k)}" if k else ""
    return (
        f"At turn {turn} of the scripted conversations{forced}, "
        f"{share_estimate(before)} of the replies were harmful before and {share_estimate(after)} after."
    )


def _depths(summary: Summary, pair: tuple[str, str]) -> str:
    depth = _depth_pair(summary, pair)
    if depth is None:
        return ""
    name, before, after = depth
    return (
        f"The depth of the alignment, measured as {plain_name(name)}, was {depth_estimate(before)} before "
        f"and is {depth_estimate(after)} after."
    )


def _kl(summary: Summary, pair: tuple[str, str]) -> str:
    by_model = summary["deepening"].get("kl") or {}
    before, after = (kl_share(by_model.get(name)) for name in pair)
    if before is None or after is None:
        return ""
    tokens, others = (by_model[name].get("tokens") for name in pair)
    along = (
        f"the first {tokens} tokens of harmful answers" if tokens and tokens == others else "harmful answers"
    )
    return (
        f"Of the KL divergence from the base model along {along}, {share_estimate(before)} falls on the "
        f"first five before and {share_estimate(after)} after."
    )


def _cost(row: Mapping[str, Any]) -> str:
    """One paired row of what should not get worse, and whether it did."""
    it = "they" if row["measure"].endswith("s") else "it"
    told = f"{capital(row['measure'])} ({named(row.get('what'))}): {share(row['before'])} before and "
    told += f"{share(row['after'])} after"
    changed = change(row)
    if not changed:
        return f"{told}; no interval of the difference says whether {it} changed."
    moved = f"did not {WORSE[row['measure']]}" if changed == UNCHANGED else changed
    return f"{told}; {it} {moved} significantly (difference {difference(row)})."


def _finetuned(summary: Summary, pair: tuple[str, str]) -> str:
    """Fine-tuning as far as both models were taken, with nothing forced; harmful examples first."""
    rows = [
        row
        for row in summary["deepening"].get("finetuning") or ()
        if not row.get("k") and row.get("value") is not None and row.get("step") is not None
    ]
    told = []
    for data in sorted(
        {str(row["data"]) for row in rows if row.get("data")}, key=lambda name: name != "harmful"
    ):
        by_step = {(row["model"], row["step"]): row for row in rows if row.get("data") == data}
        shared = [step for name, step in by_step if name == pair[0] and (pair[1], step) in by_step and step]
        if shared:
            before, after = (share_estimate(by_step[name, max(shared)]) for name in pair)
            told.append(f"{count(max(shared), 'step')} on {data} examples, {before} and {after}")
    if not told:
        return ""
    models = "the model before and of the deepened one"
    return f"Harmful replies after fine-tuning, of {models}: {'; '.join(told)}."


def _pairs(
    summary: Summary, pair: tuple[str, str], *, attack: str, by: Sequence[str]
) -> list[tuple[tuple[Any, ...], Mapping[str, Any], Mapping[str, Any]]]:
    """Rates of both models under the same variant: (variant, before, after)."""
    found = sweep(summary, models=pair, attack=attack, by=by[0])
    keyed = {(rate["model"], *(rate.get(key) for key in by)): rate for rate in found}
    return [
        (variant, rate, keyed[pair[1], *variant])
        for (model, *rest), rate in keyed.items()
        if model == pair[0] and (pair[1], *(variant := tuple(rest))) in keyed
    ]


def _weakest(
    pairs: Sequence[tuple[tuple[Any, ...], Mapping[str, Any], Mapping[str, Any]]],
) -> tuple[tuple[Any, ...], Mapping[str, Any], Mapping[str, Any]] | None:
    """The variant under which the model before gave most harmful replies; the first of several."""
    return max(pairs, key=lambda entry: float(entry[1]["value"]), default=None)


def _paired(summary: Summary, pair: tuple[str, str], **fields: str) -> list[Mapping[str, Any]]:
    wanted = {"against": pair[0], "model": pair[1], **fields}
    rows = [
        row
        for row in summary["deepening"].get("paired") or ()
        if all(row.get(key) == value for key, value in wanted.items())
    ]
    return sorted(rows, key=lambda row: row.get("judge") != summary.get("judge"))


def _is_prefill(row: Mapping[str, Any], k: int) -> bool:
    """Whether a paired test is about prefilling k tokens: `prefill, 5 tokens`, with or without “forced”."""
    return str(row.get("what")).removesuffix(" forced") == f"prefill, {_forced_tokens(k)}".removesuffix(
        " forced"
    )


def _costs(summary: Summary, pair: tuple[str, str]) -> list[Mapping[str, Any]]:
    """Paired rows of what training may have cost, one a set and measure, as far as they have numbers."""
    found: dict[tuple[str, Any], Mapping[str, Any]] = {}
    for measure in WORSE:
        for row in _paired(summary, pair, measure=measure):
            if row.get("before") is not None and row.get("after") is not None:
                found.setdefault((measure, row.get("what")), row)
    return list(found.values())


def _worst_costs(summary: Summary, pair: tuple[str, str]) -> list[Mapping[str, Any]]:
    """Of each measure the set on which it got worse most, or better least."""
    rows = _costs(summary, pair)
    sign = {"fall": 1, "rise": -1}
    found = []
    for measure, worse in WORSE.items():
        mine = [row for row in rows if row["measure"] == measure]
        found += sorted(mine, key=lambda row: sign[worse] * (row["after"] - row["before"]))[:1]
    return found


def _depth_pair(
    summary: Summary, pair: tuple[str, str]
) -> tuple[str, Mapping[str, Any], Mapping[str, Any]] | None:
    depths = summary["deepening"].get("depth") or {}
    before, after = (depths.get(name) or {} for name in pair)
    for name in before:
        if main_depth({name: before[name]}) and main_depth({name: after.get(name) or {}}):
            return name, before[name], after[name]
    return None


def _by_interval(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"difference {difference(rows[0])}" if rows and rows[0].get("difference") is not None else ""


def _forced_tokens(k: int | None) -> str:
    return f"{count(k, 'token')} forced" if k else "nothing forced"


def _the_first(k: int) -> str:
    return f"the first {count(k, 'token')} of a harmful answer" if k else "nothing"
