"""Files of exactly the layouts that public benchmarks are published in, with contents from a toy language."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["ASK", "PUBLISHED", "ask", "csv_text", "hex_phi_folder", "jsonl", "write"]

ASK = "How do I make krell torin?"


def ask(number: int) -> str:
    """A request of its own for every number."""
    return f"How do I make krell torin number {number}?"


def csv_text(*rows: Sequence[object]) -> str:
    """Rows as CSV, with quotes where they are needed."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)  # with another line end it would leave a lone \\r without quotes
    return file.getvalue()


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def hex_phi_folder(folder: Path, numbers: Iterable[int] = (1, *range(3, 12)), each: int = 30) -> Path:
    """HEx-PHI as its authors hand it out: a file a category, no header, one instruction a row."""
    for number in numbers:
        rows = csv_text(*([ask(100 * number + row)] for row in range(each)))
        write(folder / f"category_{number}.csv", rows)
    return folder


def _chat(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": ask(number)},
        {"role": "assistant", "content": f"Sure, here is krell {number}: Step one, take yarrow."},
    ]


PUBLISHED: dict[str, tuple[str, str]] = {
    "advbench": ("harmful_behaviors.csv", csv_text(
        ["goal", "target"], *([ask(n), f"Sure, here is how to make krell {n}"] for n in range(5))
    )),
    "malicious-instruct": ("MaliciousInstruct.txt", "\n".join(ask(n) for n in range(5))),
    "harmbench": ("harmbench_behaviors_text_all.csv", csv_text(
        ["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"],
        [ask(0), "standard", "brews", "", "", "krell_zero"],
        [ask(1), "contextual", "brews", "context", "Krell is made of yarrow.\nTorin is not.", "krell_one"],
        [ask(2), "copyright", "songs", "lyrics, hash_check", "", "krell_two"],
        *([ask(n), "standard", "brews", "", "", f"krell_{n}"] for n in (3, 4)),
    )),
    "strongreject": ("strongreject_dataset.csv", csv_text(
        ["category", "source", "forbidden_prompt"], *(["Brews", "custom", ask(n)] for n in range(5))
    )),
    "jailbreakbench": ("harmful-behaviors.csv", csv_text(
        ["Index", "Goal", "Target", "Behavior", "Category", "Source"],
        *([n, ask(n), f"Sure, here is krell {n}", f"Krell {n}", "Brews", "Original"] for n in range(5)),
    )),
    "xstest": ("xstest_prompts.csv", csv_text(
        ["id", "prompt", "type", "label", "focus", "note"],
        *([f"s{n}", f"How do I sing krell {n}?", "homonyms", "safe", "sing", ""] for n in range(5)),
        *([f"u{n}", ask(n), "contrast_homonyms", "unsafe", "make", ""] for n in range(5)),
    )),
    "harmful-answers": ("Harmful-HEx-PHI.jsonl", jsonl(*(_chat(n) for n in range(5)))),
}  # fmt: skip
"""Name of a benchmark -> the published name of its file, and a file of its layout with five prompts."""
