"""The files users bring: prompts, triplets, anchors, and the hash that names a file in a result."""

from safedepth.data.anchors import read_anchors, read_requests
from safedepth.data.prompts import read_prompts, write_prompts
from safedepth.data.rows import file_sha256
from safedepth.data.triplets import read_triplets

__all__ = ["file_sha256", "read_anchors", "read_prompts", "read_requests", "read_triplets", "write_prompts"]
