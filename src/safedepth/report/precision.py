"""The section on rounding: the KL of a model with itself in another number format, beside that of the models.

Where the KL of the models is no larger than what rounding alone makes, it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import altair as alt

from safedepth.report.marks import token_bands
from safedepth.report.parts import Figure, Section, topic_section
from safedepth.report.style import Chart, Record, model_colour, model_shape
from safedepth.report.tables import Table
from safedepth.report.topics_measured import PRECISION
from safedepth.report.words import MISSING, capital, count, estimate, how_many, named, number, share_estimate

__all__ = ["BETWEEN", "below", "by_token", "chart", "sections"]

BETWEEN = "between the models"


def sections(summary: Record) -> list[Section]:
    """The section of a `precision` block; none where nobody set out to measure it."""
    drawn = []
    found = chart(summary)
    if found is not None:
        told = below(summary)
        caption = f"Logarithmic, unlike the figure above. {told or _above(summary)} {_flat(summary)}"
        drawn.append(
            Figure(
                id="precision-floor",
                title="KL of the models, and of rounding alone",
                full_title="KL by token of the harmful answer, and of rounding alone",
                wide=True,
                caption=" ".join(caption.split()),
                spoken=f"Line chart of the KL by token. {told or _above(summary)}".strip(),
                chart=found,
            )
        )
    by_number = [by_token(summary)] if summary.get("precision") else []
    section = topic_section(summary, PRECISION, drawn, [_table(summary), *by_number])
    return [] if section is None else [section]


def chart(summary: Record) -> Chart | None:
    """KL in nats against the answer token on a logarithmic axis: the models', and that of every format."""
    lines = _lines(summary)
    rows = [
        {**point, "model": name, "value": point["mean"], "low": _positive(point, "low")}
        for name, points in lines.items()
        for point in points
        if point["mean"] is not None and point["mean"] > 0
    ]
    if not any(row["model"] != BETWEEN for row in rows):
        return None
    names = [name for name in lines if any(row["model"] == name for row in rows)]
    return token_bands(
        rows,
        names,
        by="model",
        y=alt.Y("value:Q", title="KL, nats").scale(type="log").axis(format="~g", tickCount=6),
        colour=model_colour(names),
        shape=model_shape(names),
        title="token of the harmful answer",
    )


def below(summary: Record) -> str:
    """At which tokens the models differ by no more than rounding alone makes, a sentence for each format."""
    between = {p["position"]: p["mean"] for p in _lines(summary).get(BETWEEN, ()) if p["mean"] is not None}
    said = []
    for dtype in dict.fromkeys(named(row["dtype"]) for row in summary.get("precision") or ()):
        floor: dict[int, float] = {}
        for row in summary.get("precision") or ():
            for point in (row["kl"] or {"per_token": ()})["per_token"]:
                if named(row["dtype"]) == dtype and point["mean"] is not None:
                    floor[point["position"]] = max(point["mean"], floor.get(point["position"], 0.0))
        under = [place for place in sorted(floor) if place in between and between[place] <= floor[place]]
        if under:
            said.append(
                f"At {_places(under)} the KL between the models is no larger than what rounding to {dtype} "
                "alone makes: there, in that format, it shows no difference."
            )
    return " ".join(said)


def _above(summary: Record) -> str:
    formats = " or ".join(
        dict.fromkeys(named(row["dtype"]) for row in summary.get("precision") or () if row["kl"])
    )
    if not formats or BETWEEN not in _lines(summary):
        return ""
    return f"At every token the KL between the models is larger than what rounding to {formats} makes."


def _flat(summary: Record) -> str:
    """How many points have no place on a logarithmic axis."""
    points = [p for of in _lines(summary).values() for p in of if p["mean"] is not None and p["mean"] <= 0]
    if not points:
        return ""
    return f"{count(len(points), 'point')} of exactly zero {'is' if len(points) == 1 else 'are'} not drawn."


def _lines(summary: Record) -> dict[str, Sequence[Record]]:
    """The KL by token under the name of its line: between the models, then by model and format."""
    found: dict[str, Sequence[Record]] = {}
    if summary.get("kl") and any(p["mean"] is not None for p in summary["kl"]["per_token"]):
        found[BETWEEN] = summary["kl"]["per_token"]
    for row in summary.get("precision") or ():
        if row["kl"]:
            found[_name(row)] = row["kl"]["per_token"]
    return found


def _name(row: Record) -> str:
    model, dtype = _model_and_format(row)
    return f"{model}, rounded to {dtype}"


def _model_and_format(row: Record) -> tuple[str, str]:
    return named(row["model"]), named(row["dtype"])


def _positive(point: Record, key: str) -> float | None:
    """The end of an interval as far down as a logarithmic axis goes with this point."""
    if point[key] is None:
        return None
    return max(float(point[key]), float(point["mean"]) / 10)


def _places(positions: Sequence[int]) -> str:
    """`token 3`, `tokens 2, 5 to 7 and 40`."""
    runs: list[list[int]] = [[positions[0], positions[0]]]
    for before, place in pairwise(positions):
        if place == before + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    told = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    listed = " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)
    return f"{'token' if len(positions) == 1 else 'tokens'} {listed}"


def _table(summary: Record) -> Table:
    """For every model and format: the largest KL by rounding, and how often the likeliest token changed."""
    rows = []
    for row in summary.get("precision") or ():
        points = [p for p in (row["kl"] or {"per_token": ()})["per_token"] if p["mean"] is not None]
        most = max(points, key=lambda point: float(point["mean"]), default=None)
        largest = f"{number(most['mean'])} nats, at token {most['position']}" if most else MISSING
        changed = row["argmax_changed"]
        rows.append([*_model_and_format(row), largest, share_estimate(changed), how_many(changed["n"])])
    head = ["model", "float32 against", "largest mean KL", "likeliest token changed", "n"]
    return Table(f"{capital(PRECISION.what)} in numbers", head, rows, words=2, open=True)


def by_token(summary: Record) -> Table:
    """The lines of the figure as numbers, a column each."""
    lines = _lines(summary)
    at = {(name, point["position"]): point for name, points in lines.items() for point in points}
    rows = []
    for place in sorted({place for _, place in at}):
        points = [at.get((name, place)) or {} for name in lines]
        rows.append([str(place), *(estimate({**p, "value": p.get("mean")}, unit="") for p in points)])
    return Table("Mean KL by token, nats", ["token", *lines], rows, words=0)
