"""The files users bring: prompts with harmful answers, and the hash that names a file in a result."""

from safedepth.data.prompts import read_prompts
from safedepth.data.rows import file_sha256

__all__ = ["file_sha256", "read_prompts"]
