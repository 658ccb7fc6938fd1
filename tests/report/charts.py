"""What a chart draws: the rows of data in its specification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safedepth.report.style import Chart

__all__ = ["drawn"]


def rows(spec: Any) -> Iterator[dict[str, Any]]:
    """Every row of data anywhere in a Vega-Lite specification."""
    if isinstance(spec, dict):
        for part in (spec.get("data") or {}, *(spec.get("datasets") or {}).values()):
            yield from part.get("values", []) if isinstance(part, dict) else part
        spec = [value for key, value in spec.items() if key not in ("data", "datasets")]
    if isinstance(spec, list):
        for part in spec:
            yield from rows(part)


def drawn(chart: Chart | None, *keys: str) -> set[tuple[Any, ...]]:
    assert chart is not None
    return {tuple(row[key] for key in keys) for row in rows(chart.to_dict()) if keys[0] in row}
