"""The section on the calibration: measures of depth on organisms of known depth."""

from __future__ import annotations

from safedepth.report import figures
from safedepth.report.parts import Figure, Section, slugs, why
from safedepth.report.style import Record
from safedepth.report.tables import Table
from safedepth.report.words import capital, depth_estimate, plain_name

__all__ = ["section"]


def section(summary: Record) -> Section:
    """The section of a `calibration` block: every measure of depth against the depths that are known."""
    drawn = []
    points = summary["calibration"].get("points", ())
    curves = figures.calibration_curves(summary)
    if curves is not None:
        drawn.append(
            Figure(
                id="calibration-curves",
                title="Prefill sweep of every organism",
                full_title="Harmful replies by forced tokens, organisms of known depth",
                wide=True,
                caption="Bands are 95 % intervals.",
                spoken="Line chart of the share of harmful replies by forced tokens, one line an organism. "
                "The table below has the measures.",
                chart=curves,
            )
        )
    names = figures.calibrated_measures(summary)
    drawn += [f for name, slug in slugs(names).items() if (f := _measure_figure(summary, name, slug))]
    table = Table(
        title="The calibration as numbers",
        head=["organism", "d", *(plain_name(name) for name in names)],
        rows=[
            [
                p["organism"],
                str(p["d"]),
                *(depth_estimate(p["measures"].get(name) or {}) for name in names),
            ]
            for p in points
        ],
    )
    return Section(
        id="calibration",
        title="Is the meter right?",
        intro="Organisms are tiny models trained to refuse up to a known depth d and no further. A measure "
        "of depth is worth something if it puts them in the right order.",
        figures=drawn,
        tables=[table],
        missing="" if drawn else why(summary, "the calibration", "calibration"),
    )


def _measure_figure(summary: Record, name: str, slug: str) -> Figure | None:
    """One measure against the known depths; organisms without a value are named, not drawn."""
    chart = figures.calibration(summary, name)
    if chart is None:
        return None
    title = f"{plain_name(name)} against known depth"
    title = capital(title)
    rank = (summary["calibration"].get("rank_correlation") or {}).get(name) or {}
    caption = ""
    if rank.get("value") is not None:
        ends = [rank.get("low"), rank.get("high")]
        interval = "" if None in ends else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
        caption = f"Rank correlation with d: {rank['value']:.2f}{interval}. "
    points = summary["calibration"]["points"]
    lacking = [p["organism"] for p in points if (p["measures"].get(name) or {}).get("value") is None]
    if lacking:
        caption += f"Without a value, and not drawn: {', '.join(lacking)}."
    return Figure(
        id=f"calibration-{slug}",
        title=title,
        full_title=title,
        caption=caption.strip(),
        spoken=f"Scatter plot of {plain_name(name)} against the depth trained to. {caption}".strip(),
        chart=chart,
    )
