"""What a run records of how it was made: when, with which versions, and how two configurations differ."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["difference", "now", "versions"]

PACKAGES = (
    "safedepth", "torch", "transformers", "tokenizers", "inspect-ai", "lm-eval", "alpaca-eval", "numpy",
    "pandas", "pyarrow",
)  # fmt: skip


def difference(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The message for a folder whose run was begun with another configuration."""
    old, new = dict(_flat(stored)), dict(_flat(wanted))
    changed = [key for key in sorted(old | new) if _shown(old, key) != _shown(new, key)]
    return "\n".join(
        [
            f"{path} holds a run with another configuration. These differ:",
            *(f"  {key}: {_shown(old, key)} there, {_shown(new, key)} now" for key in changed),
            "Choose another --out, repeat the options of the first run to resume it, or delete the folder.",
        ]
    )


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"


def versions() -> dict[str, str | None]:
    """Installed versions without importing what they belong to; None for what is not installed."""
    installed: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
