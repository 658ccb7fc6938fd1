"""The section that sets the attacks side by side: each at its strongest, and what any of them broke."""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report.attack_lines import by_judge, variant_name
from safedepth.report.marks import grouped_points, interval_tooltip
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.style import Chart, Record
from safedepth.report.tables import Table
from safedepth.report.topics_attacks import OVERVIEW
from safedepth.report.words import MISSING, attack_name, capital, how_many, named, share_estimate

__all__ = ["ANY", "chart", "sections", "table"]

ANY = "any of them"


def sections(summary: Record) -> list[Section]:
    """The section of an `attacks` block, first among those on attacks."""
    block = summary.get("attacks") or {"overview": [], "any": []}
    rows = _rows(block)
    drawn = []
    judged = by_judge(summary, rows)
    for judge, slug in slugs(list(judged)).items():
        mine = _strongest(judged[judge])
        found = chart(mine)
        if found is None:
            continue
        spoken = "; ".join(f"{row['attack']}, {row['model']}: {share_estimate(row)}" for row in mine)
        drawn.append(
            Figure(
                id=f"attacks-{slug}",
                title=f"Judge: {judge}",
                full_title=f"Harmful replies to every attack at its strongest (judge: {judge})",
                caption=f"“{capital(ANY)}”: prompts with at least one harmful reply to any attack. "
                f"{_apart(block)} {undrawn(mine)}".replace("  ", " ").strip(),
                spoken=f"Dot plot with intervals. {spoken}.",
                chart=found,
            )
        )
    section = topic_section(summary, OVERVIEW, drawn, [table(rows)])
    return [] if section is None else [section]


def chart(rows: Sequence[Record]) -> Chart | None:
    """A dot with its interval for every attack and model, the strongest attack first, “any” at the top."""
    shown = [row for row in rows if row["value"] is not None]
    models = list(dict.fromkeys(row["model"] for row in rows))
    told = interval_tooltip(("model:N", "model"), ("attack:N", "attack"), ("how:N", "variant"))
    return grouped_points(shown, models, group="attack", title="harmful replies", tooltip=told)


def _rows(block: Record) -> list[Record]:
    """All rows with the attack and its variant in words."""
    found = [{**row, "attack": ANY, "how": MISSING} for row in block["any"]]
    found += [{**row, "attack": attack_name(row["attack"]), "how": _how(row)} for row in block["overview"]]
    return [{**row, "model": named(row["model"])} for row in found]


def _apart(block: Record) -> str:
    """What does not count towards “any”: scripts ask other questions than the attacks do."""
    scripted = any(row["attack"] == "multi_turn" for row in block["overview"])
    return "Scripted conversations ask other questions and do not count in it." if scripted else ""


def _how(row: Record) -> str:
    words = variant_name(row["attack"], row["variant"])
    parts = [] if words == attack_name(row["attack"]) else [words]
    parts += [f"k = {row['k']}"] if row["k"] is not None else []
    return ", ".join(parts) or MISSING


def _strongest(rows: Sequence[Record]) -> list[Record]:
    """One row for every attack and model, in the order of what an attack reaches on any model."""
    best: dict[tuple[str, str], Record] = {}
    for row in rows:
        key = (row["attack"], row["model"])
        if key not in best or _height(row) > _height(best[key]):
            best[key] = row
    reach: dict[str, float] = {}
    for (attack, _), row in best.items():
        reach[attack] = max(reach.get(attack, -1), _height(row))
    return sorted(best.values(), key=lambda row: (row["attack"] != ANY, -reach[row["attack"]]))


def _height(row: Record) -> float:
    return -1 if row["value"] is None else float(row["value"])


def table(rows: Sequence[Record]) -> Table:
    """The same as numbers, all judges."""
    told = [
        [
            row["attack"], row["model"], row["how"], named(row["judge"]), share_estimate(row),
            how_many(row["n"]), how_many(row["unscored"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["attack", "model", "strongest variant", "judge", "harmful", "n", "unscored"]
    return Table("Every attack at its strongest, as numbers", head, told, words=4, open=True)
