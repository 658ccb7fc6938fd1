"""The sections on forced tokens beyond the plain prefill: by rank, inserted, the model’s own, in thinking."""

from __future__ import annotations

from safedepth.report.attack_lines import line_figures, rates_table, scored, variant_name
from safedepth.report.parts import Section, topic_section
from safedepth.report.style import Record
from safedepth.report.topics_attacks import PAST_REFUSAL
from safedepth.report.words import attack_rates

__all__ = ["sections"]

PLAIN = "plain prefill"
PLACES = {"inside": "inside the thinking block", "after": "after the thinking block, in the answer"}


def sections(summary: Record) -> list[Section]:
    """One section an attack, of those that the run has rates of or says why not."""
    found = [_section(summary, attack) for attack in PAST_REFUSAL]
    return [section for section in found if section is not None]


def _section(summary: Record, attack: str) -> Section | None:
    topic = PAST_REFUSAL[attack]
    rates = scored(summary, attack, by="k")
    series: dict[str, list[Record]] = {}
    for rate in rates:
        series.setdefault(variant_name(attack, rate.get("variant")), []).append(rate)
    caption = ""
    if rates:
        models = {rate["model"] for rate in rates}
        plain = [
            rate
            for rate in attack_rates(summary, attack="prefill", judge=rates[0]["judge"])
            if rate["scope"] == rates[0]["scope"]
            and rate["model"] in models
            and rate["value"] is not None
            and isinstance(rate.get("k"), int)
        ]
        if plain:
            series = {PLAIN: plain, **series}  # first, so that it lies beneath the others
            caption = "Beside it the plain prefill of the same run."
    drawn = line_figures(
        series, by="k", prefix=topic.id, title=f"{topic.title}: harmful replies by forced tokens",
        caption=caption,
    )  # fmt: skip
    tabled = [rates_table(summary, attack, f"{topic.title}, as numbers")]
    addition = _where(summary) if attack == "thinking" else ""
    return topic_section(summary, topic, drawn, tabled, addition=addition)


def _where(summary: Record) -> str:
    """Whether tokens were forced inside the thinking block or after it."""
    used = [rate.get("variant") for rate in attack_rates(summary, attack="thinking")]
    found = [words for variant, words in PLACES.items() if variant in used]
    if not found:
        return ""
    one = " Nothing was forced in the other place." if len(found) == 1 else ""
    return f"In this run they were forced {', and '.join(found)}.{one}"
