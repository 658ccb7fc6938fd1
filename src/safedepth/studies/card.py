"""The model card of a trained model: what it is, how it was made, what was measured, what it does not do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from safedepth.runs import write_atomically

__all__ = ["write_card"]

LIMITS = (
    "Recovery training closes the attacks it was measured against. Suffixes found by search, picking "
    "low-ranked tokens while decoding, and fine-tuning may still break this model; whoever has its weights "
    "can train its safety away again. Numbers hold for the prompts, judges and decoding named in the report."
)
PAPER = "https://arxiv.org/abs/2406.05946"


def write_card(
    out: Path, *, base_model: str, record: Mapping[str, Any], summary: Mapping[str, Any], adapter: bool
) -> None:
    """Write `README.md` beside the model, with the hub's own header."""
    header = ModelCardData(
        base_model=None if Path(base_model).exists() else base_model,
        library_name="peft" if adapter else "transformers",
        tags=["safedepth", "safety-alignment", "trl", "sft"],
        pipeline_tag="text-generation",
    )
    made = _table(["", ""], [[str(name), str(value)] for name, value in record["facts"]])
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {out.resolve().name}",
        f"`{Path(base_model).name}`, trained by safedepth {version('safedepth')} to turn back in the middle "
        f"of a harmful answer (safety-recovery augmentation, [Qi et al., ICLR 2025]({PAPER}), section 4.1).",
        "## How it was made",
        made,
        "## Before and after",
        _measured(summary.get("deepening") or {}),
        "## Limits",
        LIMITS,
    ]
    card = ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False)
    write_atomically(out / "README.md", str(card).encode())


def _measured(block: Mapping[str, Any]) -> str:
    rows = [
        [entry["what"], entry["measure"], _percent(entry["before"]), _percent(entry["after"]), _change(entry),
         str(entry["n"])]
        for entry in block.get("paired") or ()
        if entry["model"] == "deepened" and entry["difference"] is not None
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
