"""Where the output folder of a training keeps what: names that writers and readers share."""

from __future__ import annotations

__all__ = ["RECORD", "REPORT"]

RECORD = "training.json"
"""Written last into a trained model's folder: how it was made, its losses, and that it is whole."""

REPORT = "report"
"""The run directory in the output folder."""
