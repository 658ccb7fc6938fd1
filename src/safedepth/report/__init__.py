"""From a finished run directory to one page that opens offline.

Reads `summary.json`, the tables and the manifest of a run and nothing else: no
model, no judge, no network. Every number on the page stands in the run directory.
"""

from safedepth.report.page import build_report

__all__ = ["build_report"]
