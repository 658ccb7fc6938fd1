"""The section on conversations: harmful replies turn by turn, of an attacker who escalates or of a script."""

from __future__ import annotations

from safedepth.report.attack_lines import line_figures, rates_table, scored
from safedepth.report.parts import Section, topic_section
from safedepth.report.style import Record
from safedepth.report.topics_attacks import ESCALATION
from safedepth.report.words import attack_name, capital, count

__all__ = ["sections"]


def sections(summary: Record) -> list[Section]:
    """The section, if the run has conversations; scripted ones before and after training stand elsewhere."""
    attacks = ["escalation"] if summary.get("deepening") else ["escalation", "multi_turn"]
    drawn, tabled = [], []
    for attack in attacks:
        series: dict[str, list[Record]] = {}
        for rate in scored(summary, attack, by="turn"):
            series.setdefault(_line(rate), []).append(rate)
        name = capital(attack_name(attack))
        drawn += line_figures(
            series, by="turn", prefix=f"conversations-{attack.replace('_', '-')}",
            title=f"{name}: harmful replies by turn", caption=f"{name}.",
        )  # fmt: skip
        tabled.append(rates_table(summary, attack, f"{name}, as numbers"))
    section = topic_section(summary, ESCALATION, drawn, tabled)
    return [] if section is None else [section]


def _line(rate: Record) -> str:
    """What tells a conversation from others: its attacker, and how many tokens were forced."""
    parts = [f"attacker: {rate['variant']}"] if rate.get("variant") is not None else []
    if rate.get("k"):
        parts.append(f"{count(rate['k'], 'token')} forced")
    return ", ".join(parts) or "nothing forced"
