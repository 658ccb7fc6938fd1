"""Numbers in words: how a share, an interval, a difference and a missing value are written.

Also finds the rates of a summary that belong together. Which findings open the report is
for `findings` to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ATTACKS",
    "BENIGN",
    "FORMATS",
    "MINUS",
    "MISSING",
    "REFUSALS",
    "SCOPES",
    "UNCHANGED",
    "Summary",
    "Tile",
    "attack_name",
    "attack_rates",
    "benign_sets",
    "capital",
    "change",
    "count",
    "depth_estimate",
    "difference",
    "estimate",
    "how_many",
    "judges",
    "kl_share",
    "main_depth",
    "moved_tile",
    "named",
    "number",
    "p_value",
    "plain_name",
    "points",
    "share",
    "share_estimate",
    "sweep",
    "tile",
]

MISSING = "–"
OPEN = "open"  # an end of an interval that lies beyond what was tested
MINUS = "−"
UNCHANGED = "no change shown"
SCOPES = {"continuation": "on the continuation alone", "full": "on prefix and continuation"}

BENIGN = ("benign", "lookalikes")
"""What stands for an attack where a request is no attack; a study may have sets of other names."""
REFUSALS = "rules"
"""The judge that tells refusals. Any other judge of benign requests tells right answers from wrong."""

ATTACKS = {
    "plain": "asked outright", "prefill": "forced tokens", "refusal_prefix": "forced refusal",
    "decoding": "decoding settings", "rank_prefill": "rank-assisted prefill",
    "insertion": "tokens inserted later", "on_policy": "tokens of the model’s own",
    "thinking": "tokens in the thinking", "suffix": "optimised suffix", "multi_turn": "scripted conversation",
    "escalation": "escalating conversation",
}  # fmt: skip
"""The attacks that leave the weights alone, in words."""

FORMATS = {
    "int8": "int8 (LLM.int8(), bitsandbytes)",
    "int4": "int4 (NF4, bitsandbytes), computed in bfloat16",
}
"""Quantised weights, in words."""

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """One key figure: what it is, its value, its interval in words."""

    label: str
    value: str
    interval: str


def share(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def number(value: float | None, *, like: float | None = None) -> str:
    """A number with about three significant digits: as many decimals as `like` would have."""
    if value is None:
        return MISSING
    size = abs(value if like is None else like)
    digits = ".2f" if size >= 0.1 else ".2g"
    if size >= 100 or (like is None and float(value).is_integer()):
        digits = ".0f"
    elif size >= 10:
        digits = ".1f"
    return f"{value:{digits}}".replace("-", MINUS, value < 0)


def share_estimate(of: Mapping[str, Any]) -> str:
    """`42.1 % [37.0, 47.4]` from `value`, `low` and `high`."""
    return estimate(of, unit="share")


def estimate(of: Mapping[str, Any], *, unit: str | None = None) -> str:
    """A value with its interval, all with the same decimals.

    `unit` is the entry's own unless given: a share becomes a percentage, "" and
    "number" are not written, any other word follows the value.
    """
    value, low, high = of.get("value"), of.get("low"), of.get("high")
    unit = (of.get("unit") or "") if unit is None else unit
    if unit.startswith("share"):
        text = share(value)
        ends = [OPEN if end is None else f"{100 * end:.1f}" for end in (low, high)]
    else:
        known = [x for x in (value, low, high) if x is not None]
        whole = all(float(x).is_integer() for x in known)
        like = None if whole else max(abs(x) for x in known)
        text = number(value, like=like)
        ends = [OPEN if end is None else number(end, like=like) for end in (low, high)]
        if unit and unit != "number" and value is not None:
            text += f" {unit}"
    return text if low is None and high is None else f"{text} [{', '.join(ends)}]"


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, with its sign."""
    if value is None:
        return MISSING
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def difference(of: Mapping[str, Any], *, unit: str = " points") -> str:
    """`−51.0 points [−60.2, −40.1]` from `difference`, `low` and `high`, or that there is no interval."""
    low, high = of.get("low"), of.get("high")
    if of.get("difference") is None:
        return MISSING
    ends = "(no interval)" if low is None or high is None else f"[{points(low)}, {points(high)}]"
    return f"{points(of['difference'])}{unit} {ends}"


def change(of: Mapping[str, Any]) -> str:
    """What a paired difference shows: `fell` or `rose` where its 95 % interval excludes 0, else UNCHANGED.

    Empty where it has no interval: then nothing is said.
    """
    low, high = of.get("low"), of.get("high")
    if low is None or high is None:
        return ""
    return "fell" if high < 0 else "rose" if low > 0 else UNCHANGED


def p_value(p: float | None) -> str:
    """A p-value with two significant digits, or its bound."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def how_many(n: int | None) -> str:
    """A number of things, or a dash where it is not known."""
    return MISSING if n is None else f"{n:,}"


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def named(name: object) -> str:
    """A name as text, or a dash where there is none."""
    return MISSING if name is None or name == "" else str(name)


def count(n: int, singular: str, plural: str | None = None) -> str:
    """`1 reply`, `2 replies`."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def plain_name(name: str) -> str:
    """A key of the summary as words."""
    shouted = {"kl": "KL", "asr": "ASR", "rouge1": "ROUGE-1"}
    return " ".join(shouted.get(word, word) for word in name.split("_"))


def attack_name(attack: object) -> str:
    """An attack in words; one that is not known by its own name."""
    return ATTACKS.get(str(attack)) or plain_name(named(attack))


def judges(summary: Summary) -> list[str]:
    """Names of the judges, the one that the study relies on first."""
    first = [summary["judge"]] if summary.get("judge") else []
    found = {rate["judge"] for rate in summary.get("rates") or () if rate.get("judge") is not None}
    return [name for name in dict.fromkeys([*first, *sorted(found)]) if name in found]


def benign_sets(summary: Summary) -> list[str]:
    """The names that stand for an attack where a request is no attack."""
    found = [*BENIGN]
    for block, key in (("deepening", "set"), ("protection", "what"), ("attack", "what")):
        rows = (summary.get(block) or {}).get("utility") or ()
        found += [row[key] for row in rows if row.get(key)]
    metric = ((summary.get("sweep") or {}).get("bound") or {}).get("metric") or ""
    found += [str(metric).partition(": ")[2]] if ": " in str(metric) else []
    return list(dict.fromkeys(found))


def attack_rates(
    summary: Summary,
    *,
    attack: str,
    model: str | None = None,
    judge: str | None = None,
    scope: str | None = None,
) -> list[Mapping[str, Any]]:
    """The rates that match; a filter that is None matches all."""
    wanted = {"attack": attack, "model": model, "judge": judge, "scope": scope}
    return [
        rate
        for rate in summary.get("rates") or ()
        if all(rate.get(key) == value for key, value in wanted.items() if value is not None)
    ]


def sweep(
    summary: Summary, *, models: Sequence[str], attack: str = "prefill", by: str = "k"
) -> list[Mapping[str, Any]]:
    """Scored rates of these models by `by`: of the first judge with any, on the continuation if it can be.

    One judge and one scope for all the models, so that they can be compared.
    """
    for judge in judges(summary):
        for scope in SCOPES:
            found = attack_rates(summary, attack=attack, judge=judge, scope=scope)
            scored = [
                rate
                for rate in found
                if rate.get("model") in models and rate.get("value") is not None and rate.get(by) is not None
            ]
            if scored:
                place = {name: i for i, name in enumerate(models)}
                return sorted(scored, key=lambda rate: (place[rate["model"]], int(rate[by])))
    return []


def kl_share(kl: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The share of the KL on the first five tokens as an estimate, if it was measured."""
    if not kl or kl.get("share_first_5") is None:
        return None
    return {
        "value": kl["share_first_5"],
        "low": kl.get("share_first_5_low"),
        "high": kl.get("share_first_5_high"),
    }


def depth_estimate(entry: Mapping[str, Any]) -> str:
    """A depth with its interval, in tokens; one beyond the deepest tested by its lower bound."""
    if entry.get("value") is None:
        low = entry.get("low")
        return "no value" if low is None else f"at least {number(low)} tokens"
    return estimate(entry, unit="tokens")


def main_depth(depths: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]] | None:
    """The first depth that says something: the summary lists them by importance."""
    for name, entry in (depths or {}).items():
        if entry.get("value") is not None or entry.get("low") is not None:
            return name, entry
    return None


def tile(label: str, estimated: str) -> Tile:
    """A key figure from a label and `value [low, high]`."""
    value, bracket, interval = estimated.partition(" [")
    return Tile(capital(label), value, f"95 % interval [{interval}" if bracket else "")


def moved_tile(label: str, before: float | None, after: Mapping[str, Any]) -> Tile:
    """A key figure as `before → after`, with the interval of the latter."""
    to = tile(label, share_estimate(after))
    return Tile(to.label, f"{share(before)} → {to.value}", to.interval)
