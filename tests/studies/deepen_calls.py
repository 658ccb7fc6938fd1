"""`safedepth deepen` as the tests call it: small, on the testbed's files, in this process or in another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from safedepth.cli import main
from safedepth.testbed import Testbed

SMALL: dict[str, Any] = {
    "max_steps": 2, "safety_per_step": 2, "anchors_per_step": 2, "per_device_train_batch_size": 4,
    "gradient_checkpointing": False, "limit": 2, "max_tokens": 60, "depths": "0,5",
}  # fmt: skip


def safedepth(*words: object) -> int:
    """The command line in this process; returns the exit status."""
    before = sys.argv
    sys.argv = ["safedepth", *map(str, words)]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = before
    return 0


def deepen_words(testbed: Testbed, out: Path, **changed: Any) -> list[str]:
    """Arguments of a small `deepen` of the aligned organism; None leaves an option out."""
    options: dict[str, Any] = {
        "triplets": testbed.file("triplets.jsonl"), "anchors": testbed.file("anchors.jsonl"),
        "prompts": testbed.prompts, **SMALL, "output_dir": out, **changed,
    }  # fmt: skip
    model = options.pop("model", testbed.organism("aligned"))
    return ["deepen", str(model), *words_of(options)]


def words_of(options: dict[str, Any]) -> list[str]:
    """Options as a command line has them: a list several words, True alone the option without a value."""
    words: list[str] = []
    for name, value in options.items():
        if value is None:
            continue
        words.append(f"--{name}")
        if isinstance(value, list | tuple):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return words


def begun(
    words: Sequence[str], *, program: Sequence[str] = (sys.executable, "-m", "safedepth")
) -> subprocess.Popen[str]:
    """The command line in a process of its own, which Ctrl-C reaches."""
    return subprocess.Popen(
        [*program, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        # Whoever runs the tests may ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def jsonl(path: Path, rows: Iterable[object]) -> Path:
    """A file with one JSON value a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What a file of JSON lines holds."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def few(
    testbed: Testbed, name: str, out: Path, count: int, change: Callable[[int, Any], Any] | None = None
) -> Path:
    """The first rows of one of the testbed's files as a file of their own, each as `change` makes it."""
    rows = rows_of(testbed.file(f"{name}.jsonl"))[:count]
    out.mkdir(exist_ok=True)
    return jsonl(out / f"{name}.jsonl", rows if change is None else map(change, range(count), rows))


def summary_of(out: Path) -> dict[str, Any]:
    """The summary of a finished `deepen`; numbers JSON does not know are an error."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in summary.json")

    text = (out / "report" / "summary.json").read_text(encoding="utf-8")
    return dict(json.loads(text, parse_constant=refuse))


def paired(
    summary: dict[str, Any], model: str, what: str, measure: str = "harmful replies"
) -> dict[str, Any]:
    """One entry of the paired differences."""
    (entry,) = [
        entry
        for entry in summary["deepening"]["paired"]
        if (entry["model"], entry["what"], entry["measure"]) == (model, what, measure)
    ]
    return dict(entry)
