"""What works on this machine: versions, devices, disk, and one tiny model through the whole stack."""

import importlib.util
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from safedepth.testbed.organisms import cache_folder

__all__ = ["Finding", "examine"]

LIBRARIES = ("torch", "transformers", "inspect-ai", "altair", "vl-convert-python")
NEEDED_DISK = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, whether it will do, and a word for it (else ok or no)."""

    check: str
    found: str
    ok: bool
    says: str = ""


def examine() -> list[Finding]:
    """Look at everything the package needs; nothing is downloaded and nothing is left behind."""
    python = sys.version_info
    findings = [Finding("Python 3.11 or later", platform.python_version(), python >= (3, 11))]
    findings += [Finding(name, metadata.version(name), True) for name in LIBRARIES]
    findings += [_device(), _disk(), _provider(), _charts()]
    server = importlib.util.find_spec("openai") is not None
    found = "openai client installed" if server else "not installed; pip install 'safedepth[servers]'"
    return [*findings, Finding("models behind servers (optional)", found, True)]


def _device() -> Finding:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("device", names, True)
    return Finding("device", f"CPU, {torch.get_num_threads()} threads (no CUDA device)", True)


def _disk() -> Finding:
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache):
            free = shutil.disk_usage(cache).free
    except OSError as error:
        return Finding("organism cache", f"{cache} cannot be written ({error}); set SAFEDEPTH_CACHE", False)
    return Finding("organism cache", f"{cache}, {free / 1024**3:.0f} GiB free", free > NEEDED_DISK)


def _provider() -> Finding:
    """A random tiny model, saved, loaded and asked through Inspect's own interface."""
    import asyncio

    from inspect_ai.model import GenerateConfig

    from safedepth.studies.target import open_target
    from safedepth.testbed.organisms import OrganismRecipe, save_untrained

    with tempfile.TemporaryDirectory() as folder:
        try:
            save_untrained(OrganismRecipe("aligned"), Path(folder))
            target = open_target(folder, device="auto")
            output = asyncio.run(
                target.model.generate("How do I clean krell torin?", config=GenerateConfig(max_tokens=4))
            )
        except Exception as error:  # noqa: BLE001 - whatever fails here is the finding
            return Finding("a tiny model through Inspect", f"{type(error).__name__}: {error}", False)
    usage = output.usage.output_tokens if output.usage else 0
    return Finding("a tiny model through Inspect", f"{usage} tokens generated", True)


def _charts() -> Finding:
    import vl_convert

    try:
        svg = vl_convert.vegalite_to_svg(
            {"mark": "point", "data": {"values": [{"x": 1}]}, "encoding": {"x": {"field": "x"}}}
        )
    except ValueError as error:
        return Finding("charts without a network", str(error), False)
    return Finding("charts without a network", f"{len(svg)} bytes of SVG", True)
