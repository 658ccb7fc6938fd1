"""Write the lock files: every version, exactly, for Python 3.11 on Linux.

Run it as `make lock`. The versions are what pip resolves in an empty, throw-away
environment, never what a developer's own environment happens to hold. Two files, the
second opening with the first and adding only what that one lacks:

    requirements.lock        what safedepth needs to run, and what builds it
    requirements-dev.lock    what the tests, the linter and the documentation need

No hashes and no index are written: torch has one file per platform and per
accelerator, and which one fits is for the machine's own pip settings to say.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"

ABOUT_TORCH = f"""\
#
# torch is pinned as {TORCH}, without a local label such as +cpu. A pin without one
# accepts the release's build for any platform (CPU, CUDA, ROCm, macOS), and pip takes the
# one that the machine's index or wheel folder offers; a pin with one fits a single index.
# For the same reason torch's own platform packages (nvidia-*, triton) are not listed here:
# pip adds them where the chosen build asks for them, so install this file together with
# its dependencies (never --no-deps).
"""

PLATFORM_PACKAGE = re.compile(r"nvidia-|cuda-|triton\b|pytorch-triton", re.IGNORECASE)


@dataclass(frozen=True)
class Lock:
    """One lock file: what it adds, in words and as the extras of pyproject.toml."""

    name: str
    what: str
    extras: tuple[str, ...] = ()


LOCKS = (
    Lock("requirements.lock", "What safedepth needs to run, and what builds it (hatchling, editables)."),
    Lock(
        "requirements-dev.lock",
        "What the extras dev, docs, servers, sweep, utility, alpaca and quantised add.",
        ("dev", "docs", "servers", "sweep", "utility", "alpaca", "quantised"),
    ),
)


def main() -> None:
    """Resolve the files in one empty environment, from the smallest to the largest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env", type=Path, help="where to make the throw-away environment")
    chosen: Path | None = parser.parse_args().env
    if sys.version_info[:2] != (3, 11):
        found = sys.version.split()[0]
        sys.exit(f"The locks are for Python 3.11, but this is {found}. Run: make lock PYTHON=python3.11")
    with tempfile.TemporaryDirectory() as temporary:
        write_locks(chosen or Path(temporary) / "env")


def write_locks(env: Path) -> None:
    """Make the environment `env` and write the lock files beside pyproject.toml."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", env], check=True)
    pip = [str(env / "bin" / "python"), "-m", "pip"]
    # torch first and alone: resolved together with the rest, a newer release's default
    # build could win, and that is gigabytes of CUDA on Linux.
    subprocess.run([*pip, "install", TORCH], check=True)
    pinned: list[str] = []
    previous: Lock | None = None
    for lock in LOCKS:
        constraint = ["-c", str(ROOT / previous.name)] if previous else []
        subprocess.run([*pip, "install", *constraint, *requirements(lock)], check=True)
        frozen = freeze(pip)
        added = [line for line in frozen if line not in pinned]
        (ROOT / lock.name).write_text(render(lock, added, previous=previous))
        pinned, previous = frozen, lock


def requirements(lock: Lock) -> list[str]:
    """What pyproject.toml asks for: the project's own needs and its builder's, or those of the extras."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    if lock.extras:
        return [line for extra in lock.extras for line in project["optional-dependencies"][extra]]
    # `editables` is what hatchling needs for an editable install; of setuptools, which torch brings, the
    # extra alpaca needs one that still has pkg_resources.
    return [*project["dependencies"], *pyproject["build-system"]["requires"], "editables", "setuptools<81"]


def freeze(pip: list[str]) -> list[str]:
    """What is installed, as `name==version` lines without local labels and platform packages."""
    command = [*pip, "freeze", "--all", "--exclude", "pip"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [re.sub(r"\+[\w.]+$", "", line) for line in listing.splitlines()]
    return [line for line in lines if not PLATFORM_PACKAGE.match(line)]


def render(lock: Lock, lines: list[str], *, previous: Lock | None) -> str:
    """The text of one lock file."""
    first = f"-r {previous.name}" if previous else TORCH
    head = [
        "# Written by `make lock` (scripts/lock.py); do not edit by hand.",
        f"# {lock.what}",
        f"# python3.11 -m venv ENV; ENV/bin/pip install {first};",
        "# then the requirements of pyproject.toml; then ENV/bin/pip freeze --all",
    ]
    body = [first, *lines] if previous else [ABOUT_TORCH.rstrip("\n"), *lines]
    return "\n".join([*head, *body]) + "\n"


if __name__ == "__main__":
    main()
