"""The suffix attack within an audit: searched on the audited model, unless suffixes were given."""

from __future__ import annotations

from typing import Any


def searched_suffixes(config: Any, run: Any, target: Any, prompts: Any, plan: Any, *, progress: Any) -> Any:
    return config, {}
