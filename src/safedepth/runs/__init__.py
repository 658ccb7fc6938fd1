"""A run directory: the only memory a study has.

    config.json            the full configuration, written first
    run.json               when and with which versions the run was begun
    logs/                  Inspect's own logs
    chunks/                pieces of measurements that several processes make; gone when they are whole
    measurements/*.parquet one table a measurement
    summary.json           what the report shows
    report.html            the page, and figures/*.png where they were asked for
    manifest.json          written last: hash and size of every file above

A file here is either whole or absent, so a study that was killed continues with
the same command and computes only what is missing. This package knows folders,
JSON and Parquet; it refuses to know models, judges and what the numbers mean.
"""

from safedepth.runs.chunks import Chunks
from safedepth.runs.directory import RunDirectory
from safedepth.runs.files import write_atomically

__all__ = ["Chunks", "RunDirectory", "write_atomically"]
