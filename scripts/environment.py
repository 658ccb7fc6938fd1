"""Make or mend the project's virtual environment, `.venv`; what every make target starts with.

    python3.11 scripts/environment.py {runtime,dev}

Installs the lock file of that name and then safedepth itself, editable. A second call
sees from a stamp that nothing changed and returns at once; a changed lock file or
pyproject.toml is installed over what is there. Two calls at once wait for one another,
and an environment whose making was interrupted is made anew.

It runs before anything is installed, so it knows the standard library alone. What it
knows of environments serves other scripts that keep one (vllm_environment.py).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment", "digest", "main", "require_python"]

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCKS = {
    "runtime": ("requirements.lock",),
    "dev": ("requirements.lock", "requirements-dev.lock"),
}


def main() -> None:
    """Bring the environment to the part that was asked for, doing as little as possible."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=LOCKS)
    part: str = parser.parse_args().part
    require_python()
    venv = Environment(VENV, Path(__file__))
    # A larger part serves the smaller.
    parts = [each for each in LOCKS if set(LOCKS[part]) <= set(LOCKS[each])]
    venv.bring({each: digest(*LOCKS[each], "pyproject.toml") for each in parts}, lambda: install(venv, part))


def require_python() -> None:
    """End here, with a hint, under a Python that is too old."""
    if sys.version_info < (3, 11):
        found = sys.version.split()[0]
        sys.exit(f"safedepth needs Python 3.11 or later, but this is {found}. Run: make PYTHON=python3.11")


def digest(*names: str) -> str:
    """A fingerprint of the project's files of these names: of everything that decides what is installed."""
    return hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in names)).hexdigest()


def install(venv: Environment, part: str) -> None:
    """Install the lock file of `part` with what its packages need, then safedepth from this folder."""
    venv.say(f"installing {LOCKS[part][-1]}")
    venv.pip("-r", ROOT / LOCKS[part][-1])
    venv.compile()
    # Everything is pinned above, the build backend too, so nothing more may be fetched.
    venv.pip("--no-deps", "--no-build-isolation", "-e", ROOT)


@dataclass(frozen=True)
class Environment:
    """A virtual environment in `folder`; calls of the `script` that keeps it wait for one another."""

    folder: Path
    script: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def unfinished(self) -> Path:
        """The file that says that its making, or bringing it up to date, has not ended."""
        return self.folder / "unfinished"

    def bring(self, states: dict[str, str], install: Callable[[], None]) -> None:
        """Have `install` bring it to the first of `states` (name → digest), unless it is in one of them."""
        with self.only_one():
            if self.works() and any(self.holds(name, found) for name, found in states.items()):
                return
            try:
                self.prepare()
                install()
            except subprocess.CalledProcessError as failure:
                command = " ".join(map(str, failure.cmd))
                self.say(f"this failed with exit status {failure.returncode}, and says why above: {command}")
                sys.exit("Mend the cause, then run the same make again; it starts afresh.")
            except KeyboardInterrupt:
                sys.exit("Interrupted; the next make starts afresh.")
            name, found = next(iter(states.items()))
            self.stamp(name).write_text(found)
            self.unfinished.unlink()

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Hold back a second call until the first is done; the lock ends with its holders: none is stale."""
        with self.script.open() as this_file:
            os.set_inheritable(this_file.fileno(), True)
            try:
                fcntl.flock(this_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say("another make is setting it up; waiting")
                fcntl.flock(this_file, fcntl.LOCK_EX)
            yield

    def stamp(self, state: str) -> Path:
        """The file that says from which lock files `state` was installed last."""
        return self.folder / f"installed-{state}"

    def holds(self, state: str, found: str) -> bool:
        """Whether `state` was installed whole, from the files as they are now."""
        return self.stamp(state).is_file() and self.stamp(state).read_text() == found

    def works(self) -> bool:
        """Whether it is whole, stands where it was made, and has a Python that starts."""
        script = self.python.with_name("pip")
        if self.unfinished.exists() or not script.exists():
            return False
        if str(self.python.parent) not in script.read_text():
            return False
        # A link to a Python that was removed since is there and does not start.
        if not self.python.exists():
            return False
        return subprocess.run([self.python, "-I", "-c", ""], check=False).returncode == 0

    def prepare(self) -> None:
        """Leave a working one, marked as unfinished; one that was left half made is emptied first."""
        if self.works():
            self.say("bringing it up to date")
            self.unfinished.touch()
            return
        # Called from within the environment, the interpreter that runs this is about to be removed.
        interpreter: str = getattr(sys, "_base_executable", sys.executable)
        self.say(f"making it with {interpreter} ({sys.version.split()[0]})")
        self.folder.mkdir(exist_ok=True)
        self.unfinished.touch()
        for entry in self.folder.iterdir():
            if entry == self.unfinished:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        run(interpreter, "-m", "venv", self.folder)

    def pip(self, *words: str | Path) -> None:
        """Install what `words` say."""
        command: list[str | Path] = [self.python, "-m", "pip", "install", "--no-compile"]
        command.append("--disable-pip-version-check")
        if not sys.stderr.isatty():
            command.append("--quiet")  # a person wants to see gigabytes arrive, a log file does not
        run(*command, *words)

    def compile(self) -> None:
        """Byte-compile what was installed.

        What pip compiles one file after another takes all cores here, and the packages' own tests are
        left out. A file that does not compile is nobody's concern until it is imported.
        """
        words = ("-m", "compileall", "-qq", "-j", "0", "-x", "/tests?/", self.folder / "lib")
        run(self.python, *words, check=False)

    def say(self, what: str) -> None:
        """Tell the person at the terminal; on stderr, so that stdout stays the target's own."""
        print(f"{self.folder.name}: {what}", file=sys.stderr, flush=True)


def run(*words: str | Path, check: bool = True) -> None:
    """Run a command that shares the lock: were this process killed alone, pip would still hold it."""
    subprocess.run(words, check=check, close_fds=False)


if __name__ == "__main__":
    main()
