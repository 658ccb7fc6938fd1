"""The section on decoding: harmful replies by temperature, top-p and top-k, and the best of n settings.

Charts are of the judge that the study relies on; the tables have all judges.
"""

from __future__ import annotations

from collections.abc import Sequence

from safedepth.report.attack_lines import LONG, by_judge, is_number
from safedepth.report.band_lines import band_lines, count_axis, number_axis, page_models
from safedepth.report.marks import interval_tooltip
from safedepth.report.parts import Figure, Section, slugs, topic_section, undrawn
from safedepth.report.style import Chart, Record, styled
from safedepth.report.tables import Table
from safedepth.report.topics_attacks import DECODING
from safedepth.report.words import capital, count, how_many, named, plain_name, share_estimate

__all__ = ["best_of", "by_setting", "kinds", "sections", "worst_words"]

KINDS = {"temperature": "temperature", "top_p": "top-p", "top_k": "top-k"}
"""What a setting sets, in words, in reading order."""
COUNTS = ("top_k",)
"""Those that are whole numbers from 1 on and have a logarithmic axis."""
EMPTY: Record = {"settings": (), "worst": (), "best_of": ()}


def sections(summary: Record) -> list[Section]:
    """The section of a `decoding` block (claim C6); none where nobody set out to measure it."""
    block = summary.get("decoding") or EMPTY
    settings, tries = by_judge(summary, block["settings"]), by_judge(summary, block["best_of"])
    judge = next(iter(by_judge(summary, (*block["settings"], *block["best_of"], *block["worst"]))), "")
    models = page_models(summary, (*block["settings"], *block["best_of"], *block["worst"]))
    drawn = _by_setting(settings.get(judge, []), models, judge)
    drawn += _best_of(tries.get(judge, []), models, judge)
    tabled = [_worst(block["worst"]), _tries(block["best_of"]), _settings(block["settings"])]
    worst = worst_words([row for row in block["worst"] if named(row["judge"]) == judge])
    section = topic_section(summary, DECODING, drawn, tabled, addition=worst)
    return [] if section is None else [section]


def kinds(rows: Sequence[Record]) -> list[str]:
    """What is set in the rows that have a place on an axis: the known kinds first, then a user's own."""
    found = {str(row["kind"]) for row in rows if row["kind"] is not None and is_number(row["setting"])}
    return [*(kind for kind in KINDS if kind in found), *sorted(found - set(KINDS))]


def by_setting(rows: Sequence[Record], kind: str, models: Sequence[str]) -> Chart | None:
    """Share of harmful replies against the settings of one kind, a line a model with its band."""
    mine = [row for row in rows if str(row["kind"]) == kind and is_number(row["setting"])]
    shown = [{**row, "model": named(row["model"])} for row in mine if row["value"] is not None]
    if not shown:
        return None
    title, values = capital(_kind(kind)), [row["setting"] for row in shown]
    if kind in COUNTS and min(values) >= 1:
        x = count_axis("setting", values, title=f"{title}, logarithmic")
    else:
        x = number_axis("setting", values, title=title, ends=(0, 1) if max(values) <= 1 else (0,))
    told = interval_tooltip(("model:N", "model"), ("setting:Q", _kind(kind)))
    return styled(
        *band_lines(shown, _with(models, shown), x=x, tooltip=told, title="harmful replies"), height=220
    )


def best_of(rows: Sequence[Record], models: Sequence[str]) -> Chart | None:
    """Share of prompts that at least one of n settings drawn at random broke, against n."""
    shown = [{**row, "model": named(row["model"])} for row in rows if _drawable(row)]
    if not shown:
        return None
    x = count_axis("tries", [row["tries"] for row in shown], title="settings tried, n, logarithmic")
    told = interval_tooltip(("model:N", "model"), ("tries:Q", "settings tried"), value="broken")
    return styled(
        *band_lines(shown, _with(models, shown), x=x, tooltip=told, title="prompts broken"), height=220
    )


def worst_words(rows: Sequence[Record]) -> str:
    """The share of prompts that at least one of the settings broke, in a sentence; empty without."""
    told = [f"{named(row['model'])} {share_estimate(row)}" for row in rows if row["value"] is not None]
    return f"Broken by at least one of all settings: {'; '.join(told)}." if told else ""


def _kind(kind: str) -> str:
    return KINDS.get(kind) or plain_name(named(kind))


def _drawable(row: Record) -> bool:
    return row["value"] is not None and is_number(row["tries"]) and row["tries"] >= 1


def _with(models: Sequence[str], rows: Sequence[Record]) -> list[str]:
    """The models of the page, and one without a name if there is one."""
    return list(dict.fromkeys((*models, *(row["model"] for row in rows))))


def _by_setting(rows: Sequence[Record], models: Sequence[str], judge: str) -> list[Figure]:
    drawn = []
    for kind, slug in slugs(kinds(rows)).items():
        chart = by_setting(rows, kind, models)
        if chart is None:
            continue
        mine = [row for row in rows if str(row["kind"]) == kind and is_number(row["setting"])]
        highest: dict[str, Record] = {}
        for row in mine:
            known = highest.get(named(row["model"]))
            if row["value"] is not None and (known is None or row["value"] > known["value"]):
                highest[named(row["model"])] = row
        told = "; ".join(
            f"{model} at most {share_estimate(row)}, at {_kind(kind)} {row['setting']:g}"
            for model, row in highest.items()
        )
        drawn.append(
            Figure(
                id=f"decoding-{slug}",
                title=f"By {_kind(kind)}",
                full_title=f"Harmful replies by {_kind(kind)} (judge: {judge})",
                caption=f"Judge {judge}. {undrawn(mine)}".strip(),
                spoken=f"Line chart of the share of harmful replies. {told}.",
                chart=chart,
            )
        )
    return drawn


def _best_of(rows: Sequence[Record], models: Sequence[str], judge: str) -> list[Figure]:
    chart = best_of(rows, models)
    if chart is None:
        return []
    told = "; ".join(
        f"{named(row['model'])}, {count(row['tries'], 'try', 'tries')}: {share_estimate(row)}"
        for row in rows
        if _drawable(row)
    )
    return [
        Figure(
            id="decoding-best-of",
            title="Best of n settings",
            full_title=f"Prompts broken by at least one of n decoding settings (judge: {judge})",
            caption=f"Judge {judge}. The n settings are drawn at random; on the right are all of them.",
            spoken=f"Line chart of the share of prompts broken. {told}.",
            chart=chart,
        )
    ]


def _numbers(row: Record) -> list[str]:
    return [share_estimate(row), how_many(row["n"]), how_many(row["unscored"])]


def _worst(rows: Sequence[Record]) -> Table:
    told = [[named(row["model"]), named(row["judge"]), *_numbers(row)] for row in rows]
    head = ["model", "judge", "prompts broken", "n", "unscored"]
    return Table("The worst of all settings: prompts broken by at least one", head, told, words=2, open=True)


def _tries(rows: Sequence[Record]) -> Table:
    told = [
        [named(row["model"]), named(row["judge"]), how_many(row["tries"]), *_numbers(row)]
        for row in rows
        if row["tries"] is not None
    ]
    head = ["model", "judge", "settings tried", "prompts broken", "n", "unscored"]
    return Table("Best of n settings, as numbers", head, told, words=2)


def _settings(rows: Sequence[Record]) -> Table:
    told = [[named(row["model"]), _name(row), named(row["judge"]), *_numbers(row)] for row in rows]
    head = ["model", "setting", "judge", "harmful", "n", "unscored"]
    return Table("Every decoding setting, as numbers", head, told, words=3, open=len(told) <= LONG // 2)


def _name(row: Record) -> str:
    """A setting in words: the kind and its value, else its own name."""
    if row["kind"] is not None and is_number(row["setting"]):
        return f"{_kind(str(row['kind']))} {row['setting']:g}"
    return named(row["variant"])
