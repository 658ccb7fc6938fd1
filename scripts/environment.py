"""Make or mend the project's virtual environment, `.venv`; what every make target starts with.

    python3.11 scripts/environment.py {runtime,dev}

Installs the lock file of that name and then safedepth itself, editable. A second call
sees from a stamp that nothing changed and returns at once; a changed lock file or
pyproject.toml is installed over what is there. Two calls at once wait for one another,
and an environment whose making was interrupted is made anew.

It runs before anything is installed, so it knows the standard library alone.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / "unfinished"
LOCKS = {
    "runtime": ("requirements.lock",),
    "dev": ("requirements.lock", "requirements-dev.lock"),
}


def main() -> None:
    """Bring the environment to the part that was asked for, doing as little as possible."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=LOCKS)
    part: str = parser.parse_args().part
    if sys.version_info < (3, 11):
        found = sys.version.split()[0]
        sys.exit(f"safedepth needs Python 3.11 or later, but this is {found}. Run: make PYTHON=python3.11")
    with only_one():
        if works() and any(is_current(each) for each in LOCKS if set(LOCKS[part]) <= set(LOCKS[each])):
            return
        try:
            prepare()
            install(part)
        except subprocess.CalledProcessError as failure:
            command = " ".join(map(str, failure.cmd))
            say(f"this failed with exit status {failure.returncode}, and says why above: {command}")
            sys.exit("Mend the cause, then run the same make again; it starts afresh.")
        except KeyboardInterrupt:
            sys.exit("Interrupted; the next make starts afresh.")
        stamp(part).write_text(digest(part))
        UNFINISHED.unlink()


@contextmanager
def only_one() -> Iterator[None]:
    """Hold back a second call until the first is done; the lock ends with its holders, so none is stale."""
    with Path(__file__).open() as this_file:
        os.set_inheritable(this_file.fileno(), True)
        try:
            fcntl.flock(this_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another make is setting it up; waiting")
            fcntl.flock(this_file, fcntl.LOCK_EX)
        yield


def stamp(part: str) -> Path:
    """The file that says which state of the lock files was installed last."""
    return VENV / f"installed-{part}"


def is_current(part: str) -> bool:
    """Whether `part` was installed whole, from the lock files as they are now."""
    return stamp(part).is_file() and stamp(part).read_text() == digest(part)


def digest(part: str) -> str:
    """A fingerprint of everything that decides what `part` installs."""
    files = [*LOCKS[part], "pyproject.toml"]
    return hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in files)).hexdigest()


def works() -> bool:
    """Whether the environment is whole, stands where it was made, and has a Python that starts."""
    script = PYTHON.with_name("pip")
    if UNFINISHED.exists() or not script.exists() or str(PYTHON.parent) not in script.read_text():
        return False
    # A link to a Python that was removed since is there and does not start.
    return PYTHON.exists() and subprocess.run([PYTHON, "-I", "-c", ""], check=False).returncode == 0


def prepare() -> None:
    """Leave a working environment, marked as unfinished; one that was left half made is emptied first."""
    if works():
        say("bringing it up to date")
        UNFINISHED.touch()
        return
    # Called from within .venv, the interpreter that runs this is about to be removed.
    interpreter: str = getattr(sys, "_base_executable", sys.executable)
    say(f"making it with {interpreter} ({sys.version.split()[0]})")
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    for entry in VENV.iterdir():
        if entry == UNFINISHED:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    run(interpreter, "-m", "venv", VENV)


def install(part: str) -> None:
    """Install the lock file of `part` with what its packages need, then safedepth from this folder."""
    say(f"installing {LOCKS[part][-1]}")
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check"]
    if not sys.stderr.isatty():
        pip.append("--quiet")  # a person wants to see gigabytes arrive, a log file does not
    run(*pip, "-r", ROOT / LOCKS[part][-1])
    # What pip compiles one file after another takes all cores here, and the packages' own tests are
    # left out. A file that does not compile is nobody's concern until it is imported.
    run(PYTHON, "-m", "compileall", "-qq", "-j", "0", "-x", "/tests?/", VENV / "lib", check=False)
    # Everything is pinned above, the build backend too, so nothing more may be fetched.
    run(*pip, "--no-deps", "--no-build-isolation", "-e", ROOT)


def run(*words: str | Path, check: bool = True) -> None:
    """Run a command that shares the lock: were this process killed alone, pip would still hold it."""
    subprocess.run(words, check=check, close_fds=False)


def say(what: str) -> None:
    """Tell the person at the terminal; on stderr, so that stdout stays the target's own."""
    print(f".venv: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
