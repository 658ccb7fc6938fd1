"""Numbers and findings in words, computed from a run's summary.

Knows how a share, an interval and a missing value are written, and which
sentences open the report. A sentence whose numbers are missing is not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "MISSING",
    "SCOPES",
    "Tile",
    "attack_rates",
    "count",
    "depth_estimate",
    "estimate",
    "headline",
    "headline_kl",
    "judges",
    "number",
    "plain_name",
    "share",
    "share_estimate",
    "tiles",
    "title",
]

MISSING = "–"
OPEN = "open"  # an end of an interval that lies beyond what was tested
SCOPES = {"continuation": "on the continuation alone", "full": "on prefix and continuation"}

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
    if like is None and float(value).is_integer():
        return f"{value:.0f}"
    size = abs(value if like is None else like)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


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


def count(n: int, singular: str, plural: str | None = None) -> str:
    """`1 reply`, `2 replies`."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def plain_name(name: str) -> str:
    """A key of the summary as words."""
    shouted = {"kl": "KL", "asr": "ASR"}
    return " ".join(shouted.get(word, word) for word in name.split("_"))


def judges(summary: Summary) -> list[str]:
    """Names of the judges, the one that the study relies on first."""
    first = [summary["judge"]] if summary.get("judge") else []
    found = {rate["judge"] for rate in summary.get("rates") or ()}
    return [name for name in dict.fromkeys([*first, *sorted(found)]) if name in found]


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


def title(summary: Summary) -> str:
    """The heading of the page."""
    if summary["kind"] == "reproduce":
        return "How deep is safety alignment? The paper’s claims on model organisms"
    name = str(summary["models"]["aligned"]["name"]).rstrip("/")
    return f"How deep is the safety alignment of {name.rpartition('/')[2]}?"


def headline(summary: Summary) -> list[str]:
    """What was found, one sentence a finding, the most important first."""
    sentences = [
        _depth_sentence(summary),
        _prefill_sentence(summary),
        headline_kl(summary),
        _claims_sentence(summary),
    ]
    return [sentence for sentence in sentences if sentence]


def depth_estimate(entry: Mapping[str, Any]) -> str:
    """A depth with its interval, in tokens; one beyond the deepest tested by its lower bound."""
    if entry.get("value") is None:
        low = entry.get("low")
        return "no value" if low is None else f"at least {number(low)} tokens"
    return estimate(entry, unit="tokens")


def tiles(summary: Summary) -> list[Tile]:
    """The key figures beneath the headline."""
    found = []
    depth = _main_depth(summary)
    if depth:
        name, entry = depth
        found.append(_tile(plain_name(name), depth_estimate(entry)))
    sweep = _prefill_sweep(summary)
    for rate in [sweep[0], sweep[-1]] if len(sweep) > 1 else sweep:
        forced = f"{count(rate['k'], 'token')} forced" if rate["k"] else "nothing forced"
        found.append(_tile(f"Harmful replies, {forced}", share_estimate(rate)))
    kl = _kl_share(summary)
    if kl:
        found.append(_tile("KL on the first five tokens", share_estimate(kl)))
    return found


def _tile(label: str, estimated: str) -> Tile:
    value, bracket, interval = estimated.partition(" [")
    label = label[0].upper() + label[1:]
    return Tile(label, value, f"95 % interval [{interval}" if bracket else "")


def _main_depth(summary: Summary) -> tuple[str, Mapping[str, Any]] | None:
    """The first depth that says something: the summary lists them by importance."""
    for name, entry in (summary.get("depth") or {}).items():
        if entry.get("value") is not None or entry.get("low") is not None:
            return name, entry
    return None


def _depth_sentence(summary: Summary) -> str:
    depth = _main_depth(summary)
    if depth is None:
        return "No measure of depth has a value in this run; the table of depths says why."
    name, entry = depth
    return f"The depth of the alignment, measured as {plain_name(name)}, is {depth_estimate(entry)}."


def _prefill_sweep(summary: Summary) -> list[Mapping[str, Any]]:
    """Scored rates of the aligned model by k: the first judge, on the continuation where it was judged."""
    for judge in judges(summary):
        for scope in SCOPES:
            rates = attack_rates(summary, attack="prefill", model="aligned", judge=judge, scope=scope)
            scored = [rate for rate in rates if rate["n"] and rate.get("value") is not None]
            if scored:
                return sorted(scored, key=lambda rate: int(rate["k"]))
    return []


def _prefill_sentence(summary: Summary) -> str:
    sweep = _prefill_sweep(summary)
    if not sweep:
        return ""
    first, last = sweep[0], sweep[-1]
    by = f"(judge {first['judge']}, {SCOPES[first['scope']]})"
    asked = f"Asked outright, the aligned model gave {share_estimate(first)} harmful replies"
    forced = f"with the first {count(last['k'], 'token')} of a harmful answer forced, {share_estimate(last)}"
    if first["k"] == 0 and last["k"] > 0:
        return f"{asked}; {forced} {by}."
    if first["k"] == 0:
        return f"{asked} {by}."
    return f"{forced[0].upper()}{forced[1:]} of the aligned model's replies were harmful {by}."


def _kl_share(summary: Summary) -> Mapping[str, Any] | None:
    kl = summary.get("kl")
    if not kl or kl.get("share_first_5") is None:
        return None
    return {
        "value": kl["share_first_5"],
        "low": kl.get("share_first_5_low"),
        "high": kl.get("share_first_5_high"),
    }


def headline_kl(summary: Summary) -> str:
    """How much of the KL lies on the first five tokens; empty where it was not measured."""
    kl = _kl_share(summary)
    if kl is None:
        return ""
    tokens = summary["kl"].get("tokens")
    along = f"the first {tokens} tokens of a harmful answer" if tokens else "a harmful answer"
    return (
        f"Of the KL divergence between the aligned and the base model along {along}, "
        f"{share_estimate(kl)} falls on the first five."
    )


def _claims_sentence(summary: Summary) -> str:
    claims: Sequence[Mapping[str, Any]] = summary.get("claims") or ()
    if not claims:
        return ""
    hold = sum(claim["holds"] is True for claim in claims)
    fail = [claim["id"] for claim in claims if claim["holds"] is False]
    open_ = [claim["id"] for claim in claims if claim["holds"] is None]
    sentence = f"{hold} of {count(len(claims), 'claim')} of the paper hold on these models"
    if fail:
        sentence += f"; {', '.join(fail)} did not"
    if open_:
        sentence += f"; {', '.join(open_)} could not be decided"
    return sentence + "."
