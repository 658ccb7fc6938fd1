"""What an import and `--help` may cost: people type both all day."""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "safedepth"

HELP_SECONDS = 0.5
# Processor time grows by about this much when the other core works on the same memory.
NOISE = 1.5


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


HEAVY = {"torch", "transformers", "inspect_ai", "pandas", "numpy"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import safedepth") & HEAVY == set()


def test_the_nouns_and_the_errors_load_nothing_heavy() -> None:
    assert loaded_by("import safedepth.nouns, safedepth.errors") & HEAVY == set()


def test_the_report_needs_no_model_library() -> None:
    files = sorted((PACKAGE / "report").glob("*.py"))
    assert files
    imports = "; ".join(f"import safedepth.report.{file.stem}" for file in files)
    assert loaded_by(imports) & {"torch", "transformers", "inspect_ai"} == set()


def test_help_answers_at_once() -> None:
    """Under half a second of processor time, the median of five runs after one to warm up.

    Processor time, because the wall clock of a machine that runs other tests beside this
    one measures those too.
    """
    command = [str(Path(sys.executable).with_name("safedepth")), "--help"]
    seconds = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(seconds[1:]) < HELP_SECONDS * NOISE


def test_help_loads_nothing_heavy() -> None:
    program = """
import contextlib, io, sys
from safedepth.cli import main
sys.argv = ["safedepth", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""
    assert loaded_by(program) & HEAVY == set()
