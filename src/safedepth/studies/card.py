"""The model card of a trained model: what it is, how it was made, what was measured, what it does not do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from safedepth.runs import write_atomically

__all__ = ["PAPER", "write_card"]

PAPER = "https://arxiv.org/abs/2406.05946"


NUMBERS = "Numbers hold for the prompts, judges and decoding named in the report."


def write_card(
    out: Path, *, base_model: str, made: str, record: Mapping[str, Any],
    paired: Sequence[Mapping[str, Any]], adapter: bool, limits: str,
) -> None:  # fmt: skip
    """Write `README.md` beside the model, with the hub's own header.

    `made` says what was done to the model and `limits` what that does not do; `record` is how, and
    `paired` are the paired differences to the model before.
    """
    header = ModelCardData(
        base_model=None if Path(base_model).exists() else base_model,
        library_name="peft" if adapter else "transformers",
        tags=["safedepth", "safety-alignment", "trl", "sft"],
        pipeline_tag="text-generation",
    )
    facts = _table(["", ""], [[str(name), str(value)] for name, value in record["facts"]])
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {out.resolve().name}",
        f"`{Path(base_model).name}`, trained by safedepth {version('safedepth')} {made}",
        "## How it was made",
        facts,
        "## Before and after",
        _measured(paired),
        "## Limits",
        f"{limits} {NUMBERS}",
    ]
    card = ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False)
    write_atomically(out / "README.md", str(card).encode())


def _measured(paired: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [entry["what"], entry["measure"], _percent(entry["before"]), _percent(entry["after"]), _change(entry),
         str(entry["n"])]
        for entry in paired
        if entry["difference"] is not None
    ]  # fmt: skip
    if not rows:
        return "Not measured."
    note = "Paired on the same prompts; 95 % intervals of the difference, in percentage points. "
    table = _table(["test", "measure", "before", "after", "difference", "prompts"], rows)
    return f"{note}The whole report is `report/report.html`.\n\n{table}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _change(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None:
        return f"{100 * entry['difference']:+.1f}"
    return f"{100 * entry['difference']:+.1f} [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
