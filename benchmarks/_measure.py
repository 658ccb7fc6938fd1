"""What the benchmarks share: a process for each measurement, glibc's allocators, the peak of a call's memory.

It refuses to know what is measured.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["ALLOCATORS", "MEMORY_ENVIRONMENT", "in_subprocess", "peak_above"]

ALLOCATORS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "reuse": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
        "MALLOC_TOP_PAD_": "1000000000",
    },
}

# Every large block on a mapping of its own, so that the high-water mark is what was alive.
MEMORY_ENVIRONMENT: Mapping[str, str] = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def peak_above(work: Callable[[], object]) -> float:
    """MB above what the process holds now, at the peak of one call. Linux only."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status_megabytes("VmRSS")
    work()
    return _status_megabytes("VmHWM") - before


def in_subprocess(script: str, task: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """What `script --task TASK` prints last, as JSON, under malloc settings of `environment` alone."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    finished = subprocess.run(
        [sys.executable, script, "--task", json.dumps(task)],
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def _status_megabytes(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{key} is not in /proc/self/status: this benchmark needs Linux")
