"""The devices of this machine by name, and how much memory is free on each.

It refuses to know what is to be put there.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from safedepth.errors import ModelError

__all__ = ["device_of", "free_memory", "said_bytes"]

MEMORY, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def device_of(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one. Raises ModelError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"expected a device of this machine, found {name!r} ({reason}). Try auto or cpu"
        ) from error
    return place


def free_memory(device: torch.device) -> int | None:
    """Bytes free there: a GPU's with what torch holds unused, or main memory's; None for other devices."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type == "cpu":
        known = [number for number in (_available(), _granted()) if number is not None]
        return min(known, default=None)
    return None


def said_bytes(number: float) -> str:
    """A number of bytes in GB or MB (powers of ten)."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{math.ceil(number / 1e6)} MB"


def _available() -> int | None:
    """What Linux says can be had without swapping; None on other systems."""
    try:
        lines = MEMORY.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _granted() -> int | None:
    """What a container's limit leaves of main memory; None where there is none."""
    try:
        limit, used = ((CGROUP / f"memory.{file}").read_text("ascii").strip() for file in ("max", "current"))
        lines = (CGROUP / "memory.stat").read_text("ascii").splitlines()
    except OSError:
        return None
    if limit == "max":
        return None
    # Pages of files that were read count as used, and are given up when memory is wanted.
    files = sum(int(line.split()[1]) for line in lines if line.startswith(("active_file", "inactive_file")))
    return max(0, int(limit) - int(used) + files)
