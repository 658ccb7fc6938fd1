"""The files users bring: prompts, benchmarks, triplets, anchors, and the hash that names each in a result."""

from safedepth.data.anchors import read_anchors, read_requests
from safedepth.data.prompts import read_prompts, write_prompts
from safedepth.data.sources import Source, file_sha256, files_sha256, resolved, source_of
from safedepth.data.triplets import read_triplets

__all__ = [
    "Source",
    "file_sha256",
    "files_sha256",
    "read_anchors",
    "read_prompts",
    "read_requests",
    "read_triplets",
    "resolved",
    "source_of",
    "write_prompts",
]
